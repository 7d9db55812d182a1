"""What the notebooks need around the lesson: set-up, figures as files, execution, downloads.

Nothing heavy is imported before `set_up` has made sure, in Colab, that it is there.
"""

import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from helpers.settings import ROOT, Settings

IN_COLAB = "google.colab" in sys.modules
# What Colab lacks. It is installed without dependencies, so that nothing Colab brings is replaced.
NOT_IN_COLAB = ("torchinfo", "torchsummary", "torch-lr-finder", "ttach", "grad-cam")
PLACEHOLDER = "OWNER/"


def set_up(
    repository: str, profile: str = "auto", dataset: str = "auto", on_drive: bool = False
) -> Settings:
    """Prepare the session and print versions, device and choices; once or many times alike.

    In Colab it installs what is missing and, with `on_drive`, keeps results and checkpoints in
    Google Drive. Raises ValueError for a profile or data set that is not known.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")  # no widgets are wanted
    home = ROOT
    if IN_COLAB:
        _install_missing()
        if on_drive:
            from google.colab import drive

            drive.mount("/content/drive")
            home = Path("/content/drive/MyDrive") / ROOT.name
    if PLACEHOLDER in repository:
        print("REPOSITORY is a placeholder: `make badges REPO=owner/name` sets it everywhere")
    settings = Settings.from_environment(profile, dataset, home)

    import torch

    from helpers import devices
    from helpers.results import versions

    device = devices.accelerator().device
    print("  ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"device: {devices.describe(device)}  precision: {devices.precision(device)}")
    if not torch.cuda.is_available():
        print("No GPU here. In Colab: Runtime > Change runtime type > T4 GPU. The CPU works too.")
    print(f"profile: {settings.profile.name}  data: {settings.dataset}  seed: {settings.seed}")
    return settings


def _install_missing() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    wanted = [name for name in NOT_IN_COLAB if name not in installed]
    pinned = [re.search(rf"^{name}==\S+", lock, re.MULTILINE)[0] for name in wanted]
    if pinned:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *pinned]
        subprocess.run(command, check=True)


def show(figure, path: Path):
    """Write a figure as a PNG file and return it for the notebook to show, the same picture."""
    from IPython.display import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return Image(path)


def download(settings: Settings, dataset: str, notebook: str) -> None:
    """Say where the notebook's files lie; in Colab, also download them as a zip file."""
    folder = settings.results(dataset) / notebook
    print(f"The files are in {os.path.relpath(folder, settings.home)}")
    if IN_COLAB:
        from google.colab import files

        files.download(shutil.make_archive(f"/content/{notebook}", "zip", folder))


def names() -> list[str]:
    """The names of the notebooks."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def execute(name: str, settings: Settings) -> Path:
    """Run a notebook from top to bottom, showing its progress; return where it now lies.

    Only a full run on CIFAR-10 replaces `notebooks/name.ipynb`, and only if it ended well.
    """
    import nbformat
    import papermill

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ |= {"PROFILE": settings.profile.name, "DATASET": settings.dataset}
    source = ROOT / "notebooks" / f"{name}.ipynb"
    scratch = settings.home / "results" / f"_{settings.profile.name}-{settings.dataset}"
    executed = scratch / f"{name}.ipynb"
    scratch.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        source,
        executed,
        kernel_name="python3",
        cwd=source.parent,
        log_output=True,
        progress_bar=False,
    )
    content = nbformat.read(executed, as_version=4)
    _clean(content)
    nbformat.write(content, executed)
    if settings.profile.name == "full":
        return executed.replace(source)
    return executed


def reached(executed: list[Path]) -> str:
    """A table of what the runs of executed notebooks reached, and where everything lies."""
    import pandas as pd

    rows = []
    for path in executed:
        folder = ROOT / "results" if path.parent.name == "notebooks" else path.parent
        for file in sorted((folder / path.stem).glob("*/metrics.json")):
            metrics = json.loads(file.read_text())
            passed = sum(row["passed"] for row in metrics["requirements"])
            rows.append(
                {
                    "notebook": os.path.relpath(path, ROOT),
                    "network": metrics["net"],
                    "data": metrics["dataset"],
                    "epochs": metrics["epochs"],
                    "test accuracy (%)": round(metrics["test_accuracy"], 2),
                    "demands met": f"{passed} of {len(metrics['requirements'])}",
                    "minutes": round(metrics["wall_seconds"] / 60, 1),
                    "files": os.path.relpath(file.parent, ROOT),
                }
            )
    return pd.DataFrame(rows).to_string(index=False)


def _clean(content) -> None:
    """Take out what differs between two runs for no reason, and join what a cell printed."""
    content.metadata.pop("papermill", None)
    content.metadata.language_info = {"name": "python"}
    for cell in content.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        outputs = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else {}
            if output.output_type == "stream" and last.get("name") == output.name:
                last["text"] += output.text
            else:
                outputs.append(output)
        if cell.cell_type == "code":
            cell.outputs = outputs


def rename_repository(repository: str) -> None:
    """Write another repository ("owner/name") into the README, the notebooks and pyproject.toml.

    Raises ValueError where it is not of that form.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not of the form owner/name")
    project = ROOT / "pyproject.toml"
    old = re.search(r"github\.com/([\w.-]+/[\w.-]+)", project.read_text())[1]
    for path in (project, ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")):
        path.write_text(path.read_text().replace(old, repository))
