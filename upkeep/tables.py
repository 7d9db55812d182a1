"""The tables of all kept runs, written into the READMEs from their metrics.json files."""

import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from helpers.figures.plots import BLUE, ORANGE, empty_figure
from helpers.files import reading, write
from helpers.runs.catalogue import RUNS
from helpers.runs.results import metrics_of
from helpers.settings import ROOT

BEGIN, END = "<!-- results: made by `make report` -->", "<!-- end of results -->"


def kept(results: Path) -> dict[str, dict]:
    """The metrics of every run kept in the folder of results, by its name, "notebook/run".

    Raises ValueError, with the file's name, where one is damaged.
    """
    files = sorted(results.glob("[!_]*/*/metrics.json"))
    folders = {"/".join(file.parts[-3:-1]): file.parent for file in files}
    order = [*RUNS, *folders]  # runs of one's own last
    runs = {}
    for name in sorted(folders, key=order.index):
        runs[name] = metrics_of(folders[name])
        with reading(folders[name] / "metrics.json"):  # each alone, so that it can be named
            table({name: runs[name]}, wide=True)
            comparison([runs[name]])
    return runs


def table(runs: dict[str, dict], wide: bool = False) -> str:
    """The runs as a Markdown table, with the columns that fit a page or, if `wide`, with all."""
    return rendered("runs.md.jinja", runs=runs, wide=wide).strip()


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a Markdown table."""
    head = list(next(iter(rows), {}))
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def rendered(template: str, **content: object) -> str:
    """A page of `templates/`, filled in."""
    text = _templates().get_template(template).render(content)
    return re.sub(r"\n{3,}", "\n\n", text)  # what is left out leaves empty lines


def report(root: Path = ROOT) -> None:
    """Write tables and comparison of all runs into results/ and, between two markers, README.md."""
    runs, results = kept(root / "results"), root / "results"
    if not runs:
        raise FileNotFoundError(f"there are no kept runs in {results}: train one in full first")
    fill(root / "README.md", BEGIN, END, table(runs))
    notebooks = dict.fromkeys(name.split("/")[0] for name in runs)
    text = rendered("results.md.jinja", table=table(runs, wide=True), notebooks=notebooks)
    write(results / "README.md", text)
    picture = io.BytesIO()
    comparison(list(runs.values())).savefig(picture)
    write(results / "comparison.png", picture.getvalue())


def comparison(runs: Sequence[dict]) -> Figure:
    """Parameters and test accuracy of runs, given by their metrics, and of the hand-ins.

    A line joins what was published for a network to what it reaches here; bars are the standard
    deviation over seeds.
    """
    table = pd.DataFrame(runs)
    keys = ["params", "test_accuracy_mean", "test_accuracy_std", "published_test_accuracy"]
    params, mean, std, published = table[keys].astype(float).to_numpy().T
    figure, axis = empty_figure(9, 4.6, "Test accuracy by number of parameters")
    axis.vlines(params, published, mean, color="lightgrey", zorder=0)
    axis.plot(params, published, "s", color=ORANGE, label="hand-in, as published")
    axis.errorbar(params, mean, std, fmt="o", color=BLUE, capsize=3, label="trained here")
    for net, of_net in table.groupby("net"):
        place = of_net["params"].max(), of_net["test_accuracy_mean"].max()
        axis.annotate(net, place, (0, 8), textcoords="offset points", ha="center")
    axis.set(xlabel="parameters (log scale)", ylabel="test accuracy (%)", xscale="log")
    axis.margins(0.08, 0.1)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def fill(file: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marking lines of a file; ValueError where they are not there once."""
    content = file.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{file.name} needs the lines {begin} and {end}, once each")
    before, _, rest = content.partition(begin)
    write(file, f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
