"""Markdown reports: the tables and pages that are generated from saved runs.

Everything comes from the files in `results/`; no model is evaluated here. The text of the pages is
in `templates/`.
"""

import functools
import io
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import results
from helpers.config import ROOT, Settings
from helpers.experiments import EXPERIMENTS
from helpers.files import atomic_write, corruption_guard
from helpers.models import MODELS
from helpers.plotting import BLUE, ORANGE, new_figure

# The lines in README.md and in the notebooks' first cells that enclose the table of results.
BEGIN = "<!-- results: made by `make report` -->"
END = "<!-- end of results -->"

QUESTIONS = {  # what each notebook answers
    "S7": "How far does a network see?",
    "S9": "How small can a network be, without pooling?",
    "S10": "Which learning rate, and was it applied?",
    "ResNet18_GradCAM": "Where does a network look, and is the map right?",
}

# What the pages read from metrics.json.
METRIC_TYPES = {
    "notebook": str,
    "net": str,
    "dataset": str,
    "train_images": int,
    "test_images": int,
    "epochs": int,
    "batch_size": int,
    "optimizer": str,
    "params": int,
    "mult_adds": int | None,
    "receptive_field": dict,
    "train_accuracy": float | int,
    "test_accuracy": float | int,
    "test_accuracy_flip_tta": float | int,
    "test_accuracy_mean": float | int,
    "test_accuracy_std": float | int | None,
    "published_test_accuracy": float | int | None,
    "class_accuracy": dict,
    "seeds": list,
    "recipe": dict,
    "requirements": list,
    "device": str,
    "processes": int,
    "precision": str,
    "versions": dict,
    "wall_seconds": float | int,
    "images_per_second": float | int,
    "date": str,
}
SEED_TYPES = {
    "seed": int,
    "test_accuracy": float | int,
    "test_accuracy_flip_tta": float | int,
}
ENVIRONMENT_TYPES = {"device": str, "precision": str}
RECIPE_TYPES = {
    "max_lr": float | int,
    "peak_epoch": float | int,
    "weight_decay": float | int,
    "label_smoothing": float | int,
    "dropout": float | int | None,
    "whitening_init": bool,
    "dirac_init": bool,
    "transform": str,
}
REQUIREMENT_TYPES = {"requirement": str, "measured": str, "passed": bool}
VERSION_TYPES = {"torch": str, "albumentations": str}


def check_metrics(metrics: dict) -> None:
    """Check that metrics contain all that the pages need, with the expected types.

    Args:
        metrics: The content of a `metrics.json`.

    Raises:
        TypeError: If a value is missing or has another type. The message names the key.
        ValueError: If a number is not finite.
    """
    _check_types(metrics, METRIC_TYPES, "metrics")
    _check_types(metrics["recipe"], RECIPE_TYPES, "recipe")
    _check_types(metrics["versions"], VERSION_TYPES, "versions")
    for name, accuracy in metrics["class_accuracy"].items():
        _check_types({name: accuracy}, {name: float | int}, "class_accuracy")
    for row in metrics["requirements"]:
        _check_types(row, REQUIREMENT_TYPES, "requirements")
    environments = list(metrics.get("trained_on", []))
    if not metrics["seeds"]:
        raise TypeError("seeds is empty")
    for seed in metrics["seeds"]:
        _check_types(seed, SEED_TYPES, "seeds")
        environments += seed.get("trained_on", [])
    for environment in environments:
        _check_types(environment, ENVIRONMENT_TYPES, "trained_on")
    for step in metrics.get("augmentation", []):
        if not (isinstance(step, list) and [type(item) for item in step] == [str, dict]):
            raise TypeError(
                f"augmentation has {reprlib.repr(step)}, expected a name and its options"
            )


def _check_types(values: object, types: Mapping[str, object], name: str) -> None:
    """Check that `values` is a dictionary with these keys and types."""
    if not isinstance(values, dict):
        raise TypeError(f"{name} is {reprlib.repr(values)}, expected an object")
    for key, expected in types.items():
        if key not in values:
            raise TypeError(f"{name} lacks {key}")
        value = values[key]
        # JSON's true is a Python int, too.
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            expected_name = expected.__name__ if isinstance(expected, type) else str(expected)
            raise TypeError(f"{key} is {reprlib.repr(value)}, expected {expected_name}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}, expected a finite number")


def load_metrics(folder: Path) -> dict:
    """Load the metrics of a run and check them.

    Args:
        folder: The folder of the run.

    Raises:
        CorruptFileError: If `metrics.json` is damaged.
        FileNotFoundError: If the folder has no `metrics.json`.
    """
    metrics = results.read_metrics(folder)
    with corruption_guard(folder / "metrics.json"):
        check_metrics(metrics)
    return metrics


