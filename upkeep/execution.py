"""Executing notebooks from top to bottom, with signs of life."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill

from helpers.settings import FULL, ROOT, Settings

SILENCE_SECONDS = 20  # after which a line says that a notebook is still running


def names() -> list[str]:
    """The names of the notebooks."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def execute(name: str, settings: Settings) -> Path:
    """Run a notebook from top to bottom, showing its progress; return the folder of its results.

    A line says that it is still running wherever its cells print nothing for SILENCE_SECONDS. Only
    a full run on CIFAR-10 replaces `notebooks/name.ipynb`, and only if it ended well; every other
    executed copy lies in that folder. Raises ChildProcessError where a cell fails.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ |= {"PROFILE": settings.profile.name, "DATASET": settings.dataset}
    if settings.profile.seconds:
        os.environ["QUICK_SECONDS"] = str(settings.profile.seconds)
    source, folder = ROOT / "notebooks" / f"{name}.ipynb", settings.results(settings.dataset)
    executed = ROOT / "results" / "_running" / f"{name}.ipynb"
    for place in (folder, executed.parent):
        place.mkdir(parents=True, exist_ok=True)
    options = {"kernel_name": "python3", "cwd": source.parent, "log_output": True}
    options |= {"record_timing": False, "coalesce_streams": True, "progress_bar": False}
    heard, over = threading.Event(), threading.Event()
    logging.getLogger("papermill").filters = [lambda _: heard.set() or True]
    threading.Thread(target=_watch, args=(heard, over), daemon=True).start()
    try:
        papermill.execute_notebook(source, executed, **options)
    except papermill.PapermillExecutionError as error:
        print(error)
        why = f"{error.ename}: {error.evalue}; as far as it came: {executed}"
        raise ChildProcessError(f"a cell failed: {why}") from None
    finally:
        over.set()
        heard.set()
    content = nbformat.read(executed, as_version=4)
    for part in (content, *content.cells):  # what differs from run to run for no reason
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    nbformat.write(content, executed)
    executed.replace(source if settings.profile is FULL else folder / source.name)
    return folder


def _watch(heard: threading.Event, over: threading.Event) -> None:
    while not over.is_set():
        if not heard.wait(SILENCE_SECONDS):
            print(f"still running at {time.strftime('%H:%M:%S')}", flush=True)
        heard.clear()
