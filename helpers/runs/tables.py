"""The table of all kept runs, written into the READMEs from their metrics.json files."""

import json
from pathlib import Path

from helpers.runs.results import write
from helpers.settings import ROOT

INTRO = """# Results

Made by `make report` from the `metrics.json` files; `make verify` evaluates the kept weights again.
Accuracies are of the last epoch's weights on all 10,000 test images, in float32; receptive fields
in pixels, before / including the global pooling.
"""
BEGIN, END = "<!-- results: made by `make report` -->", "<!-- end of results -->"


def kept(results: Path) -> dict[str, dict]:
    """The metrics of every run kept in the folder of results, by its name, "notebook/run"."""
    files = sorted(results.glob("[!_]*/*/metrics.json"), key=lambda f: (len(f.parts[-3]), f))
    return {f"{f.parts[-3]}/{f.parts[-2]}": json.loads(f.read_text()) for f in files}


def table(runs: dict[str, dict]) -> str:
    """The runs as a Markdown table."""
    return markdown([
        {
            "run": name if m["dataset"] == "CIFAR-10" else f"{name}, {m['dataset']}",
            "parameters": f"{m['params']:,}",
            "mult-adds": f"{m['mult_adds'] / 1e6:.2f} M" if m["mult_adds"] else "-",
            "receptive field": " / ".join(map(str, m["receptive_field"].values())) or "-",
            "epochs": str(m["epochs"]),
            "test accuracy": f"**{m['test_accuracy']:.2f} %**",
            "published": _percent(m["published_test_accuracy"]),
            "with flip TTA": _percent(m["test_accuracy_flip_tta"]),
            "seeds": _seeds(m),
            "training": f"{m['wall_seconds'] / 60:.1f} min, {m['precision']}",
            "device": m["device"] if m["processes"] == 1 else f"{m['processes']} x {m['device']}",
        }
        for name, m in runs.items()
    ])  # fmt: skip


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows with the same columns as a Markdown table."""
    head = list(next(iter(rows), {}))
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return f"{value:.2f} %" if value else "-"


def _seeds(metrics: dict) -> str:
    mean, std, seeds = (metrics[k] for k in ("test_accuracy_mean", "test_accuracy_std", "seeds"))
    alone = f"seed {metrics['seed']} alone"
    return f"{mean:.2f} ± {std:.2f} ({len(seeds)} seeds)" if std is not None else alone


def report(root: Path = ROOT) -> None:
    """Write the table into results/README.md and, between its two markers, README.md."""
    text = table(kept(root / "results"))
    fill(root / "README.md", BEGIN, END, text)
    write(root / "results" / "README.md", f"{INTRO}\n{text}\n")


def fill(file: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marking lines of a file; ValueError where they are not there once."""
    content = file.read_text()
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{file.name} needs the lines {begin} and {end}, once each")
    before, _, rest = content.partition(begin)
    write(file, f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
