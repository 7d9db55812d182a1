"""Run the notebooks like Colab: with its Python, its packages and an imitation of its module.

`make rehearse-colab` creates that Python and starts this script with it. The notebooks and the
project are those of the last commit.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).with_name("fakes")
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 900  # seconds
DRIVE_OPTION = "KEEP_ON_DRIVE = {}  # @param"
# These variables would change what the notebooks do or show.
UNSET_VARIABLES = ("SEED", "RESUME", "REUSE", "MPLBACKEND")


def installed_packages() -> dict[str, str]:
    """Return the version of each package that this Python has."""
    return {package.name: package.version for package in importlib.metadata.distributions()}


def restore_packages(colab_packages: dict[str, str]) -> None:
    """Uninstall the packages that notebooks have installed.

    Args:
        colab_packages: The version of each package that Colab provides.

    Raises:
        SystemExit: If a notebook has replaced one of Colab's packages.
    """
    installed = installed_packages()
    added = sorted(set(installed) - set(colab_packages))
    if added:
        command = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", *added]
        subprocess.run([*command, "--root-user-action=ignore"], check=True)
    replaced = [
        f"{name} {version} by {installed.get(name)}"
        for name, version in colab_packages.items()
        if installed.get(name) != version
    ]
    if replaced:
        raise SystemExit(f"Colab's packages were replaced: {', '.join(replaced)}")


def read_colab_packages() -> dict[str, str]:
    """Return Colab's packages, recorded before the first notebook installs others."""
    record = Path(sys.prefix) / "colab.json"
    if not record.exists():
        record.write_text(json.dumps(installed_packages()), encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))


def set_environment() -> None:
    """Set the variables for kernels: the imitation, a short run, and a clone from this disk."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address = re.search(r'^Repository = "(.*)"', pyproject, re.MULTILINE)[1]
    os.environ.update(
        {
            "PROFILE": "smoke",
            "DATASET": "sample",
            "PYTHONPATH": str(FAKES),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PIP_CONFIG_FILE": os.devnull,  # Colab does not have this machine's configuration
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": address,
            "GIT_CONFIG_KEY_1": "safe.directory",
            "GIT_CONFIG_VALUE_1": "*",
        }
    )
    for name in UNSET_VARIABLES:
        os.environ.pop(name, None)


def execute_cells(client: NotebookClient) -> None:
    """Execute every cell in the running kernel.

    Args:
        client: The notebook and its kernel.

    Raises:
        SystemExit: If a cell shows a warning or a widget.
    """
    for index, cell in enumerate(client.nb.cells):
        if cell.cell_type != "code":
            continue
        client.execute_cell(cell, index)
        for output in cell.outputs:
            text = output.get("text", "").strip()
            if output.get("name") == "stderr" or re.search(r"warning|deprecat", text, re.I):
                raise SystemExit(f"Cell {index} prints: {text}")
            if WIDGET in output.get("data", {}):
                raise SystemExit(f"Cell {index} shows a widget, which GitHub does not display")


def rehearse(name: str, content: Path) -> None:
    """Execute a notebook twice in one kernel, then in a new kernel with Google Drive.

    Args:
        name: The notebook, for example "S7".
        content: An empty folder, in place of Colab's /content.

    Raises:
        SystemExit: If something went wrong.
    """
    show = ["git", "-C", str(ROOT), "show", f"HEAD:notebooks/{name}.ipynb"]
    stored = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    os.environ["FAKE_COLAB_CONTENT"] = str(content)
    for on_drive, passes in (
        (False, ("first run", "second run in the same kernel")),
        (True, ("with Drive",)),
    ):
        notebook = nbformat.reads(stored, as_version=4)
        setup_cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if DRIVE_OPTION.format(False) not in setup_cell.source:
            raise SystemExit(f"{name}: the first cell has no line {DRIVE_OPTION.format(False)}")
        setup_cell.source = setup_cell.source.replace(
            DRIVE_OPTION.format(False), DRIVE_OPTION.format(on_drive)
        )
        client = NotebookClient(
            notebook, timeout=CELL_TIMEOUT, resources={"metadata": {"path": str(content)}}
        )
        with client.setup_kernel():
            for title in passes:
                start = time.monotonic()
                execute_cells(client)
                [archive] = (content / "downloads").glob("*.zip")
                archive.unlink()
                print(f"{name}, {title}: {time.monotonic() - start:.0f} s", flush=True)
                if title == "first run":
                    text = "".join(output.get("text", "") for output in setup_cell.outputs)
                    print(text, end="", flush=True)
    drive = content / "drive" / "MyDrive" / "cifar10-notebooks"
    for pattern in (
        "results/_smoke-sample*/*/*/metrics.json",
        "checkpoints/smoke-sample*/*/*/*.pt",
    ):
        if not list(drive.glob(pattern)):
            raise SystemExit(f"{name}: there is no {pattern} in Drive")


def main() -> None:
    """Rehearse the notebooks of the command line, or all."""
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "notebooks", nargs="*", choices=[*notebooks, []], help="for example S7; default: all"
    )
    names = parser.parse_args().notebooks or notebooks
    status = ["git", "-C", str(ROOT), "status", "--porcelain"]
    if subprocess.run(status, check=True, capture_output=True).stdout:
        print("Uncommitted changes are not part of the rehearsal.")
    colab_packages = read_colab_packages()
    set_environment()
    restore_packages(colab_packages)
    for name in names:
        with tempfile.TemporaryDirectory() as content:
            rehearse(name, Path(content))
        restore_packages(colab_packages)
    print("Everything ran as in Colab, and none of Colab's packages was replaced.")


if __name__ == "__main__":
    main()
