"""What notebooks show: source code, collapsed text, images and figures. Uploads and downloads."""

import io
import sys
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import colab, plotting
from helpers.config import SMOKE, Settings
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
