"""What `make` deletes: its own folders, and never anything through a link."""

import shutil
import subprocess
import sys

import pytest

from helpers.settings import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path):
    """A repository whose lock file asks for nothing, and whose .venv is a link out of it."""
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    for folder in (clone, elsewhere):
        folder.mkdir()
    shutil.copy(ROOT / "Makefile", clone)
    (clone / "requirements.lock").write_text("")
    (elsewhere / "thesis.txt").write_text("three years of work")
    (clone / ".venv").symlink_to(elsewhere)
    for name in ("helpers", "tests", "notebooks", "colab"):
        (clone / name).mkdir()
    (clone / "helpers" / "linked").symlink_to(elsewhere)
    return clone


@pytest.mark.parametrize("target", ["setup", "clean"])
def test_a_link_is_removed_and_what_it_points_to_stays(clone, target):
    (clone.parent / "elsewhere" / "__pycache__").mkdir()
    command = ["make", target, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = {path.name for path in (clone.parent / "elsewhere").iterdir()}
    assert there == {"thesis.txt", "__pycache__"}
    assert not (clone / ".venv").is_symlink()
    assert (clone / ".venv" / ".installed").exists() == (target == "setup")