def load_all_metrics(results_dir: Path) -> dict[str, dict]:
    """Load the metrics of all saved runs.

    Args:
        results_dir: The folder that contains NOTEBOOK/RUN/metrics.json.

    Returns:
        The metrics by the name of the run, "NOTEBOOK/RUN": first the experiments of the series, in
        their order, then other runs by name.

    Raises:
        CorruptFileError: If a `metrics.json` is damaged. The message names the file.
    """
    folders = {}
    for file in results_dir.glob("[!_]*/*/metrics.json"):
        folders[f"{file.parts[-3]}/{file.parts[-2]}"] = file.parent
    names = [name for name in EXPERIMENTS if name in folders]
    names += sorted(folders.keys() - EXPERIMENTS.keys())
    return {name: load_metrics(folders[name]) for name in names}


def load_run(folder: Path, link: str = "") -> dict:
    """Load what the report of a run shows.

    Args:
        folder: The folder of the run.
        link: The path from the page to the folder, "" or "RUN/".

    Returns:
        The metrics, and besides: `name`, `link`, `figures` (links by the stem of the file) and
        `files` (texts of CSV and text files by name).

    Raises:
        CorruptFileError: If a file is damaged.
        FileNotFoundError: If `metrics.json` or `log.txt` is missing.
    """
    names = {path.name for path in folder.iterdir() if path.suffix in (".csv", ".txt")}
    texts = {}
    for name in names | {"log.txt"}:
        with corruption_guard(folder / name):
            texts[name] = (folder / name).read_text(encoding="utf-8")
    page_data = {
        "name": folder.name,
        "link": link,
        "figures": _find_figures(folder, link),
        "files": texts,
    }
    return load_metrics(folder) | page_data


def _find_figures(folder: Path, link: str) -> dict[str, str]:
    """Return the links to the figures of a folder by the stem of the file."""
    return {path.stem: f"{link}{path.name}" for path in sorted(folder.glob("*.png"))}


def results_table(runs: dict[str, dict], wide: bool = False) -> str:
    """Return runs as a Markdown table.

    Args:
        runs: Metrics by the name of the run.
        wide: Append a second table with further columns.
    """
    return render_template("results_table.md.jinja", runs=runs, wide=wide).strip()


def accuracy_table(notebooks: Sequence[str], settings: Settings) -> str:
    """Return the accuracies of this run and of the saved full runs as text.

    Args:
        notebooks: The names of the notebooks.
        settings: The settings of this run.
    """
    full_runs = load_all_metrics(ROOT / "results")
    this_run = load_all_metrics(settings.results_dir(settings.dataset))
    column = f"this {settings.profile.name} run"
    rows = []
    for name, experiment in EXPERIMENTS.items():
        if experiment.notebook not in notebooks:
            continue
        row = {"run": name, column: "-", "saved full run": "-", "published": "-"}
        if name in this_run and not settings.reuse:
            row[column] = f"{this_run[name]['test_accuracy']:.2f} %"
        if name in full_runs:
            row["saved full run"] = results.format_accuracy(full_runs[name])
        if experiment.reference_accuracy:
            row["published"] = f"{experiment.reference_accuracy} %"
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False)


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a Markdown table.

    Args:
        rows: Cells by the name of the column; all rows have the same columns.
    """
    columns = list(rows[0]) if rows else []
    lines = [columns, ["---"] * len(columns)]
    lines += [list(row.values()) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.cache
def _load_templates() -> Environment:
    """Return the Jinja environment of `templates/`."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_template(template: str, **variables: object) -> str:
    """Render a page.

    Args:
        template: The name of a file in `templates/`.
        **variables: The variables of the template.
    """
    text = _load_templates().get_template(template).render(variables)
    return re.sub(r"\n{3,}", "\n\n", text)  # optional blocks leave empty lines


def replace_between(file: Path, begin: str, end: str, text: str) -> None:
    """Replace the text between two marker lines of a file.

    Args:
        file: The file to change.
        begin: The marker line before the text.
        end: The marker line after the text.
        text: The new text. Empty lines separate it from the markers.

    Raises:
        ValueError: If the file does not contain each marker exactly once.
    """
    content = file.read_text(encoding="utf-8")
    atomic_write(file, insert_between(content, begin, end, text, file.name))


