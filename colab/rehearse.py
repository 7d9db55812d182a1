"""The dress rehearsal: the notebooks as Colab runs them, in a Python with Colab's packages.

`make rehearse-colab` sets that Python up and runs this with it, on what is committed.
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

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = Path(__file__).with_name("stand_in")
WIDGET = "application/vnd.jupyter.widget-view+json"


def packages() -> dict[str, str]:
    """What this Python has installed: name and version."""
    return {found.name: found.version for found in importlib.metadata.distributions()}


def restore(colabs: dict[str, str]) -> None:
    """Take away what notebooks installed; SystemExit where they replaced something of Colab's."""
    now = packages()
    if added := sorted(set(now) - set(colabs)):
        command = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", *added]
        subprocess.run([*command, "--root-user-action=ignore"], check=True)
    replaced = [f"{n} {v} by {now.get(n)}" for n, v in colabs.items() if now.get(n) != v]
    if replaced:
        raise SystemExit(f"Colab's packages were replaced: {', '.join(replaced)}")


def environment() -> None:
    """Let kernels find the stand-in, take a short look at the digits, and clone from this disk."""
    repository = re.search(r'Repository = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    os.environ |= {
        "PROFILE": "smoke", "DATASET": "digits", "PYTHONPATH": str(STAND_IN),
        "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PIP_CONFIG_FILE": os.devnull,  # what this machine's pip is told is not known in Colab
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": repository,
        "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*",
    }  # fmt: skip
    for name in ("SEED", "RESUME", "REUSE", "MPLBACKEND"):
        os.environ.pop(name, None)


def execute(client: NotebookClient) -> None:
    """Execute every cell in the running kernel; SystemExit for what a student would ask about."""
    for index, cell in enumerate(client.nb.cells):
        if cell.cell_type != "code":
            continue
        client.execute_cell(cell, index)
        for output in cell.outputs:
            said = output.get("text", "").strip()
            if output.get("name") == "stderr" or re.search(r"warning|deprecat", said, re.I):
                raise SystemExit(f"Cell {index} says: {said}")
            if WIDGET in output.get("data", {}):
                raise SystemExit(f"Cell {index} shows a widget: GitHub would not show the notebook")


def rehearse(name: str, content: Path) -> None:
    """Execute a notebook in an empty folder: twice in one kernel, then in a new one with Drive."""
    show = ["git", "-C", str(ROOT), "show", f"HEAD:notebooks/{name}.ipynb"]
    stored = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    (content / f"{name}.ipynb").write_text(stored)
    for setting, ways in (("False", ("first", "again, same kernel")), ("True", ("with Drive",))):
        notebook = nbformat.reads(stored, as_version=4)
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": content}})
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert "KEEP_ON_DRIVE = False" in first.source
        first.source = first.source.replace("KEEP_ON_DRIVE = False", f"KEEP_ON_DRIVE = {setting}")
        with client.setup_kernel():
            for way in ways:
                started = time.monotonic()
                execute(client)
                (content / "downloads" / f"{name}.zip").unlink()
                print(f"{name}, {way}: {time.monotonic() - started:.0f} s", flush=True)
                if way == "first":
                    print("".join(output.text for output in first.outputs), end="", flush=True)
    kept = content / "drive" / "MyDrive" / "cifar10-notebooks"
    assert list(kept.glob(f"results/_smoke-digits/{name}/*/metrics.json")), "no results in Drive"
    assert list(kept.glob(f"checkpoints/smoke-digits/{name}/*/*.pt")), "no checkpoints in Drive"


def main() -> None:
    """Rehearse the notebooks that are named, or all."""
    known = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", choices=[*known, []], help="as in S7; or all")
    names = parser.parse_args().notebooks or known
    changed = ["git", "-C", str(ROOT), "status", "--porcelain"]
    if subprocess.run(changed, check=True, capture_output=True).stdout:
        print("There are changes that are not committed: they are not rehearsed.")
    fresh = Path(sys.prefix) / "colab.json"  # written before the first notebook installs anything
    if not fresh.exists():
        fresh.write_text(json.dumps(packages()))
    colabs = json.loads(fresh.read_text())
    environment()
    restore(colabs)
    for name in names:
        with tempfile.TemporaryDirectory() as content:
            rehearse(name, Path(content))
        restore(colabs)
    print("Everything ran as in Colab, and nothing of Colab's was replaced.")


if __name__ == "__main__":
    main()
