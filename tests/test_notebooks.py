"""The committed notebooks: run in order, complete, readable, and really compared by nbval."""

import ast
import collections
import html
import json
import re
import subprocess
import sys

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.stem != "playground"]
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
FILES_WITH_ADDRESS = (ROOT / "pyproject.toml", ROOT / "README.md", *NOTEBOOKS, *SOLUTIONS)
MARK = "nbval-check-output"


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def code_lines(cell):
    lines = [line.strip() for line in cell.source.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def imports_of_helpers(cell):
    tree = ast.parse(TransformerManager().transform_cell(cell.source))
    return [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.module.startswith("helpers"))
        or (isinstance(node, ast.Import) and node.names[0].name.startswith("helpers"))
    ]


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=[*NOTEBOOKS, *SOLUTIONS], ids=lambda path: "/".join(path.parts[-2:]))
def page(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert {path.stem for path in LESSONS} == {"S7", "S9", "S10", "ResNet18_GradCAM"}
    assert [path.stem for path in SOLUTIONS] == [path.stem for path in LESSONS]


def test_every_cell_was_run_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_errors_no_stderr_no_widgets(page):
    outputs = [output for cell in code_cells(page) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if "widget" in str(output.get("data", {}).keys())]
    assert "widgets" not in page.metadata


def test_cells_are_short_and_explained(notebook):
    cells = code_cells(notebook)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= 0.5 * len(cells)
    assert len(notebook.cells) <= 60
    assert prose[0].source.startswith("# ")


def test_the_set_up_cell_is_short_and_the_same_everywhere():
    set_up_cells = [
        code_cells(nbformat.read(path, as_version=4))[0] for path in (*NOTEBOOKS, *SOLUTIONS)
    ]
    assert len({cell.source for cell in set_up_cells}) == 1
    assert len(code_lines(set_up_cells[0])) <= 10
    assert set_up_cells[0].source.startswith('# @title Setup { display-mode: "form" }\n')


def run_python(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("place", [".", "notebooks", "notebooks/solutions"])
def test_the_set_up_cell_finds_the_repository(place):
    set_up, *_ = code_cells(nbformat.read(NOTEBOOKS[0], as_version=4))
    before, clone, after = re.split(r"(?m)^if not folders:\n(.*)\n", set_up.source)
    assert clone.startswith("    !git clone ")
    change_folder = after.partition("\n\n")[0]
    located = run_python(f"{before}\n{change_folder}\nprint(os.getcwd())", ROOT / place)
    assert located == str(ROOT)


def test_the_set_up_cell_clones_only_where_there_is_no_repository(tmp_path):
    set_up, *_ = code_cells(nbformat.read(NOTEBOOKS[0], as_version=4))
    before = set_up.source.partition("if not folders:")[0]
    assert run_python(f"{before}\nprint(folders)", tmp_path) == "[]"
    (tmp_path / "cifar10-notebooks" / "helpers").mkdir(parents=True)  # cloned before
    assert run_python(f"{before}\nprint(folders)", tmp_path) == "['cifar10-notebooks']"


def test_helpers_is_imported_in_a_few_statements_at_the_top(page):
    set_up, imports, *others = code_cells(page)
    assert len(imports_of_helpers(set_up)) == 1
    nodes = imports_of_helpers(imports)
    assert 1 <= len(nodes) <= 6
    assert not [cell.id for cell in others if imports_of_helpers(cell)]


def test_a_notebook_is_short(notebook):
    cells = code_cells(notebook)
    lines = sum(len(code_lines(cell)) for cell in cells)
    statements = ast.parse(cells[1].source).body
    assert lines - len(code_lines(cells[1])) + len(statements) <= 114
    words = re.sub(
        r"```.*?```|\]\([^)]*\)|^\|[^\n]*", " ",
        "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"),
        flags=re.DOTALL | re.MULTILINE,
    ).split()  # fmt: skip
    assert 800 < len(words) <= 2_300


def test_few_lines_of_code_recur_in_two_notebooks():
    notebooks_by_line = collections.defaultdict(set)
    for path in LESSONS:
        _, _, *cells = code_cells(nbformat.read(path, as_version=4))
        for cell in cells:
            for line in code_lines(cell):
                notebooks_by_line[line].add(path.stem)
    recurring = [line for line, names in notebooks_by_line.items() if len(names) > 1]
    assert len(recurring) <= 21, recurring


def test_outputs_do_not_remind_a_reader_of_a_placeholder(page):
    for cell in code_cells(page):
        for output in cell.outputs:
            assert "placeholder" not in str(output).lower(), cell.id
            assert "make badges" not in str(output), cell.id


def test_marked_cells_have_something_to_compare(notebook):
    marked = [c for c in code_cells(notebook) if MARK in c.metadata.get("tags", [])]
    assert len(marked) >= 5
    assert all(cell.outputs for cell in marked)
    text = "".join(cell.source for cell in marked)
    assert re.search(r"inspection\.torch(summary|info)_text\(", text)
    assert "inspection.receptive_field_table(" in text


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
    assert "CIFAR-10: 50,000 training images, 10,000 test images" in printed
    assert "NOT CIFAR-10" not in printed


def test_the_repository_is_named_in_one_way():
    [name] = set(
        re.findall(r"github\.com/([\w.-]+/[\w.-]+)", (ROOT / "pyproject.toml").read_text())
    )
    for path in FILES_WITH_ADDRESS[1:]:
        text = path.read_text()
        assert f"https://github.com/{name}" in text
        badges = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text)
        assert set(badges) == {name}


