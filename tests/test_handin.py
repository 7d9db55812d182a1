"""The pages in results/: made from the kept files, whole, and readable on GitHub."""

import json
import re
import shutil

import pytest

from helpers.runs import handin
from helpers.settings import ROOT

NOTEBOOKS = ("S7", "S9", "S10", "ResNet18_GradCAM")


def links(page):
    return re.findall(r"\]\(([^)]+)\)", page)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_committed_page_is_that_of_the_kept_files(notebook, tmp_path):
    kept = ROOT / "results" / notebook
    ignored = shutil.ignore_patterns("README.md", "*.safetensors")
    folder = shutil.copytree(kept, tmp_path / notebook, ignore=ignored)
    assert handin.write_page(folder).read_text() == (kept / "README.md").read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_it_has_all_that_a_hand_in_needs(notebook):
    folder = ROOT / "results" / notebook
    page = (folder / "README.md").read_text()
    assert all((folder / link).is_file() for link in links(page))
    assert all(alt.strip() for alt in re.findall(r"!\[(.*?)\]", page))
    headings = re.findall(r"^## (.*)", page, re.MULTILINE)
    assert headings[:2] == ["Result", "What is demanded"]
    assert headings[-1] == "Verify it"
    for run in sorted(file.parent for file in folder.glob("*/metrics.json")):
        metrics = json.loads((run / "metrics.json").read_text())
        assert f"The network `{run.name}`" in headings
        assert f"**{metrics['test_accuracy_mean']:.2f} %**" in page
        assert (run / "log.txt").read_text().strip() in page
        assert (run / "summary.txt").read_text().strip() in page
        assert f"({run.name}/curves.png)" in page
        for row in metrics["requirements"]:
            mark = "✓ passed" if row["passed"] else "✗ failed"
            assert f"| {row['demand']} | {mark} | {row['measured']} |" in page
        for name, accuracy in metrics["class_accuracy"].items():
            assert f"| {name} | {accuracy:.1f} |" in page


def test_tables_and_folds_are_set_off_so_that_github_renders_them():
    for notebook in NOTEBOOKS:
        lines = (ROOT / "results" / notebook / "README.md").read_text().splitlines()
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if re.fullmatch(r"\|( -+ \|)+", line):
                assert before.count(" | ") == line.count(" | ") == after.count(" | ")
            if line.startswith(("<details>", "#")):
                assert after == "", line


def test_a_run_of_ones_own_gets_a_page(tmp_path):
    folder = tmp_path / "S9" / "mine"
    folder.mkdir(parents=True)
    metrics = json.loads((ROOT / "results" / "S9" / "compact" / "metrics.json").read_text())
    # As where the tables of a network failed.
    metrics |= {"net": "mine", "mult_adds": None, "receptive_field": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    page = handin.write_page(folder).read_text()
    assert page.startswith("# S9/mine: results")
    assert "Made by `python -m helpers report S9/mine`" in page
    assert "| `mine` | **" in page
    assert "python -m helpers check S9 my_network.py:Mine" in page
    assert "<details><summary>Its layers" not in page


def test_a_run_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine has no metrics\.json: train the run first"):
        handin.write_page(tmp_path / "mine")
