"""What notebooks show: source code, collapsed text, images and figures. Uploads and downloads."""

import io
import re
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from helpers import colab, plotting
from helpers.config import ROOT, SMOKE, Settings
from helpers.data import load_sample
from helpers.models import MODELS, get_model


@pytest.fixture
def colab_files(monkeypatch):
    """Pretend to be in Colab, and return a stand-in for the module google.colab.files."""
    files = types.SimpleNamespace()
    google_colab = types.ModuleType("google.colab")
    google_colab.files = files
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", google_colab)
    monkeypatch.setattr(colab, "IN_COLAB", True)
    return files


def test_source_code_is_highlighted_and_begins_at_the_margin():
    markdown = colab.show_source(get_model, MODELS["s7"].__init__).data
    assert markdown.startswith("```python\ndef get_model(")
    assert "\n\n\ndef __init__(self)" in markdown
    assert "\n    super().__init__()\n" in markdown
    assert markdown.endswith("\n```")


def test_collapsible_text_is_unchanged():
    shown = colab.collapsible("Layers < 3", "a < b\nc").data
    assert "<summary>Layers &lt; 3</summary>" in shown
    assert "<pre>a &lt; b\nc</pre>" in shown


def test_an_image_is_square_and_upright(tmp_path, capsys):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 10))  # the upper half of the central square
    wide.paste("lime", (20, 10, 40, 20))
    sideways = wide.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    sideways.save(tmp_path / "photo.png", exif=exif)
    photo = colab.load_image(str(tmp_path / "photo.png"))
    assert photo.size == (20, 20)
    assert (np.asarray(photo)[:10] == [0, 0, 255]).all()
    assert (np.asarray(photo)[10:] == [0, 255, 0]).all()
    assert colab.load_image().size == (427, 427)
    assert capsys.readouterr().out == ""


def test_the_error_for_a_file_that_is_not_an_image_names_the_file(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("notes.txt", "missing.png"):
        with pytest.raises(OSError, match=name):  # a notebook shows it as one line
            colab.load_image(str(tmp_path / name))


def test_outside_colab_the_chosen_image_is_the_file(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    for upload in (False, True):
        assert colab.choose_image(str(tmp_path / "photo.png"), upload).size == (20, 20)
    assert colab.choose_image().size == (427, 427)


def test_in_colab_the_chosen_image_can_be_uploaded(tmp_path, monkeypatch, colab_files):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), "red").save("file.png")

    def upload():
        Image.new("RGB", (50, 40), "red").save("uploaded.png")  # Colab writes it here
        return {"uploaded.png": b""}

    colab_files.upload = upload
    assert colab.choose_image("file.png", upload=False).size == (20, 20)
    assert colab.choose_image("file.png", upload=True).size == (40, 40)
    colab_files.upload = dict  # the dialog is canceled
    assert colab.choose_image("file.png", upload=True).size == (20, 20)


def test_a_figure_is_shown_as_it_is_saved(tmp_path):
    path = tmp_path / "folder" / "figure.png"
    shown = colab.save_and_show(plotting.new_figure(2, 1, "Title")[0], path)
    assert path.read_bytes() == shown.data
    assert Image.open(io.BytesIO(shown.data)).size == (200, 100)
    assert shown.data.startswith(b"\x89PNG")


def test_the_folder_of_the_results_is_printed_and_in_colab_downloaded(
    tmp_path, monkeypatch, capsys, colab_files
):
    folder = tmp_path / "results" / "_smoke-sample" / "S7"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    downloads = []
    colab_files.download = downloads.append
    monkeypatch.setattr(colab, "ROOT", tmp_path)
    monkeypatch.setattr(colab, "IN_COLAB", False)
    colab.download_results(settings, load_sample(), "S7")
    assert capsys.readouterr().out == "The files are in results/_smoke-sample/S7\n"
    assert downloads == []
    monkeypatch.setattr(colab, "IN_COLAB", True)
    colab.download_results(settings, load_sample(), "S7")
    assert downloads == [str(tmp_path / "S7.zip")]
    assert (tmp_path / "S7.zip").is_file()


def test_setup_shows_the_whole_text_of_tables(monkeypatch):
    monkeypatch.setenv("DATASET", "sample")
    pd.options.display.max_colwidth = 50
    colab.setup("smoke")
    assert "x" * 200 in pd.DataFrame({"text": ["x" * 200]})._repr_html_()


def test_setup_works_in_any_folder_and_repeatedly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", "sample")
    texts = []
    for _ in range(2):
        settings = colab.setup("smoke", reuse=True)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert settings == Settings(SMOKE, "sample", reuse=True)
    assert "Saved runs are loaded from results/ instead of training." in texts[0]
    assert "two epochs" not in texts[0]
    colab.setup("smoke")
    assert "Training uses some images and two epochs." in capsys.readouterr().out
    monkeypatch.delenv("DATASET")
    colab.setup("full")
    assert "Training uses all images and all epochs." in capsys.readouterr().out
    with pytest.raises(ValueError, match="PROFILE=fast"):
        colab.setup("fast")