def insert_between(content: str, begin: str, end: str, text: str, name: str) -> str:
    """Return a text in which the part between two marker lines is replaced.

    Args:
        content: The text.
        begin: The marker line before the part.
        end: The marker line after the part.
        text: The new part. Empty lines separate it from the markers.
        name: What the text is, for the error message.

    Raises:
        ValueError: If the text does not contain each marker exactly once.
    """
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{name} needs the lines {begin} and {end}, once each")
    before, _, rest = content.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def write_results_tables(root: Path = ROOT) -> None:
    """Write `results/README.md`, `results/comparison.png` and the table in `README.md`.

    Args:
        root: The folder that contains `README.md` and `results/`.

    Raises:
        FileNotFoundError: If there are no saved runs.
        CorruptFileError: If a `metrics.json` is damaged.
        ValueError: If `README.md` lacks the markers.
    """
    results_dir = root / "results"
    runs = load_all_metrics(results_dir)
    if not runs:
        raise FileNotFoundError(f"there are no saved runs in {results_dir}: train one in full")
    replace_between(root / "README.md", BEGIN, END, readme_table(runs))
    notebooks = list(dict.fromkeys(name.split("/")[0] for name in runs))
    table = results_table(runs, wide=True)
    page = render_template("results.md.jinja", table=table, notebooks=notebooks)
    atomic_write(results_dir / "README.md", page)
    image = io.BytesIO()
    plot_comparison(runs).savefig(image)
    atomic_write(results_dir / "comparison.png", image.getvalue())


@style.context("default")
def plot_comparison(runs: Mapping[str, dict]) -> Figure:
    """Plot the test accuracy of each run, joined to the published one. Numbers label both.

    Error bars are the standard deviation over seeds.

    Args:
        runs: Metrics by the name of the run.
    """
    title = "Test accuracy: published, and trained here"
    figure, axis = new_figure(8, 1.4 + 0.5 * len(runs), title)
    names = []
    for row, (name, metrics) in enumerate(runs.items()):
        mean, std = metrics["test_accuracy_mean"], metrics["test_accuracy_std"] or 0
        published = metrics["published_test_accuracy"]
        first = row == 0  # one entry in the legend is enough
        if published:
            axis.hlines(row, published, mean, color="lightgray", lw=3, zorder=0)
            label = "submission, as published" if first else None
            axis.plot(published, row, "s", color=ORANGE, label=label)
            _write_left(axis, published, row, f"{published:.1f}")
        label = "trained here" if first else None
        axis.errorbar(mean, row, xerr=std, fmt="o", color=BLUE, capsize=3, label=label)
        axis.annotate(
            f"{mean:.1f}", (mean + std, row), (8, 0), textcoords="offset points", va="center"
        )
        names.append(f"{name.replace('_GradCAM', '')}\n{metrics['params']:,} parameters")
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set(xlabel="test accuracy (%)", ylim=(len(names) - 0.5, -0.5))
    axis.margins(x=0.1)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _write_left(axis: Axes, x: float, y: float, text: str) -> None:
    """Write a text to the left of a point."""
    axis.annotate(text, (x, y), (-8, 0), textcoords="offset points", ha="right", va="center")


def title_table(runs: Sequence[dict]) -> str:
    """Return which requirements the runs of a notebook meet, and their accuracy, as Markdown.

    Args:
        runs: The metrics of each run.
    """
    nets = [f"`{run['net']}`" for run in runs]
    facts = {
        "**test accuracy**": [f"**{results.format_accuracy(run)}**" for run in runs],
        "seeds": [f"{len(run['seeds'])}" for run in runs],
        "published by the submission": [
            EXPERIMENTS[f"{run['notebook']}/{run['net']}"].published or "-" for run in runs
        ],
        "parameters": [f"{run['params']:,}" for run in runs],
        "epochs": [f"{run['epochs']}" for run in runs],
        "trained on": [f"{run['device']}, {run['precision']}" for run in runs],
    }
    checks = [check for run in runs for check in run["requirements"] if check["kind"] != "claimed"]
    for requirement in dict.fromkeys(check["requirement"] for check in checks):
        facts[requirement] = [_mark(requirement, run) for run in runs]
    rows = [
        {"result": name, **dict(zip(nets, values, strict=True))} for name, values in facts.items()
    ]
    return markdown_table(rows)


def _mark(requirement: str, run: dict) -> str:
    """Return whether a run meets a requirement."""
    passed = [row["passed"] for row in run["requirements"] if row["requirement"] == requirement]
    return {(True,): "✅", (False,): "❌"}.get(tuple(passed), "-")


