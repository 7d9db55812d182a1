"""The tables of all kept runs, written into the READMEs from their metrics.json files."""

import io
import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers.figures import plots
from helpers.runs.catalogue import RUNS
from helpers.runs.results import write
from helpers.settings import ROOT

BEGIN, END = "<!-- results: made by `make report` -->", "<!-- end of results -->"
NARROW = (
    "run", "parameters", "receptive field", "epochs", "test accuracy", "published", "training",
)  # fmt: skip


def kept(results: Path) -> dict[str, dict]:
    """The metrics of every run kept in the folder of results, by its name, "notebook/run"."""
    files = {"/".join(f.parts[-3:-1]): f for f in results.glob("[!_]*/*/metrics.json")}
    order = [*RUNS, *sorted(files)]  # runs of one's own last
    return {name: json.loads(files[name].read_text()) for name in sorted(files, key=order.index)}


def table(runs: dict[str, dict], wide: bool = False) -> str:
    """The runs as a Markdown table, with the columns that fit a page or, if `wide`, with all."""
    rows = [
        {
            "run": name if m["dataset"] == "CIFAR-10" else f"{name}, {m['dataset']}",
            "parameters": f"{m['params']:,}",
            "mult-adds": f"{m['mult_adds'] / 1e6:.2f} M" if m["mult_adds"] else "-",
            "receptive field": " / ".join(map(str, m["receptive_field"].values())) or "-",
            "epochs": str(m["epochs"]),
            "test accuracy": _accuracy(m),
            "published": _percent(m["published_test_accuracy"]),
            "kept weights": _percent(m["test_accuracy"]),
            "with flip TTA": _percent(m["test_accuracy_flip_tta"]),
            "seeds": ", ".join(str(of_seed["seed"]) for of_seed in m["seeds"]),
            "training": f"{m['wall_seconds'] / 60:.1f} min",
            "precision": m["precision"],
            "device": m["device"] if m["processes"] == 1 else f"{m['processes']} x {m['device']}",
        }
        for name, m in runs.items()
    ]
    return markdown(rows if wide else [{name: row[name] for name in NARROW} for row in rows])


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a Markdown table."""
    head = list(next(iter(rows), {}))
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return f"{value:.2f} %" if value else "-"


def _accuracy(metrics: dict) -> str:
    """The mean over the seeds and its standard deviation, where there are several."""
    mean, std, seeds = (metrics[k] for k in ("test_accuracy_mean", "test_accuracy_std", "seeds"))
    return (
        f"**{mean:.2f} %**" if std is None else f"**{mean:.2f} ± {std:.2f} %** ({len(seeds)} seeds)"
    )


def rendered(template: str, **content: object) -> str:
    """A page of the folder `templates/`, filled in."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["markdown"] = markdown
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
