"""Running notebooks: which file a run may replace, and what Colab's first cell does."""

import logging
import re
import subprocess
import sys
import time
import types

import nbformat
import pytest

from helpers import colab, notebook_runner
from helpers.config import FULL, QUICK, ROOT, SMOKE, Settings
from helpers.data import load_sample


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_runner, "ROOT", tmp_path)
    for name in ("PROFILE", "DATASET", "QUICK_SECONDS"):
        monkeypatch.setenv(name, "")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write_notebook(root, *sources):
    content = nbformat.v4.new_notebook()
    content.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(content, root / "notebooks" / "N.ipynb")
    return (root / "notebooks" / "N.ipynb").read_bytes()


PRINTING = "import os, time\nfor name in ('PROFILE', 'DATASET'):\n    print(os.environ[name])"


def test_the_notebooks_are_those_of_the_series():
    assert notebook_runner.notebook_names() == [
        *notebook_runner.ORDER,
        "playground",
    ]


def test_a_short_run_leaves_the_notebook_alone_and_saves_a_copy(root, capsys):
    before = write_notebook(root, PRINTING)
    page = notebook_runner.run_notebook("N", Settings(SMOKE, "sample", output_dir=root))
    folder = page.parent
    assert folder == root / "results" / "_smoke-sample"
    assert (root / "notebooks" / "N.ipynb").read_bytes() == before
    [cell] = nbformat.read(folder / "N.ipynb", as_version=4).cells
    assert [output.text for output in cell.outputs] == ["smoke\nsample\n"]
    assert cell.execution_count == 1
    assert "papermill" not in cell.metadata


def test_a_full_run_replaces_the_notebook_only_if_it_ends_well(root):
    full = Settings(FULL, "cifar10", output_dir=root)
    write_notebook(root, PRINTING)
    page = notebook_runner.run_notebook("N", full)
    assert page == root / "results" / "_running" / "N.html"
    replaced = nbformat.read(root / "notebooks" / "N.ipynb", as_version=4)
    assert replaced.cells[0].outputs[0].text == "full\ncifar10\n"
    before = write_notebook(root, "print('well')", "raise ValueError('not well')")
    with pytest.raises(
        ChildProcessError, match="a cell failed: ValueError: not well; as far as it was run: "
    ):
        notebook_runner.run_notebook("N", full)
    assert (root / "notebooks" / "N.ipynb").read_bytes() == before
    assert (root / "results" / "_running" / "N.ipynb").is_file()


def test_a_notebook_gets_its_time_budget_and_runs_in_its_folder(root):
    write_notebook(root, "import os\nprint(os.environ['QUICK_SECONDS'])\nprint(os.getcwd())")
    page = notebook_runner.run_notebook("N", Settings(QUICK, "sample", output_dir=root))
    folder = page.parent
    [cell] = nbformat.read(folder / "N.ipynb", as_version=4).cells
    assert cell.outputs[0].text == f"{QUICK.seconds}\n{root / 'notebooks'}\n"


def test_headings_and_training_are_printed_and_the_rest_goes_to_the_log(root, capsys):
    content = nbformat.v4.new_notebook()
    content.cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n## 1. Set-up\n\nText."),
        nbformat.v4.new_code_cell("print('a table of many lines')"),
        nbformat.v4.new_markdown_cell("## 2. Training"),
        nbformat.v4.new_code_cell("print('epoch  1/2  lr 0.1\\nother\\nepoch 1:  25%|##')"),
        nbformat.v4.new_code_cell("print('S7/s7, this quick run: 10 images')"),
    ]
    nbformat.write(content, root / "notebooks" / "N.ipynb")
    notebook_runner.run_notebook("N", Settings(SMOKE, "sample", output_dir=root))
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d+:\d\d$", "TIME", line) for line in lines] == [
        "N > 1. Set-up   TIME",
        "N > 2. Training   TIME",
        "  epoch  1/2  lr 0.1",
        "  S7/s7, this quick run: 10 images",
    ]
    log = (root / "results" / "_running" / "N.log").read_text()
    assert "a table of many lines" in log
    assert "other" in log