def test_badges_are_rewritten_everywhere(tmp_path):
    for path in (ROOT / "Makefile", *FILES_WITH_ADDRESS):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    for repository in ("ada/images", "grace/nets"):  # and once more, from what the first left
        subprocess.run(["make", "badges", f"REPO={repository}"], cwd=tmp_path, check=True)
        for path in FILES_WITH_ADDRESS:
            text = (tmp_path / path.relative_to(ROOT)).read_text()
            assert f"https://github.com/{repository}" in text
            assert "OWNER/cifar10" not in text
    nbformat.validate(nbformat.read(tmp_path / "notebooks" / "S7.ipynb", as_version=4))
    refused = subprocess.run(
        ["make", "badges", "REPO=x"], cwd=tmp_path, capture_output=True, check=False
    )
    assert refused.returncode
    assert b"not of the form owner/name" in refused.stderr


def test_the_playground_is_executed_and_checks_a_network():
    cells = code_cells(nbformat.read(ROOT / "notebooks" / "playground.ipynb", as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    [checked] = [cell for cell in cells if "requirements.check_model(" in cell.source]
    assert "passed" in checked.outputs[-1]["data"]["text/html"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_numbers_shown_are_those_of_the_metrics(name):
    notebook = name.partition("/")[0]
    cells = code_cells(nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", as_version=4))
    outputs = [output for cell in cells for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    tables = html.unescape("".join(o.get("data", {}).get("text/html", "") for o in outputs))
    tables = re.sub(r"<(td|th)[^>]*>", r"<\1>", tables)
    tables = re.sub(r"\s", "", tables)
    metrics = json.loads((ROOT / "results" / name / "metrics.json").read_text())
    std = metrics["test_accuracy_std"]
    mean = f"{metrics['test_accuracy_mean']:.2f}" + (f" ± {std:.2f}" if std else "")
    assert f"{metrics['net']}: {mean} % of 10,000 test images right" in printed
    assert f"saved here, {metrics['seed']}: {metrics['test_accuracy']:.2f} %" in printed
    assert f"averaged in: {metrics['test_accuracy_flip_tta']:.2f} %" in printed
    minutes = f"{metrics['wall_seconds'] / 60:.1f} minutes"
    assert f"{minutes} on {metrics['device']}, {metrics['precision']}" in printed
    for row in metrics["requirements"]:
        mark = "✅ passed" if row["passed"] else "❌ failed"
        assert re.sub(r"\s", "", f"<th>{row['requirement']}</th>") in tables
        assert re.sub(r"\s", "", f"<td>{mark}: {row['measured']}</td>") in tables


def run_nbval(path, folder):
    """Run a notebook's cheap cells under nbval, as `make test` does, and return its report."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "-q", str(path)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_changed_table_is_found(tmp_path):
    """A copy with the set-up, the imports and two marked tables, one of them tampered with."""
    notebook = nbformat.read(ROOT / "notebooks" / "S7.ipynb", as_version=4)
    cells = code_cells(notebook)
    marked = [c for c in cells if MARK in c.metadata.get("tags", [])]
    tables = [c for c in marked if re.search(r"receptive_field_table\(|_text\(", c.source)]
    notebook.cells = [*cells[:2], *tables[:2]]
    # The package is imported from the repository, wherever the copy lies.
    notebook.cells[
        0
    ].source = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom helpers import colab"
    notebook.cells[1].source += '\ns7 = models.get_model("s7")'
    path = tmp_path / "copy.ipynb"
    nbformat.write(notebook, path)
    text = path.read_text()
    assert "439,808" in text
    path.write_text(text.replace("439,808", "439,809"))
    code, report = run_nbval(path, tmp_path)
    assert code == 1
    assert "1 failed, 3 passed" in report
    assert "439,809" in report
