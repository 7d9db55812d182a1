"""The committed notebooks: run in order, complete, readable, and really compared by nbval."""

import html
import json
import re
import subprocess
import sys

import nbformat
import pytest

from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ADDRESSED = (ROOT / "pyproject.toml", ROOT / "README.md", *NOTEBOOKS, *SOLUTIONS)
MARK = "nbval-check-output"


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"S7", "S9", "S10", "ResNet18_GradCAM"}


def test_every_cell_was_run_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_errors_no_stderr_no_widgets(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if "widget" in str(output.get("data", {}).keys())]
    assert "widgets" not in notebook.metadata


def test_cells_are_short_and_explained(notebook):
    cells = code_cells(notebook)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= 0.5 * len(cells)
    assert prose[0].source.startswith("# ")


def test_marked_cells_have_something_to_compare(notebook):
    marked = [c for c in code_cells(notebook) if MARK in c.metadata.get("tags", [])]
    assert len(marked) >= 5
    assert all(cell.outputs for cell in marked)
    text = "".join(cell.source for cell in marked)
    for table in ("layer_table", "receptive_field.table", "requirements.of_network"):
        assert table in text


def test_pictures_are_png_and_the_file_is_small(notebook):
    kinds = {
        kind
        for cell in code_cells(notebook)
        for output in cell.outputs
        for kind in output.get("data", {})
    }
    assert kinds <= {"text/plain", "text/html", "text/markdown", "image/png"}
    assert len(nbformat.writes(notebook)) < 2_000_000


def test_it_is_the_full_run_on_cifar10(notebook):
    printed = "".join(
        output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs
    )
    assert "profile: full  data: cifar10" in printed
    assert "CIFAR-10: 50,000 training images in use, 10,000 test images" in printed
    assert "NOT CIFAR-10" not in printed


def test_the_repository_is_named_in_one_way():
    [name] = set(
        re.findall(r"github\.com/([\w.-]+/[\w.-]+)", (ROOT / "pyproject.toml").read_text())
    )
    for path in ADDRESSED[1:]:
        text = path.read_text()
        assert f"https://github.com/{name}" in text
        badges = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text)
        assert set(badges) == {name}


def test_badges_are_rewritten_everywhere(tmp_path):
    for path in (ROOT / "Makefile", *ADDRESSED):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    for repository in ("ada/images", "grace/nets"):  # and once more, from what the first left
        subprocess.run(["make", "badges", f"REPO={repository}"], cwd=tmp_path, check=True)
        for path in ADDRESSED:
            text = (tmp_path / path.relative_to(ROOT)).read_text()
            assert f"https://github.com/{repository}" in text
            assert "OWNER/cifar10" not in text
    nbformat.validate(nbformat.read(tmp_path / "notebooks" / "S7.ipynb", as_version=4))
    refused = subprocess.run(
        ["make", "badges", "REPO=x"], cwd=tmp_path, capture_output=True, check=False
    )
    assert refused.returncode
    assert b"not of the form owner/name" in refused.stderr


@pytest.mark.parametrize("run", RUNS)
def test_figures_shown_are_those_of_the_metrics(run):
    cells = code_cells(nbformat.read(ROOT / f"notebooks/{run.split('/')[0]}.ipynb", as_version=4))
    outputs = [output for cell in cells for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    tables = html.unescape("".join(o.get("data", {}).get("text/html", "") for o in outputs))
    tables = re.sub(r"\s", "", tables)
    metrics = json.loads((ROOT / "results" / run / "metrics.json").read_text())
    spread = metrics["test_accuracy_std"]
    mean = f"{metrics['test_accuracy_mean']:.2f}" + (f" ± {spread:.2f}" if spread else "")
    assert f"{metrics['net']}: {mean} % of 10,000 test images right" in printed
    assert f"kept here, {metrics['seed']}: {metrics['test_accuracy']:.2f} %" in printed
    assert f"averaged in: {metrics['test_accuracy_flip_tta']:.2f} %" in printed
    minutes, device = f"{metrics['wall_seconds'] / 60:.1f} minutes", metrics["device"]
    assert f"{minutes} on {device}, {metrics['precision']}" in printed
    for row in metrics["requirements"]:
        mark = "✓ passed" if row["passed"] else "✗ failed"
        assert re.sub(r"\s", "", f"<th>{row['demand']}</th>") in tables
        assert re.sub(r"\s", "", f"<td>{mark}: {row['measured']}</td>") in tables


def nbval(path, tmp_path):
    """Run a notebook's cheap cells under nbval, as `make test` does, and return its report."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "-q", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_changed_table_is_found(tmp_path):
    """A copy with the set-up, the imports and one marked table: as stored, then tampered with."""
    original = nbformat.read(ROOT / "notebooks" / "S7.ipynb", as_version=4)
    cells = code_cells(original)
    marked = [c for c in cells if MARK in c.metadata.get("tags", [])]
    tables = [c for c in marked if "receptive_field.table(" in c.source or "summary." in c.source]
    original.cells = [*cells[:2], *tables[:2]]
    # Found from the repository's root, wherever the copy lies.
    original.cells[0].source = f"import sys\nsys.path.insert(0, {str(ROOT)!r})"
    path = tmp_path / "copy.ipynb"
    nbformat.write(original, path)
    code, report = nbval(path, tmp_path)
    assert code == 0, report
    text = path.read_text()
    assert "439,808" in text
    path.write_text(text.replace("439,808", "439,809"))
    code, report = nbval(path, tmp_path)
    assert code == 1
    assert "439,809" in report
