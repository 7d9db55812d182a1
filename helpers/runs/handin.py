"""The pages that are handed in: of a notebook, or of one run, made of the files that runs keep."""

import csv
import json
import os
from pathlib import Path

from helpers.models import MODELS
from helpers.runs import tables
from helpers.runs.results import write
from helpers.settings import ROOT


def of_notebooks(root: Path = ROOT) -> None:
    """Write results/NOTEBOOK/README.md for every notebook with kept runs."""
    folders = [root / "results" / name for name in tables.kept(root / "results")]
    for home in {folder.parent for folder in folders}:
        runs = [folder for folder in folders if folder.parent == home]
        write(home / "README.md", page(home.name, runs, home))


def of_run(run: str, root: Path = ROOT) -> Path:
    """Write README.md into the folder of one run, "S9/mine" below results/, and return its path.

    Raises ValueError where no run is kept there.
    """
    folder = root / "results" / run
    if not (folder / "metrics.json").is_file():
        there = ", ".join(tables.kept(root / "results")) or "none"
        raise ValueError(f"run={run}: there is no {folder / 'metrics.json'}; kept runs: {there}")
    write(folder / "README.md", page(run, [folder], folder))
    return folder / "README.md"


def page(title: str, folders: list[Path], home: Path) -> str:
    """The hand-in of the runs kept in these folders, in Markdown for a file in the folder `home`.

    Figures of the notebook itself lie in `home`, unless that is the folder of the one run.
    """
    runs = [_kept(folder, home) for folder in folders]
    results = tables.table({f"{run['notebook']}/{run['name']}": run for run in runs})
    alone = home in folders
    shared = {"name": title, "figures": {} if alone else _figures(home, home)}
    content = {"title": title, "runs": runs, "results": results, "shared": shared, "alone": alone}
    return tables.rendered("hand-in.md.jinja", models=MODELS, **content)


def _kept(folder: Path, home: Path) -> dict:
    names = ("summary.txt", "receptive_field.csv", "log.txt")  # a network may lack a table
    texts = [path.read_text() if (path := folder / name).is_file() else "" for name in names]
    return json.loads((folder / "metrics.json").read_text()) | {
        "name": folder.name,
        "metrics": _link(folder / "metrics.json", home),
        "summary": texts[0],
        "field": list(csv.DictReader(texts[1].splitlines())),
        "log": texts[2],
        "figures": _figures(folder, home),
    }


def _figures(folder: Path, home: Path) -> dict[str, str]:
    return {path.stem: _link(path, home) for path in sorted(folder.glob("*.png"))}


def _link(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()
