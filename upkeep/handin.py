"""The pages that are handed in: of a notebook, or of one run, made of the files that runs keep."""

from pathlib import Path

from helpers.files import reading, write
from helpers.models import MODELS
from helpers.runs import results
from helpers.settings import ROOT
from upkeep import tables


def of_notebooks(root: Path = ROOT) -> None:
    """Write results/NOTEBOOK/README.md for every notebook with kept runs."""
    folders = [root / "results" / name for name in tables.kept(root / "results")]
    for folder in folders:
        _page_of(folder)  # so that a damaged one is named
    for home in {folder.parent for folder in folders}:
        runs = [folder for folder in folders if folder.parent == home]
        write(home / "README.md", page(home.name, runs))


def of_run(run: str, root: Path = ROOT) -> Path:
    """Write README.md into the folder of one run, "S9/mine" below results/, and return its path.

    Raises ValueError where no run is kept there.
    """
    folder = root / "results" / run
    if not (folder / "metrics.json").is_file():
        there = ", ".join(tables.kept(root / "results")) or "none"
        raise ValueError(f"run={run}: there is no {folder / 'metrics.json'}; kept runs: {there}")
    write(folder / "README.md", _page_of(folder))
    return folder / "README.md"


def _page_of(folder: Path) -> str:
    with reading(folder):
        return page("/".join(folder.parts[-2:]), [folder], alone=True)


def page(title: str, folders: list[Path], alone: bool = False) -> str:
    """The report of the runs in these folders, in Markdown for a README.md in the folder above.

    The notebook's own figures lie there. A page for one run `alone` is for that run's folder.
    """
    runs = [_kept(folder, "" if alone else f"{folder.name}/") for folder in folders]
    table = tables.table({run["name"]: run for run in runs})
    shared = {"name": title, "figures": {} if alone else _figures(folders[0].parent, "")}
    content = {"title": title, "runs": runs, "results": table, "shared": shared, "alone": alone}
    return tables.rendered("hand-in.md.jinja", models=MODELS, **content)


def _kept(folder: Path, link: str) -> dict:
    kept = {"name": folder.name, "link": link, "figures": _figures(folder, link)}
    texts = (path for path in folder.iterdir() if path.suffix in (".csv", ".txt"))
    kept["files"] = {path.name: path.read_text(encoding="utf-8") for path in texts}
    return results.metrics_of(folder) | kept


def _figures(folder: Path, link: str) -> dict[str, str]:
    return {path.stem: link + path.name for path in sorted(folder.glob("*.png"))}
