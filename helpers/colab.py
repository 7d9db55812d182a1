"""Helpers for notebooks: set-up, figures as files, source code, images and downloads.

This module imports only packages that Colab has. In Colab, `setup` installs the others.
"""

import html
import importlib.metadata
import importlib.resources
import inspect
import io
import os
import re
import shutil
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

try:
    import numpy as np
    import pandas as pd
    import PIL.Image
    from IPython import get_ipython
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import HTML, Image, Markdown
    from matplotlib import style
    from matplotlib.figure import Figure
    from PIL import ImageOps

    from helpers.config import ROOT, Settings
    from helpers.data import ImageData
    from helpers.files import atomic_write
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This notebook runs in {sys.executable}, which has no {error.name}.\n"
        "Choose the kernel of this project's .venv (see the README), or run `make lab`."
    ) from None

IN_COLAB = "google.colab" in sys.modules
# The packages that Colab lacks. They are installed without their dependencies, so that pip replaces
# none of Colab's packages. grad-cam needs ttach, so ttach is in the list.
NOT_IN_COLAB = ("grad-cam", "torch-lr-finder", "torchinfo", "torchsummary", "ttach")
DRIVE = Path("/content/drive")  # the folder that Colab's "Mount Drive" button uses


def setup(profile: str = "auto", keep_on_drive: bool = False, reuse: bool = False) -> Settings:
    """Prepare a notebook and print versions, device and settings. May be called repeatedly.

    In Colab, this installs missing packages. The data set comes from the environment variable
    DATASET only.

    Args:
        profile: "auto", "full", "quick" or "smoke".
        keep_on_drive: In Colab, write results and checkpoints to Google Drive.
        reuse: Load the saved runs instead of training.

    Returns:
        The settings.

    Raises:
        ValueError: If the profile or an environment variable has a value that is not allowed.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")  # no widgets are needed
    warnings.filterwarnings("ignore", message="Using `tqdm.autonotebook.tqdm`")
    # Albumentations only warns about an unknown argument, then ignores it.
    warnings.filterwarnings("error", message=r"Argument\(s\)")
    if shell := get_ipython():
        shell.set_custom_exc((Exception, KeyboardInterrupt), _show_error)
    output_dir = ROOT
    if IN_COLAB:
        _install_missing()
        if keep_on_drive:
            from google.colab import drive

            drive.mount(str(DRIVE))
            output_dir = DRIVE / "MyDrive" / ROOT.name
    settings = Settings.from_env(profile, output_dir=output_dir, reuse=reuse)
    if shell and shell.user_ns.get("settings", settings) != settings:
        print("The settings have changed: run the cells below again.")
    pd.options.display.max_colwidth = None  # show the whole text of a table's cells
    _print_environment()
    _print_settings(settings)
    return settings


def _show_error(
    shell: InteractiveShell,
    error_type: type[BaseException],
    error: BaseException,
    frames: TracebackType,
    tb_offset: int | None = None,
) -> None:
    """Show the lines of the notebook that led to an error, and its message.

    An error that no code explains, such as a full disk, is shown without lines. `%tb` shows
    everything.
    """
    sys.last_type, sys.last_value, sys.last_traceback = error_type, error, frames  # for %tb
    lines = []
    if not isinstance(error, OSError | FloatingPointError | KeyboardInterrupt):
        for frame in traceback.extract_tb(frames):
            if re.search(r"ipykernel_\d+|<ipython-input", frame.filename):  # code of a cell
                lines.append(f"line {frame.lineno} of {frame.name}: {frame.line}")
        lines = [line.replace(" of <module>", " of the cell") for line in lines]
    message = traceback.format_exception_only(error_type, error)
    shell._showtraceback(error_type, error, [*lines, "".join(message).strip()])


def _install_missing() -> None:
    """Install the packages of NOT_IN_COLAB that are missing, in the versions of the lock file."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    missing = sorted(set(NOT_IN_COLAB) - installed)
    pinned = [re.search(rf"^{name}==\S+", lock, re.MULTILINE)[0] for name in missing]
    if pinned:
        options = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        command = [sys.executable, "-m", "pip", "install", "--no-deps", *options, *pinned]
        subprocess.run(command, check=True)


def _print_environment() -> None:
    """Print library versions, device and precision."""
    # Imported here because it imports tqdm, whose warning about widgets `setup` turns off first.
    from helpers import device

    torch_device = device.create_accelerator().device
    print("  ".join(f"{name} {version}" for name, version in device.library_versions().items()))
    precision = device.precision_name(device.mixed_precision(torch_device))
    print(f"device: {device.device_name(torch_device)}  precision: {precision}")
    if torch_device.type == "cpu":
        print("There is no GPU. In Colab: Runtime > Change runtime type > T4 GPU. A CPU works too.")


