"""Figures show the data they are given; fields and kernels read what gradients say."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import notebook
from helpers.anatomy import requirements, summary
from helpers.figures import fields, plots
from helpers.models import MODELS, build
from helpers.training.loop import History
from tests import published
from tracing.layers import layers

BLOCKS = ("block1", "block2", "block3", "block4")


def opened(model):
    """The network with positive weights, no bias and mean poolings: every pixel counts."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for i, part in enumerate(module):
                module[i] = nn.AvgPool2d(2) if isinstance(part, nn.MaxPool2d) else part
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
            if module.bias is not None:
                module.bias.data.zero_()
    return model


@pytest.mark.parametrize("name", ["s7", "s9", "compact"])
def test_the_nominal_square_is_what_the_gradient_reaches(name):
    model = opened(build(name))
    found, inputs = layers(model), torch.rand(1, 3, 32, 32)
    for block in BLOCKS:
        top, left, height, width = fields.nominal(found, block)
        seen = np.argwhere(fields.effective(model, block, inputs) > 0)
        inside = np.clip([[top, left], [top + height - 1, left + width - 1]], 0, 31)
        assert (seen >= inside[0]).all()
        assert (seen <= inside[1]).all()
        if name != "s9":  # whose strided 1x1 kernels leave out pixels at the border
            assert (seen.min(axis=0) == inside[0]).all()
            assert (seen.max(axis=0) == inside[1]).all()


def test_the_effective_field_is_the_mean_absolute_gradient_and_leaves_the_network_alone():
    model = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, bias=False)).train()
    model[0].weight.data = torch.arange(-13.0, 14).view(1, 3, 3, 3)
    field = fields.effective(model, "0", torch.rand(5, 3, 32, 32))
    expected = model[0].weight.detach().abs().mean((0, 1))
    assert np.allclose(field[15:18, 15:18], expected)
    assert np.count_nonzero(field) == 9 - np.count_nonzero(expected == 0)
    assert model.training
    assert model[0].weight.grad is None
    with pytest.raises(AttributeError, match="block9"):
        fields.effective(build("s7"), "block9", torch.rand(1, 3, 32, 32))


def test_growth_draws_each_square_over_image_and_field():
    model, image = build("s7"), np.zeros((32, 32, 3), np.uint8)
    figure = fields.growth(model, BLOCKS, image, torch.rand(2, 3, 32, 32), "Growth")
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        "block1: 8x8", "block2: 22x22", "block3: 42x42", "block4: 74x74",
    ]  # fmt: skip
    for above, below in zip(figure.axes[:4], figure.axes[4:], strict=True):
        assert above.patches[0].get_bbox().bounds == below.patches[0].get_bbox().bounds
        assert below.images[0].get_array().shape == (32, 32)
    assert figure.axes[3].patches[0].get_width() == 74


@pytest.mark.parametrize("name", MODELS)
def test_shares_are_of_all_parameters_and_multiply_adds(name):
    model = build(name)
    table = summary.shares(model)
    assert (table >= 0).all(axis=None)
    assert (table.sum() <= 100).all()
    assert table.sum().min() > 94  # the rest is batch normalisation's
    convs = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    found = table["parameters"][~table.index.str.startswith("fc")].sum()
    bias = sum(
        m.bias.numel() for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None
    )
    assert found == pytest.approx(100 * (convs + bias) / published.FIGURES[name][0])


def test_layers_of_one_module_share_its_parameters():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.same = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(self.same(self.same(self.first(x))).mean((2, 3)))

    table = summary.shares(Twice())["parameters"]
    assert table["conv2"] == table["conv3"]
    assert table.sum() == pytest.approx(100)


def test_bars_show_every_value_by_its_name():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.5]}, index=["first", "second"])
    axis = plots.bars(table.rename_axis("row"), "unit", "Title").axes[0]
    widths = [[bar.get_width() for bar in drawn] for drawn in axis.containers]
    assert widths == [[1.0, 2.0], [3.0, 4.5]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    assert axis.get_xlabel() == "unit"
    assert axis.get_ylabel() == "row"
    assert {text.get_text() for text in axis.texts} == {"1.0", "2.0", "3.0", "4.5"}
    [counts] = plots.bars(pd.DataFrame({"images": [5000, 1000]}), "images", "Title").axes
    assert {text.get_text() for text in counts.texts} == {"5,000", "1,000"}


def test_curves_put_rates_and_accuracies_over_the_same_epochs():
    rows = [
        {"epoch": n, "train_loss": 2 / n, "test_loss": 3 / n, "train_accuracy": 10.0 * n,
         "test_accuracy": 9.0 * n}
        for n in (1, 2, 3)
    ]  # fmt: skip
    figure = plots.curves(History(rows, [0.1, 0.2, 0.3, 0.2, 0.1, 0.0]), "Title")
    accuracy, loss, rate = figure.axes
    assert list(rate.lines[0].get_xdata()) == [0.5, 1, 1.5, 2, 2.5, 3]  # two steps an epoch
    assert list(rate.lines[0].get_ydata()) == [0.1, 0.2, 0.3, 0.2, 0.1, 0.0]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[10, 20, 30], [9, 18, 27]]
    assert [list(line.get_ydata()) for line in loss.lines] == [[2, 1, 2 / 3], [3, 1.5, 1]]
    assert accuracy.get_shared_x_axes().joined(accuracy, rate)