@pytest.mark.parametrize(
    ("name", "make", "center"),
    [
        ("clear.png", lambda: Image.new("RGBA", (20, 20), (200, 0, 0, 0)), (255, 255, 255)),
        ("half.png", lambda: Image.new("RGBA", (20, 20), (0, 0, 0, 128)), (127, 127, 127)),
        ("palette.gif", lambda: Image.new("RGB", (20, 20), (0, 0, 255)).convert("P"), (0, 0, 255)),
        (
            "gray16.png",
            lambda: Image.fromarray(np.full((20, 20), 32768, np.uint16)),
            (127, 127, 127),
        ),
        (
            "float.tiff",
            lambda: Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)),
            (132, 132, 132),
        ),
    ],
)
def test_pictures_of_every_kind_keep_their_colors(name, make, center, tmp_path):
    make().save(tmp_path / name)
    pixels = np.asarray(colab.load_image(str(tmp_path / name)), dtype=int)
    assert pixels.shape == (20, 20, 3)
    assert np.abs(pixels[10, 10] - center).max() <= 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.com/cat.jpg", "is an address: download the picture"),
        ("photo.heic", "is not a picture that can be read: save it as PNG or JPEG"),
        ("large.png", "has too many pixels"),
    ],
)
def test_a_picture_that_cannot_be_used_is_one_line(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.heic").write_bytes(b"....ftypheic")
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(OSError, match=message):
        colab.load_image(path)


def test_a_picture_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (30, 20), "red").save(tmp_path / "cat.png")
    assert colab.load_image("~/cat.png").size == (20, 20)


def test_a_figure_has_its_title_as_alternative_text(tmp_path):
    shown = colab.save_and_show(plotting.new_figure(2, 1, "Accuracy")[0], tmp_path / "a.png")
    _, metadata = shown._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "Accuracy"


CELL = """
from torch import nn
import torch
class Mine(nn.Module):
    def forward(self, x):
        return x.view(7, -1)
Mine()(torch.zeros(2, 3))
"""


@pytest.fixture
def shell(capsys, monkeypatch):
    shell = InteractiveShell()
    shell.set_custom_exc((Exception, KeyboardInterrupt), colab._show_error)
    monkeypatch.setattr(colab, "get_ipython", lambda: shell)
    return shell


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        (
            CELL,
            [
                "line 6 of the cell: Mine()(torch.zeros(2, 3))",
                "line 5 of forward: return x.view(7, -1)",
                "RuntimeError: shape '[7, -1]' is invalid for input of size 6",
            ],
        ),
        (
            "from helpers import colab\ncolab.setup('Quick')",
            [
                "line 2 of the cell: colab.setup('Quick')",
                "ValueError: PROFILE=Quick is unknown; it is one of auto, full, quick, smoke",
            ],
        ),
        ("open('/nope')", ["FileNotFoundError: [Errno 2] No such file or directory: '/nope'"]),
        ("raise KeyboardInterrupt", ["KeyboardInterrupt"]),
    ],
)
def test_an_error_shows_the_lines_of_the_notebook_and_one_sentence(cell, lines, shell, capsys):
    shell.run_cell(cell)
    assert capsys.readouterr().out.splitlines() == lines


def test_the_whole_traceback_of_an_error_is_there_on_request(shell, capsys):
    shell.run_cell(CELL)
    capsys.readouterr()
    shell.run_cell("%tb")
    assert "torch/nn/modules/module.py" in capsys.readouterr().out


def test_other_settings_ask_to_run_the_cells_again(shell, capsys, monkeypatch):
    monkeypatch.setenv("DATASET", "sample")
    line = "The settings have changed: run the cells below again."
    for profile, is_told in (("smoke", False), ("smoke", False), ("quick", True)):
        shell.run_cell(f"from helpers import colab\nsettings = colab.setup({profile!r})")
        assert (line in capsys.readouterr().out) == is_told


def test_a_kernel_without_the_packages_says_which_to_choose():
    code = (
        "import sys\nsys.modules['pandas'] = None\n"
        "try:\n    from helpers import colab\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = completed.stdout.splitlines()
    assert lines[0] == f"This notebook runs in {sys.executable}, which has no pandas."
    assert "Choose the kernel of this project's .venv" in lines[1]
    assert len(lines) == 2


def test_tables_are_aligned_to_the_left_on_every_page():
    table = pd.DataFrame({"s7": ["✅ passed: 439,808"]}, index=["< 1M parameters"])
    html_table = colab.show_table(table.rename_axis("requirement")).data
    cells = re.findall(r"<t[dh]\b[^>]*>", html_table)
    assert len(cells) == 6
    assert all('align="left" style="text-align: left' in cell for cell in cells)
    assert "✅ passed: 439,808</td>" in html_table
    assert "&lt; 1M parameters</th>" in html_table
