"""The tables of all kept runs, written into the READMEs from their metrics.json files."""

import json
from pathlib import Path

from helpers.runs import handin
from helpers.runs.results import write
from helpers.settings import ROOT

INTRO = """# Results

Made by `make report` from the `metrics.json` files; `make verify` evaluates the kept weights again.
Accuracies are of the last epoch's weights on all 10,000 test images, in float32, the mean and the
standard deviation where several seeds were trained; receptive fields in pixels, before / including
the global pooling. Each folder has a page of its own, as a hand-in.
"""
BEGIN, END = "<!-- results: made by `make report` -->", "<!-- end of results -->"
DETAILS = ("mult-adds", "with flip TTA", "device")  # that the README leaves to results/README.md


def kept(results: Path) -> dict[str, dict]:
    """The metrics of every run kept in the folder of results, by its name, "notebook/run"."""
    files = sorted(results.glob("[!_]*/*/metrics.json"), key=lambda f: (len(f.parts[-3]), f))
    return {f"{f.parts[-3]}/{f.parts[-2]}": json.loads(f.read_text()) for f in files}


def table(runs: dict[str, dict], leave_out: tuple[str, ...] = ()) -> str:
    """The runs as a Markdown table."""
    rows = []
    for name, m in runs.items():
        told = handin.told(m)
        row = {
            "run": name if m["dataset"] == "CIFAR-10" else f"{name}, {m['dataset']}",
            "parameters": told["params"],
            "mult-adds": told["mult_adds"],
            "receptive field": told["receptive_field"],
            "epochs": told["epochs"],
            "test accuracy": told["accuracy"],
            "published": told["published"],
            "with flip TTA": f"{m['test_accuracy_flip_tta']:.2f} %",
            "training": f"{told['minutes']} min, {m['precision']}",
            "device": m["device"] if m["processes"] == 1 else f"{m['processes']} x {m['device']}",
        }
        rows.append({column: text for column, text in row.items() if column not in leave_out})
    return markdown(rows)


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a Markdown table."""
    head = list(next(iter(rows), {}))
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(root: Path = ROOT) -> None:
    """Write the tables and a page for each notebook into results/, and a table into README.md."""
    runs = kept(root / "results")
    for notebook in sorted({metrics["notebook"] for metrics in runs.values()}):
        handin.write_page(root / "results" / notebook)
    fill(root / "README.md", BEGIN, END, table(runs, leave_out=DETAILS))
    write(root / "results" / "README.md", f"{INTRO}\n{table(runs)}\n")


def fill(file: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marking lines of a file; ValueError where they are not there once."""
    content = file.read_text()
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{file.name} needs the lines {begin} and {end}, once each")
    before, _, rest = content.partition(begin)
    write(file, f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
