"""The requirement rows follow from the network, and fail where the network fails them."""

import pytest
from torch import nn

from helpers import requirements
from helpers.models import build

GOOD = {
    "device": "Tesla T4",
    "device_type": "cuda",
    "test_accuracy": 91.0,
    "test_images": 10_000,
    "dataset": "CIFAR-10",
    "epochs": 10,
}


def verdicts(table):
    return dict(zip(table["demand"], table["passed"], strict=True))


def test_s7_has_all_that_is_asked_of_the_network():
    table = requirements.of_network("S7", build("s7"))
    assert table["passed"].all()
    measured = dict(zip(table["demand"], table["measured"], strict=True))
    assert measured["receptive field > 44"] == "98 (74 before the global pooling)"
    assert measured["< 1M parameters"] == "439,808"
    assert measured["three max poolings"] == "3 (pool1, pool2, pool3)"


def test_s7_dropout_has_two_poolings_and_its_classifier_before_the_pooling():
    table = requirements.of_network("S7", build("s7_dropout"))
    failed = {demand for demand, passed in verdicts(table).items() if not passed}
    assert failed == {"three max poolings", "FC (or 1x1 convolution) after it"}


def sub(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@pytest.mark.parametrize(
    ("path", "module", "demand"),
    [
        # A 1x1 kernel has nothing to dilate, whatever its dilation says.
        ("block2.3", nn.Conv2d(64, 128, 1, dilation=2), "dilated convolution, k > 1 and d > 1"),
        ("block4.0.depthwise", nn.Conv2d(64, 64, 1, groups=64), "depthwise separable"),
        ("block4.0.pointwise", nn.Identity(), "depthwise separable"),
        ("block1.12", nn.Conv2d(64, 64, 2, stride=2), "three max poolings"),
        ("block1.12", nn.Identity(), "three max poolings"),
        ("block3", nn.MaxPool2d(2), "four blocks"),
        ("gap", nn.AdaptiveMaxPool2d(1), "global average pooling"),
        ("gap", nn.MaxPool2d(4), "global average pooling"),
        ("gap", nn.Identity(), "global average pooling"),
        ("block4.3", nn.Conv2d(64, 128, 23, padding=11), "< 1M parameters"),
    ],
)
def test_a_network_without_the_part_fails_its_row(path, module, demand):
    model = build("s7")
    sub(model, path, module)
    rows = verdicts(requirements.of_network("S7", model))
    [row] = [row for row in rows if demand in row]
    assert not rows[row]


def test_a_narrow_view_fails():
    model = build("s7")
    model.block4[0] = nn.Conv2d(64, 64, 1)
    for block in (model.block1, model.block2, model.block3, model.block4):
        for i, layer in enumerate(block):
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                block[i] = nn.Conv2d(layer.in_channels, layer.out_channels, 1)
    table = requirements.of_network("S7", model).set_index("demand")
    row = table.loc["receptive field > 44"]
    assert row["measured"] == "32 (8 before the global pooling)"
    assert not row["passed"]


def test_a_good_run_passes():
    assert requirements.of_run("S7", GOOD)["passed"].all()


@pytest.mark.parametrize(
    "change",
    [
        {"device_type": "cpu"},
        {"test_accuracy": 79.99},
        {"test_images": 316},
        {"dataset": "scikit-learn's digits, not CIFAR-10"},
    ],
)
def test_a_run_that_falls_short_fails(change):
    assert not requirements.of_run("S7", GOOD | change)["passed"].all()