@pytest.mark.parametrize("address", ["..", "https://github.com/ann/first/raw/main"])
def test_the_page_of_a_notebook_needs_no_other_file(address, root):
    (root / "results").mkdir()
    (root / "results" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    content = nbformat.v4.new_notebook()
    content.cells = [
        nbformat.v4.new_markdown_cell(f"![A picture]({address}/results/picture.png)"),
        nbformat.v4.new_code_cell("print('result', 6 * 7)"),
    ]
    nbformat.write(content, root / "notebooks" / "N.ipynb")
    page = notebook_runner.run_notebook("N", Settings(SMOKE, "sample", output_dir=root))
    html = page.read_text()
    assert "result 42" in html
    assert 'src="data:image/png;base64,' in html
    assert "picture.png" not in html


def test_a_cell_that_prints_nothing_for_long_is_reported_as_running(root, monkeypatch, capfd):
    monkeypatch.setattr(notebook_runner, "HEARTBEAT_SECONDS", 0.5)
    write_notebook(root, "import time\ntime.sleep(2)")
    handlers = logging.getLogger("papermill").handlers[:]
    notebook_runner.run_notebook("N", Settings(SMOKE, "sample", output_dir=root))
    heartbeats = re.findall(r"^  still running   \d+:\d\d$", capfd.readouterr().out, re.M)
    assert len(heartbeats) >= 3
    assert logging.getLogger("papermill").handlers == handlers


def test_a_notebook_that_prints_needs_no_other_sign_of_life(root, monkeypatch, capfd):
    monkeypatch.setattr(notebook_runner, "HEARTBEAT_SECONDS", 1)
    write_notebook(root, "")
    with notebook_runner._follow(root / "notebooks" / "N.ipynb", root / "log"):
        for number in range(8):
            logging.getLogger("papermill").info(f"epoch {number}/9")
            time.sleep(0.3)
    assert "still running" not in capfd.readouterr().out


def test_setup_twice_prints_the_same(capsys, monkeypatch):
    monkeypatch.setenv("DATASET", "sample")
    outputs = []
    for _ in range(2):
        settings = colab.setup("smoke")
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "profile: smoke  data: sample  seed: 0" in outputs[0]
    assert settings.output_dir == ROOT


def test_in_colab_only_what_is_missing_is_installed_pinned_and_without_dependencies(monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(colab, "IN_COLAB", True)
    colab.setup("smoke")
    assert commands == []  # nothing is missing on this machine
    monkeypatch.setattr("importlib.metadata.distributions", tuple)
    colab._install_missing()
    [command] = commands
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in command
    for name in ("torchinfo", "torchsummary", "torch-lr-finder", "grad-cam", "ttach"):
        assert any(part.startswith(f"{name}==") for part in command), name
    assert not any(name.startswith(("torch=", "numpy", "opencv")) for name in command)


def test_in_colab_results_can_be_on_drive_and_come_as_a_zip(root, monkeypatch, tmp_path):
    calls = []
    google_colab = types.ModuleType("google.colab")
    google_colab.drive = types.SimpleNamespace(mount=calls.append)
    google_colab.files = types.SimpleNamespace(download=calls.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", google_colab)
    monkeypatch.setattr(colab, "IN_COLAB", True)
    monkeypatch.setattr(colab, "_install_missing", lambda: None)
    settings = colab.setup("smoke", keep_on_drive=True)
    assert calls == ["/content/drive"]
    for folder in (settings.results_dir("sample"), settings.checkpoint_dir("sample")):
        assert str(folder).startswith("/content/drive/MyDrive/")
    archives = []

    def make_archive(*arguments):
        archives.append(arguments)
        return "/content/N.zip"

    monkeypatch.setattr("shutil.make_archive", make_archive)
    colab.download_results(Settings(SMOKE, "sample", output_dir=root), load_sample(), "N")
    assert calls[-1] == "/content/N.zip"
    assert archives[0][2] == root / "results" / "_smoke-sample" / "N"
