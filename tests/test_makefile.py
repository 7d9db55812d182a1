"""`make` deletes only its own folders, and never anything behind a link."""

import re
import shutil
import subprocess
import sys

import pytest

from helpers.config import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path):
    """A repository with an empty lock file, whose .venv is a link to a folder outside."""
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    for folder in (clone, elsewhere):
        folder.mkdir()
    shutil.copy(ROOT / "Makefile", clone)
    (clone / "requirements.lock").write_text("")
    (elsewhere / "thesis.txt").write_text("three years of work")
    (clone / ".venv").symlink_to(elsewhere)
    for name in ("helpers", "tests", "notebooks", "tools"):
        (clone / name).mkdir()
    (clone / "helpers" / "linked").symlink_to(elsewhere)
    return clone


@pytest.mark.parametrize("target", ["setup", "clean"])
def test_a_link_is_removed_and_what_it_points_to_stays(clone, target):
    (clone.parent / "elsewhere" / "__pycache__").mkdir()
    command = ["make", target, f"PYTHON={sys.executable}"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    remaining = {path.name for path in (clone.parent / "elsewhere").iterdir()}
    assert remaining == {"thesis.txt", "__pycache__"}
    assert not (clone / ".venv").is_symlink()
    assert (clone / ".venv" / ".installed").exists() == (target == "setup")


def test_help_describes_every_target(clone):
    text = (clone / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)[1]
    result = subprocess.run(["make"], cwd=clone, capture_output=True, text=True, check=True)
    described = re.findall(r"^make ([\w-]+) +\S", result.stdout, re.MULTILINE)
    assert sorted(described) == sorted(targets.replace("\\", "").split())


@pytest.mark.parametrize("repository", ["", "owner", "owner/name/more", "owner/na me"])
def test_badges_refuses_what_is_no_repository(clone, repository):
    command = ["make", "badges", f"REPO={repository}"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"REPO='{repository}' is not of the form owner/name" in result.stderr


def test_a_published_copy_has_its_own_address_and_absolute_links(clone):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(ROOT / "notebooks", clone / "notebooks", ignore=ignore, dirs_exist_ok=True)
    for repository in ("ann/first", "bob/second-name"):  # published, then forked
        command = ["make", "badges", f"REPO={repository}"]
        subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
        texts = {path: path.read_text() for path in clone.rglob("*.ipynb")}
        for name in ("pyproject.toml", "README.md"):
            texts[clone / name] = (clone / name).read_text()
        for path, text in texts.items():
            assert "OWNER" not in text, path
            assert "/cifar10-notebooks/" not in text, path
            owners = re.findall(r"(?:github\.com|\.google\.com/github)/(ann|bob)/[\w-]+", text)
            assert {*owners} <= {repository[:3]}, path
        links = []
        for path in clone.rglob("*.ipynb"):
            links += re.findall(r"(!?)\[[^]\n]*\]\(([^)\\]+)", texts[path])
        assert len(links) > 100
        prefix = f"https://github.com/{repository}/"
        for is_picture, link in links:
            assert link.startswith(("http", "#")), link
            if link.startswith(prefix) and "/actions/" not in link:
                kind, branch, file = link.removeprefix(prefix).split("/", 2)
                assert (kind, branch) == ("raw" if is_picture else "blob", "main")
                assert (ROOT / file.partition("#")[0]).exists(), link
