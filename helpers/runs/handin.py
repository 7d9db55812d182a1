"""A hand-in's page, made from the files that runs left: results/<notebook>/README.md."""

import json
from pathlib import Path

import jinja2

from helpers.models import MODELS
from helpers.runs.results import write

FIGURES = {  # by the names of their files, in the order of the page
    "class_counts": "Training and test images of each class",
    "augmentation": "Training images, and augmented copies of each below",
    "range_test": "The learning-rate range test: the loss at growing rates",
    "kernels": "Which pixels kernels of several kinds read",
    "shares": "Which layers of {} hold its parameters and its multiply-adds",
    "curves": "Accuracy, loss and learning rate of {}, epoch by epoch",
    "reliability": "How often {} is right, by how sure it is",
    "field": "What the blocks of {} see of an image, by the table and in effect",
    "maps": "The strongest maps of {} for one image, in three depths",
    "predictions": "What {} says of the first ten test images",
    "misclassified": "Test images that {} gets wrong, with what it says and what is right",
    "grad_cam": "Grad-CAM: where {} looks when it is wrong",
    "grad_cam_layers": "Grad-CAM of {} for one image, layer by layer",
    "class_accuracy": "How many test images of each class {} gets right",
    "confusion": "Which classes {} takes for which",
}


def write_page(folder: Path) -> Path:
    """Write the page of a notebook's folder of runs, or of a single run's; return the file.

    Raises FileNotFoundError where no run lies there.
    """
    single = (folder / "metrics.json").is_file()
    files = [folder / "metrics.json"] if single else sorted(folder.glob("*/metrics.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no metrics.json: train the run first")
    runs = [_run(file.parent, folder) for file in files]
    name = "/".join(folder.parts[-2:]) if single else folder.name
    own = "my_network.py:Mine"  # a network that the series does not know lies in a file of its own
    checks = [f"check {r['notebook']} {r['net'] if r['net'] in MODELS else own}" for r in runs]
    page = _template().render(
        title=f"{name}: results", runs=runs, dataset=runs[0]["dataset"],
        test_images=f"{runs[0]['test_images']:,}",
        command=f"python -m helpers report {name}" if single else "make report",
        figures=[] if single else _figures(folder, folder, folder.name),
        checks="\n".join(f"python -m helpers {check}" for check in checks),
    )  # fmt: skip
    write(folder / "README.md", page)
    return folder / "README.md"


def told(metrics: dict) -> dict[str, str]:
    """The figures of a run as they are told in tables."""
    mean, std = metrics["test_accuracy_mean"], metrics["test_accuracy_std"]
    deviation = f" ± {std:.2f} ({len(metrics['seeds'])} seeds)" if std is not None else ""
    published, work = metrics["published_test_accuracy"], metrics["mult_adds"]
    return {
        "accuracy": f"**{mean:.2f} %**{deviation}",
        "published": f"{published:.2f} %" if published else "-",
        "params": f"{metrics['params']:,}",
        "mult_adds": f"{work / 1e6:.2f} M" if work else "-",
        "receptive_field": " / ".join(map(str, metrics["receptive_field"].values())) or "-",
        "epochs": str(metrics["epochs"]),
        "minutes": f"{metrics['wall_seconds'] / 60:.1f}",
    }


def _run(run: Path, page: Path) -> dict:
    metrics = json.loads((run / "metrics.json").read_text())
    files = {"summary": "summary.txt", "log": "log.txt", "table": "receptive_field.csv"}
    texts = {
        name: (run / file).read_text().strip("\n") if (run / file).is_file() else ""
        for name, file in files.items()
    }
    rows = [line.split(",") for line in texts.pop("table").splitlines()]
    rows[1:1] = [["---"] * len(rows[0])] if rows else []
    several = metrics["test_accuracy_std"] is not None
    passed = sum(row["passed"] for row in metrics["requirements"])
    return metrics | texts | told(metrics) | {
        "name": run.name, "figures": _figures(run, page, run.name),
        "receptive_field_table": "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "met": f"{passed} of {len(metrics['requirements'])} demands met",
        "seeds": [f"{s['test_accuracy']:.2f}" for s in metrics["seeds"]] if several else [],
        "train_images": f"{metrics['train_images']:,}",
    }  # fmt: skip


def _figures(folder: Path, page: Path, name: str) -> list[dict[str, str]]:
    files = {folder / f"{stem}.png": alt.format(name) for stem, alt in FIGURES.items()}
    return [
        {"alt": alt, "path": file.relative_to(page).as_posix()}
        for file, alt in files.items()
        if file.is_file()
    ]


def _template() -> jinja2.Template:
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
