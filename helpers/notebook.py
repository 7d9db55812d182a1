"""What the notebooks need around the lesson: set-up, figures as files, downloads.

Nothing heavy is imported before `set_up` has made sure, in Colab, that it is there.
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
import warnings
from collections.abc import Callable
from pathlib import Path

import PIL.Image
from IPython import get_ipython
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, Image, Markdown
from matplotlib.figure import Figure
from PIL import ImageOps

from helpers.settings import FULL, ROOT, Settings

IN_COLAB = "google.colab" in sys.modules
# What Colab lacks. It is installed without dependencies, so that nothing Colab brings is replaced;
# hence ttach, which grad-cam needs.
NOT_IN_COLAB = ("grad-cam", "pooch", "torch-lr-finder", "torchinfo", "torchsummary", "ttach")
DRIVE = Path("/content/drive")  # where Colab's own button mounts it too


def set_up(
    profile: str = "auto", dataset: str = "auto", on_drive: bool = False, reuse: bool = False
) -> Settings:
    """Prepare a notebook; print versions, device, choices and what is ahead; any number of times.

    In Colab it installs what is missing and, with `on_drive`, keeps results and checkpoints in
    Google Drive. Raises ValueError for a profile or data set that is not known.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")  # no widgets are wanted
    # Albumentations only warns of an argument that it does not know, then drops it.
    warnings.filterwarnings("error", message=r"Argument\(s\)")
    if shell := get_ipython():
        shell.set_custom_exc((OSError, FloatingPointError, KeyboardInterrupt), _without_traceback)
    home = ROOT
    if IN_COLAB:
        _install_missing()
        if on_drive:
            from google.colab import drive

            drive.mount(str(DRIVE))
            home = DRIVE / "MyDrive" / ROOT.name
    settings = Settings.from_environment(profile, dataset, home, reuse)

    import pandas as pd

    from helpers import devices

    pd.options.display.max_colwidth = None  # else what a table says is cut off
    device = devices.accelerator().device
    print("  ".join(f"{name} {version}" for name, version in devices.versions().items()))
    precision = devices.precision(device).replace("no", "float32")
    print(f"device: {devices.describe(device)}  precision: {precision}")
    if device.type == "cpu":
        print("No GPU here. In Colab: Runtime > Change runtime type > T4 GPU. The CPU works too.")
    print(f"profile: {settings.profile.name}  data: {settings.dataset}  seed: {settings.seed}")
    amount = "all images, all epochs" if settings.profile is FULL else "some images, two epochs"
    ahead = f"Training takes {amount}; after its first steps it says how long that is here."
    print("The runs kept in results/ take the place of training." if settings.reuse else ahead)
    return settings


def _without_traceback(shell: InteractiveShell, *_: object, tb_offset: int | None) -> None:
    shell.showtraceback(exception_only=True)  # of what no look at the code explains


def _install_missing() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    missing = {*NOT_IN_COLAB} - {found.name for found in importlib.metadata.distributions()}
    pinned = [re.search(rf"^{name}==\S+", lock, re.MULTILINE)[0] for name in sorted(missing)]
    if pinned:
        quietly = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        command = [sys.executable, "-m", "pip", "install", "--no-deps", *quietly, *pinned]
        subprocess.run(command, check=True)


def show(figure: Figure, path: Path) -> Image:
    """Write a figure as a PNG file and return it for the notebook to show, the same picture."""
    from helpers.files import write

    picture = io.BytesIO()
    figure.savefig(picture, format="png", pil_kwargs={"optimize": True})
    write(path, picture.getvalue())
    return Image(picture.getvalue())


def listing(*parts: Callable | type) -> Markdown:
    """The source of functions and classes as highlighted code."""
    sources = (textwrap.dedent(inspect.getsource(part)).strip() for part in parts)
    return Markdown("```python\n" + "\n\n\n".join(sources) + "\n```")


def folded(headline: str, text: str) -> HTML:
    """A long text under a line that opens and closes it."""
    return HTML(f"<details><summary>{headline}</summary><pre>{html.escape(text)}</pre></details>")


def picture(path: str = "") -> PIL.Image.Image:
    """The middle square of a picture from a file, upright; without one, a photograph of a flower.

    It ships with scikit-learn. Raises OSError where the file is not there or no image.
    """
    flower = importlib.resources.files("sklearn.datasets.images") / "flower.jpg"
    image = ImageOps.exif_transpose(PIL.Image.open(path or flower)).convert("RGB")
    return ImageOps.fit(image, [min(image.size)] * 2)


def download(settings: Settings, dataset: str, notebook: str) -> None:
    """Say where the notebook's files lie; in Colab, also download them as a zip file."""
    folder = settings.results(dataset) / notebook
    print(f"The files are in {os.path.relpath(folder, settings.home)}")
    if IN_COLAB:
        from google.colab import files

        files.download(shutil.make_archive(str(ROOT / notebook), "zip", folder))