def _print_settings(settings: Settings) -> None:
    """Print the settings and how much training they mean."""
    print(f"profile: {settings.profile.name}  data: {settings.dataset}  seed: {settings.seed}")
    if settings.reuse:
        print("Saved runs are loaded from results/ instead of training.")
    elif settings.is_full:
        print("Training uses all images and all epochs. After a few steps it prints how long.")
    else:
        print("Training uses some images and two epochs. After a few steps it prints how long.")


def save_and_show(figure: Figure, path: Path) -> Image:
    """Write a figure as a PNG file and return the same picture for the notebook to show.

    The title of the figure becomes the alternative text of the picture.

    Args:
        figure: The figure.
        path: The file. Missing folders are created.

    Returns:
        The picture. A notebook shows it if it is the last expression of a cell.

    Raises:
        OSError: If the file cannot be written.
    """
    buffer = io.BytesIO()
    with style.context("default"):  # some parts are only created when the figure is drawn
        figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
    atomic_write(path, buffer.getvalue())
    # Screen readers and HTML pages read the alternative text from the metadata.
    return Image(buffer.getvalue(), metadata={"alt": figure.get_suptitle()})


def show_source(*objects: Callable | type) -> Markdown:
    """Return the source code of functions and classes, highlighted.

    Args:
        *objects: Functions and classes.

    Returns:
        The code, for the notebook to show.
    """
    sources = (textwrap.dedent(inspect.getsource(item)).strip() for item in objects)
    return Markdown("```python\n" + "\n\n\n".join(sources) + "\n```")


def show_table(table: pd.DataFrame) -> HTML:
    """Return a table whose texts are aligned to the left. Jupyter would align them to the right.

    Args:
        table: The table.

    Returns:
        The table, for the notebook to show.
    """
    # GitHub drops styles and keeps the attribute; JupyterLab's own style takes precedence over it.
    left = r'<\1 align="left" style="text-align: left"'
    return HTML(re.sub(r"<(td|th)\b", left, table.to_html(border=0, justify="left")))


def collapsible(title: str, text: str) -> HTML:
    """Return a long text below a line that opens and closes it.

    Args:
        title: The line.
        text: The text.

    Returns:
        The collapsed text, for the notebook to show.
    """
    summary = f"<summary>{html.escape(title)}</summary>"
    return HTML(f"<details>{summary}<pre>{html.escape(text)}</pre></details>")


def load_image(path: str = "") -> PIL.Image.Image:
    """Load the central square of an image, upright. Transparent parts become white.

    Args:
        path: The file. Without a path, load a photo of a flower that ships with scikit-learn.

    Returns:
        The RGB image.

    Raises:
        OSError: If the file is missing, not an image, too large, or in a format that Pillow cannot
            read.
    """
    if re.match(r"\w+://", path):
        raise OSError(f"{path} is an address: download the picture and give the path of the file")
    flower = importlib.resources.files("sklearn.datasets.images") / "flower.jpg"
    file = Path(path).expanduser() if path else flower
    try:
        with PIL.Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
    except PIL.UnidentifiedImageError:
        raise OSError(f"{file} is not a picture that can be read: save it as PNG or JPEG") from None
    except PIL.Image.DecompressionBombError:
        raise OSError(f"{file} has too many pixels: make it smaller than 1000x1000") from None
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):  # gray with more than 8 bits
        values = np.asarray(image, dtype=np.float64)
        largest = max(values.max(), 1 if image.mode == "F" else 65535)
        image = PIL.Image.fromarray(np.uint8(255 * values.clip(0) / largest))
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image).convert("RGB")
    side = min(image.size)
    return ImageOps.fit(image, (side, side))


def choose_image(path: str = "", upload: bool = False) -> PIL.Image.Image:
    """Load an image from a file or, in Colab, from an upload dialog.

    Args:
        path: The file. Without a path or an upload, load a photo of a flower.
        upload: In Colab, open the upload dialog. If it is canceled, `path` counts.

    Returns:
        The central square of the image, upright, RGB.

    Raises:
        OSError: If the file is missing or not an image.
    """
    if upload and IN_COLAB:
        from google.colab import files

        uploaded = files.upload()
        path = next(iter(uploaded), path)
    return load_image(path)


def download_results(settings: Settings, data: ImageData, notebook: str) -> None:
    """Print the folder with the notebook's files. In Colab, also download it as a zip file.

    Args:
        settings: The settings.
        data: The data.
        notebook: The name of the notebook, for example "S7".
    """
    folder = settings.results_dir(data.key) / notebook
    print(f"The files are in {os.path.relpath(folder, settings.output_dir)}")
    if IN_COLAB:
        from google.colab import files

        files.download(shutil.make_archive(str(ROOT / notebook), "zip", folder))