def calibration_error(labels, logits):
    """Written out: C. Guo et al., arXiv:1706.04599, equation 3."""
    sure = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()
    right = logits.argmax(axis=1) == labels
    error = 0.0
    for low in np.linspace(0, 0.9, 10):
        inside = (sure > low) & (sure <= low + 0.1)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return error


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_reliability_states_the_expected_calibration_error(seed, scale):
    random = np.random.default_rng(seed)
    logits = (scale * random.standard_normal((200, 10))).astype(np.float32)
    labels = random.integers(0, 10, 200)
    figure = plots.reliability(labels, logits, "Title")
    error = float(figure.get_suptitle().split()[-1])
    assert error == pytest.approx(calibration_error(labels, logits), abs=6e-4)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(1)


def test_a_bin_border_and_full_confidence_are_counted():
    logits = np.full((4, 10), -100, np.float32)
    logits[:2, 0] = logits[2:, 1] = 0
    logits[2:, 2] = 0  # a half for each of two classes
    figure = plots.reliability(np.array([0, 0, 1, 3]), logits, "Title")
    # Always sure: always right; half sure: half right.
    assert figure.get_suptitle() == "Title\nexpected calibration error 0.000"


def test_demands_stand_side_by_side_with_a_mark_and_a_word():
    model = build("s7_dropout")
    tables = {"s7": requirements.of_network("S7", build("s7"))}
    tables["s7_dropout"] = requirements.of_network("S7", model).iloc[:-1]
    table = requirements.side_by_side(tables)
    assert list(table.index) == list(tables["s7"]["demand"])
    assert table.loc["three max poolings"].to_list() == [
        "✓ passed: pool1, pool2, pool3", "✗ failed: pool1, pool2",
    ]  # fmt: skip
    assert table.loc["< 1M parameters"].to_list() == ["✓ passed: 439,808", "-"]
    json.dumps(table.to_dict())


def test_torchinfo_table_is_as_wide_as_published_and_names_its_unit():
    text = summary.torchinfo_table(build("s10"))
    assert max(map(len, text.splitlines())) == 120
    assert "Units" not in text
    assert "Total mult-adds (millions): 379.27" in text


def test_listings_are_highlighted_and_begin_at_the_margin():
    shown = notebook.listing(build, MODELS["s7"].__init__).data
    assert shown.startswith("```python\ndef build(")
    assert "\ndef __init__(self)" in shown
    assert shown.endswith("\n```")


def test_folded_text_is_kept_as_it_is():
    assert "<pre>a &lt; b\nc</pre>" in notebook.folded("Two lines", "a < b\nc").data


def test_a_picture_is_a_square_and_upright(tmp_path, capsys):
    from PIL import Image

    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 20))
    sideways = wide.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    sideways.save(tmp_path / "photo.png", exif=exif)
    shown = notebook.picture(str(tmp_path / "photo.png"))
    assert shown.size == (20, 20)
    assert np.asarray(shown)[:, 5:-5].reshape(-1, 3).mean(axis=0).tolist() == [0, 0, 255]
    assert notebook.picture().size == (427, 427)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("notes.txt", "missing.png"):
        with pytest.raises(OSError, match=name):  # which a notebook shows as one line
            notebook.picture(str(tmp_path / name))


@pytest.mark.parametrize(
    "padded",
    [
        [nn.Conv2d(3, 1, 3, padding=1, padding_mode="reflect")],
        [nn.ZeroPad2d(1), nn.Conv2d(3, 1, 3)],
        [nn.Conv2d(3, 1, 3, padding=1)],
    ],
)
def test_the_square_lies_in_place_however_the_image_is_padded(padded):
    model = nn.Sequential(*padded, nn.Conv2d(1, 1, 3, stride=2, padding=1))
    found = layers(model)
    assert fields.nominal(found, str(len(model) - 1)).tolist() == [14, 14, 5, 5]


def test_maps_are_those_of_the_layer_also_where_the_next_one_overwrites_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    inputs = torch.randn(2, 3, 32, 32)
    assert fields.maps(model, "0", inputs).min() < 0
    assert torch.allclose(fields.maps(model, "0", inputs), model[0](inputs), atol=1e-5)


def test_confusion_has_the_true_classes_in_rows():
    labels, logits = np.array([0, 0, 0, 1, 2]), np.eye(3)[[1, 1, 0, 1, 2]]
    [axis] = plots.confusion(labels, logits, "abc", "Title").axes
    assert axis.images[0].get_array().tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 1]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")


def test_a_gallery_has_each_image_under_its_caption():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    axes = plots.gallery(images, ["none", "one", "two"], "Title", columns=2).axes
    assert [axis.get_title() for axis in axes] == ["none", "one", "two", ""]
    assert [axis.images[0].get_array().max() for axis in axes[:3]] == [0, 1, 2]


def test_a_figure_is_shown_as_it_is_kept(tmp_path):
    shown = notebook.show(plots.empty_figure(2, 1, "Title")[0], tmp_path / "folder" / "figure.png")
    assert (tmp_path / "folder" / "figure.png").read_bytes() == shown.data
    assert shown.data.startswith(b"\x89PNG")
