"""Running notebooks: which file a run may replace, and what Colab's first cell does."""

import subprocess
import sys
import types

import nbformat
import pytest

from helpers import notebook
from helpers.settings import FULL, ROOT, SMOKE, Settings
from upkeep import execution


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    for name in ("PROFILE", "DATASET"):
        monkeypatch.setenv(name, "")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def put(root, *sources):
    content = nbformat.v4.new_notebook()
    content.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(content, root / "notebooks" / "N.ipynb")
    return (root / "notebooks" / "N.ipynb").read_bytes()


PRINTING = "import os, time\nfor name in ('PROFILE', 'DATASET'):\n    print(os.environ[name])"


def test_a_short_run_leaves_the_notebook_alone_and_its_copy_aside(root, capsys):
    before = put(root, PRINTING)
    folder = execution.execute("N", Settings(SMOKE, "digits", home=root))
    assert folder == root / "results" / "_smoke-digits"
    assert (root / "notebooks" / "N.ipynb").read_bytes() == before
    [cell] = nbformat.read(folder / "N.ipynb", as_version=4).cells
    assert [output.text for output in cell.outputs] == ["smoke\ndigits\n"]
    assert cell.execution_count == 1
    assert "papermill" not in cell.metadata


def test_a_full_run_replaces_the_notebook_only_if_it_ends_well(root):
    full = Settings(FULL, "cifar10", home=root)
    put(root, PRINTING)
    assert execution.execute("N", full) == root / "results"
    replaced = nbformat.read(root / "notebooks" / "N.ipynb", as_version=4)
    assert replaced.cells[0].outputs[0].text == "full\ncifar10\n"
    before = put(root, "print('well')", "raise ValueError('not well')")
    with pytest.raises(
        ChildProcessError, match="a cell failed: ValueError: not well; as far as it came"
    ):
        execution.execute("N", full)
    assert (root / "notebooks" / "N.ipynb").read_bytes() == before
    assert (root / "results" / "_running" / "N.ipynb").is_file()


def test_set_up_twice_says_the_same(capsys):
    said = []
    for _ in range(2):
        settings = notebook.set_up("smoke", "digits")
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "profile: smoke  data: digits  seed: 0" in said[0]
    assert settings.home == ROOT


def test_in_colab_only_what_is_missing_is_installed_pinned_and_without_dependencies(monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(notebook, "IN_COLAB", True)
    notebook.set_up("smoke", "digits")
    assert commands == []  # nothing is missing here
    monkeypatch.setattr("importlib.metadata.distributions", tuple)
    notebook._install_missing()
    [command] = commands
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in command
    for name in ("torchinfo", "torchsummary", "torch-lr-finder", "grad-cam", "ttach", "pooch"):
        assert any(part.startswith(f"{name}==") for part in command), name
    assert not any(name.startswith(("torch=", "numpy", "opencv")) for name in command)


def test_in_colab_results_can_live_on_drive_and_come_as_a_zip(root, monkeypatch, tmp_path):
    calls = []
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=lambda place: calls.append(place))
    colab.files = types.SimpleNamespace(download=lambda path: calls.append(path))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(notebook, "IN_COLAB", True)
    monkeypatch.setattr("helpers.notebook._install_missing", lambda: None)
    settings = notebook.set_up("smoke", "digits", on_drive=True)
    assert calls == ["/content/drive"]
    assert str(settings.results("digits")).startswith("/content/drive/MyDrive/")
    zipped = []
    monkeypatch.setattr("shutil.make_archive", lambda *a: zipped.append(a) or "/content/N.zip")
    notebook.download(Settings(SMOKE, "digits", home=root), "digits", "N")
    assert calls[-1] == "/content/N.zip"
    assert zipped[0][2] == root / "results" / "_smoke-digits" / "N"