def write_notebook_titles(root: Path = ROOT) -> None:
    """Write the table of results into the first cell of every notebook with saved runs.

    Args:
        root: The folder that contains `notebooks/` and `results/`.

    Raises:
        CorruptFileError: If a `metrics.json` is damaged.
        ValueError: If the first cell of a notebook lacks the markers.
    """
    import nbformat  # imported here because a machine with a GPU may have no Jupyter

    runs = load_all_metrics(root / "results")
    known = [runs[name] for name in EXPERIMENTS if name in runs]
    for notebook, group in groupby(known, key=lambda metrics: metrics["notebook"]):
        file = root / "notebooks" / f"{notebook}.ipynb"
        if not file.exists():  # a folder with results only
            continue
        page = nbformat.read(file, as_version=4)
        table = title_table(list(group))
        page.cells[0].source = insert_between(page.cells[0].source, BEGIN, END, table, file.name)
        atomic_write(file, nbformat.writes(page) + "\n")


def readme_table(runs: Mapping[str, dict]) -> str:
    """Return each notebook's question, and the accuracy of its networks, as a Markdown table.

    Args:
        runs: Metrics by the name of the run.
    """
    rows = []
    shown = set()
    for name in (name for name in EXPERIMENTS if name in runs):
        notebook = name.partition("/")[0]
        is_first = notebook not in shown
        shown.add(notebook)
        rows.append(
            {
                "notebook": f"[{notebook}](notebooks/{notebook}.ipynb)" if is_first else "",
                "question": QUESTIONS[notebook] if is_first else "",
                "network": f"`{runs[name]['net']}`",
                "parameters": f"{runs[name]['params']:,}",
                "test accuracy": f"**{results.format_accuracy(runs[name])}**",
                "published": EXPERIMENTS[name].published or "-",
            }
        )
    return markdown_table(rows)


def write_notebook_reports(root: Path = ROOT) -> None:
    """Write `results/NOTEBOOK/README.md` for every notebook with saved runs.

    Args:
        root: The folder that contains `results/`.

    Raises:
        CorruptFileError: If a file of a run is damaged.
        FileNotFoundError: If a run has no `log.txt`.
    """
    folders = [root / "results" / name for name in load_all_metrics(root / "results")]
    folders.sort(key=lambda folder: folder.parent.name)  # stable: runs keep their order
    for notebook_dir, run_folders in groupby(folders, key=lambda folder: folder.parent):
        page = render_report(notebook_dir.name, list(run_folders))
        atomic_write(notebook_dir / "README.md", page)


def write_run_report(run: str, root: Path = ROOT) -> Path:
    """Write the README.md of one run into the folder of the run.

    Runs of all profiles are searched. Of several with the name, the newest counts.

    Args:
        run: The name of the run, for example "S9/mine".
        root: The folder that contains `results/`.

    Returns:
        The path of the page.

    Raises:
        ValueError: If no such run is saved, or if a file of it is damaged (CorruptFileError).
        FileNotFoundError: If the run has no `log.txt`.
    """
    found = list(root.glob(f"results/{run}/metrics.json"))
    found += root.glob(f"results/_*/{run}/metrics.json")
    folder = max(found, key=lambda file: file.stat().st_mtime).parent if found else None
    if not folder:
        saved = ", ".join(load_all_metrics(root / "results")) or "none"
        raise ValueError(
            f"run={run}: there is no {root / 'results' / run / 'metrics.json'}, nor one of another "
            f"profile; saved runs: {saved}"
        )
    title = f"{folder.parent.name}/{folder.name}"
    page = folder / "README.md"
    atomic_write(page, render_report(title, [folder], single_run=True))
    return page


def render_report(title: str, folders: Sequence[Path], single_run: bool = False) -> str:
    """Render the report of runs as Markdown.

    Args:
        title: The title of the page: a notebook or, for a single run, "NOTEBOOK/RUN".
        folders: The folders of the runs.
        single_run: The page goes into the folder of the only run. Otherwise it goes into the
            folder above and shows the figures of that folder, too.

    Raises:
        CorruptFileError: If a file of a run is damaged.
        FileNotFoundError: If a run has no `log.txt`.
    """
    if single_run:
        runs = [load_run(folder) for folder in folders]
        notebook_figures = {}
    else:
        runs = [load_run(folder, link=f"{folder.name}/") for folder in folders]
        notebook_figures = _find_figures(folders[0].parent, link="")
    return render_template(
        "notebook_report.md.jinja",
        title=title,
        runs=runs,
        results=results_table({run["name"]: run for run in runs}),
        shared={"name": title, "figures": notebook_figures},
        single_run=single_run,
        models=MODELS,
    )
