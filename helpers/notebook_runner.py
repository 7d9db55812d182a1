"""Run notebooks from top to bottom with papermill."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill

from helpers.config import ROOT, Settings

HEARTBEAT_SECONDS = 20  # the longest time without a line of output


def notebook_names() -> list[str]:
    """Return the names of the notebooks, without `.ipynb`."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(name: str, settings: Settings) -> Path:
    """Run a notebook from top to bottom and print the output of its cells.

    Only a full run on CIFAR-10 replaces `notebooks/NAME.ipynb`, and only if no cell fails. Every
    other executed notebook is saved in the folder of its results.

    Args:
        name: The name of the notebook, for example "S7".
        settings: The settings that the notebook reads from the environment.

    Returns:
        The folder of results.

    Raises:
        ChildProcessError: If a cell fails. The message names the notebook as far as it was run.
    """
    os.environ["PROFILE"] = settings.profile.name
    os.environ["DATASET"] = settings.dataset
    if settings.profile.seconds:
        os.environ["QUICK_SECONDS"] = str(settings.profile.seconds)
    source = ROOT / "notebooks" / f"{name}.ipynb"
    executed = ROOT / "results" / "_running" / f"{name}.ipynb"
    results_dir = settings.results_dir(settings.dataset)
    executed.parent.mkdir(parents=True, exist_ok=True)
    results_dir.mkdir(parents=True, exist_ok=True)

    _execute(source, executed)
    _remove_run_metadata(executed)
    executed.replace(source if settings.is_full else results_dir / source.name)
    return results_dir


def _execute(source: Path, executed: Path) -> None:
    """Run a notebook in the folder it is in, and print what its cells print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with _heartbeat():
            papermill.execute_notebook(
                source,
                executed,
                kernel_name="python3",
                cwd=source.parent,
                log_output=True,
                record_timing=False,
                coalesce_streams=True,
                progress_bar=False,
            )
    except papermill.PapermillExecutionError as error:
        print(error)
        raise ChildProcessError(
            f"a cell failed: {error.ename}: {error.evalue}; as far as it was run: {executed}"
        ) from None


def _remove_run_metadata(notebook: Path) -> None:
    """Remove the metadata that change with every run."""
    content = nbformat.read(notebook, as_version=4)
    for metadata in [content.metadata, *(cell.metadata for cell in content.cells)]:
        metadata.pop("papermill", None)
        metadata.pop("execution", None)
    nbformat.write(content, notebook)


@contextlib.contextmanager
def _heartbeat() -> Iterator[None]:
    """Print a line whenever papermill logs nothing for HEARTBEAT_SECONDS."""
    logger = logging.getLogger("papermill")
    output_seen = threading.Event()
    finished = threading.Event()

    def note_output(_: logging.LogRecord) -> bool:
        output_seen.set()
        return True

    def print_heartbeat() -> None:
        while not finished.is_set():
            if not output_seen.wait(HEARTBEAT_SECONDS):
                print(f"still running at {time.strftime('%H:%M:%S')}", flush=True)
            output_seen.clear()

    logger.addFilter(note_output)
    threading.Thread(target=print_heartbeat, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        output_seen.set()  # wakes the thread, so that it ends
        logger.removeFilter(note_output)
