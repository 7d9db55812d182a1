"""The tables of all kept runs, written into the READMEs from their metrics.json files."""

import io
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers.figures import plots
from helpers.files import write
from helpers.runs.catalogue import RUNS
from helpers.runs.results import metrics_of
from helpers.settings import ROOT

BEGIN, END = "<!-- results: made by `make report` -->", "<!-- end of results -->"


def kept(results: Path) -> dict[str, dict]:
    """The metrics of every run kept in the folder of results, by its name, "notebook/run"."""
    files = sorted(results.glob("[!_]*/*/metrics.json"))
    folders = {"/".join(file.parts[-3:-1]): file.parent for file in files}
    order = [*RUNS, *folders]  # runs of one's own last
    return {name: metrics_of(folders[name]) for name in sorted(folders, key=order.index)}


def table(runs: dict[str, dict], wide: bool = False) -> str:
    """The runs as a Markdown table, with the columns that fit a page or, if `wide`, with all."""
    return rendered("runs.md.jinja", runs=runs, wide=wide).strip()


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a Markdown table."""
    head = list(next(iter(rows), {}))
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rendered(template: str, **content: object) -> str:
    """A page of the folder `templates/`, filled in."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    text = environment.get_template(template).render(content)
    return re.sub(r"\n{3,}", "\n\n", text)  # what is left out leaves empty lines


def report(root: Path = ROOT) -> None:
    """Write tables and comparison of all runs into results/ and, between two markers, README.md."""
    runs, results = kept(root / "results"), root / "results"
    fill(root / "README.md", BEGIN, END, table(runs))
    notebooks = dict.fromkeys(name.split("/")[0] for name in runs)
    text = rendered("results.md.jinja", table=table(runs, wide=True), notebooks=notebooks)
    write(results / "README.md", text)
    picture = io.BytesIO()
    plots.comparison(list(runs.values())).savefig(picture)
    write(results / "comparison.png", picture.getvalue())


def fill(file: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marking lines of a file; ValueError where they are not there once."""
    content = file.read_text()
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{file.name} needs the lines {begin} and {end}, once each")
    before, _, rest = content.partition(begin)
    write(file, f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
