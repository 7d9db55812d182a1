"""Run notebooks from top to bottom with papermill, and show what they train."""

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill

from helpers.config import ROOT, Settings
from helpers.files import atomic_write

HEARTBEAT_SECONDS = 10  # the longest time without a line of output
ORDER = ("S7", "S9", "S10", "ResNet18_GradCAM")
# The lines of a notebook's output that a person watches: training, and messages about the data.
SHOWN_LINES = re.compile(
    r"(epoch +\d+/|about \d|Continuing|Nothing left|Changed since|REUSE=1|CIFAR-10 cannot"
    r"|Using the sample|To use all|Downloading|A short run|.*, this \w+ run: )"
)

# The address of a picture in `results/`: relative or, in a published copy, absolute.
PICTURE = re.compile(r"\]\((\.\./|https://github\.com/[^/]+/[^/]+/raw/main/)results/")


def notebook_names() -> list[str]:
    """Return the names of the notebooks without `.ipynb`, in the order in which they are read.

    The four lessons come first, then others such as the playground.
    """
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def run_notebook(name: str, settings: Settings) -> Path:
    """Run a notebook from top to bottom. Print its headings and what it trains.

    Only a full run on CIFAR-10 replaces `notebooks/NAME.ipynb`, and only if no cell fails. Every
    other executed notebook is saved in the folder of its results, with its HTML page. The page of a
    full run, and papermill's log of any run, are in `results/_running/`.

    Args:
        name: The name of the notebook, for example "S7".
        settings: The settings that the notebook reads from the environment.

    Returns:
        The HTML page.

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
    page = (results_dir if not settings.is_full else executed.parent) / f"{name}.html"
    atomic_write(page, _to_html(executed))
    executed.replace(source if settings.is_full else results_dir / source.name)
    return page


def _execute(source: Path, executed: Path) -> None:
    """Run a notebook in the folder it is in."""
    log_file = executed.with_suffix(".log")
    try:
        with _follow(source, log_file):
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
            f"a cell failed: {error.ename}: {error.evalue}; "
            f"as far as it was run: {executed}; its output: {log_file}"
        ) from None


def _to_html(notebook: Path) -> str:
    """Return a notebook as an HTML page that needs no other file."""
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        # nbconvert embeds only pictures below the folder that it is given.
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub("](results/", cell.source)
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(
        content, resources={"metadata": {"name": notebook.stem, "path": str(ROOT)}}
    )
    return html


class _Follower(logging.Handler):
    """Print a notebook's headings with the time, and the lines that match SHOWN_LINES."""

    def __init__(self, source: Path) -> None:
        super().__init__(logging.INFO)
        self.name_of_notebook = source.stem
        self.start = time.monotonic()
        self.printed = threading.Event()
        self.headings = []  # of each cell
        heading = ""
        for cell in nbformat.read(source, as_version=4).cells:
            if cell.cell_type == "markdown" and (
                found := re.findall(r"^## (.+)", cell.source, re.M)
            ):
                heading = found[-1]
            self.headings.append(heading)
        self.heading = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a person watches of a record of papermill's log."""
        message = record.getMessage()
        if cell := re.match(r"Executing Cell (\d+)", message):
            heading = self.headings[int(cell[1]) - 1]
            if heading and heading != self.heading:
                self.print(f"{self.name_of_notebook} > {heading}   {self.elapsed()}")
            self.heading = heading
        for line in message.splitlines():
            if SHOWN_LINES.match(line):
                self.print(f"  {line}")

    def print(self, line: str) -> None:
        """Print a line and note that something was printed."""
        print(line, flush=True)
        self.printed.set()

    def elapsed(self) -> str:
        """Return the time since the start as minutes:seconds."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        return f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def _follow(source: Path, log_file: Path) -> Iterator[None]:
    """Write papermill's log to a file and print its headings and training lines.

    If nothing is printed for HEARTBEAT_SECONDS, print that the notebook is still running.
    """
    follower = _Follower(source)
    finished = threading.Event()

    def print_heartbeat() -> None:
        while not finished.is_set():
            if not follower.printed.wait(HEARTBEAT_SECONDS):
                print(f"  still running   {follower.elapsed()}", flush=True)
            follower.printed.clear()

    logger = logging.getLogger("papermill")
    to_file = logging.FileHandler(log_file, mode="w", encoding="utf-8")
    to_file.handleError = lambda record: None  # a full disk stops the notebook with its own error
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(follower)
    logger.addHandler(to_file)
    threading.Thread(target=print_heartbeat, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        follower.printed.set()  # wakes the thread, so that it ends
        logger.removeHandler(follower)
        logger.removeHandler(to_file)
        to_file.close()
        logger.setLevel(level)
        logger.propagate = propagate


def _remove_run_metadata(notebook: Path) -> None:
    """Remove the metadata that change with every run."""
    content = nbformat.read(notebook, as_version=4)
    for metadata in [content.metadata, *(cell.metadata for cell in content.cells)]:
        metadata.pop("papermill", None)
        metadata.pop("execution", None)
    nbformat.write(content, notebook)
