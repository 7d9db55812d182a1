"""Drawings show what the layers compute: numbers, positions and sizes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import drawings, inspection
from helpers.models import MODELS, get_model


def grid_texts(axis):
    return [text.get_text() for text in axis.texts]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_worked_convolution_is_that_of_pytorch(seed):
    random = np.random.default_rng(seed)
    image, kernel = random.integers(0, 4, (5, 6)), random.integers(-2, 3, (3, 3))
    row, column = int(random.integers(0, 3)), int(random.integers(0, 4))
    figure = drawings.draw_convolution(image, kernel, row, column)
    by_hand = [
        [int((image[i : i + 3, j : j + 3] * kernel).sum()) for j in range(4)] for i in range(3)
    ]
    feature_map = figure.axes[2]
    assert grid_texts(feature_map) == [str(number) for line in by_hand for number in line]
    assert figure.get_suptitle().endswith(f"= {by_hand[row][column]}")
    terms = figure.get_suptitle().removeprefix("One output: ").partition(" = ")[0]
    factors = [term.replace("(", "").replace(")", "").split("·") for term in terms.split(" + ")]
    assert sum(math.prod(map(int, pair)) for pair in factors) == by_hand[row][column]


def gradient_columns(model, layer, size=32):
    """The columns of the image that the middle output of a module reads, by its gradient."""
    image = torch.rand(1, 3, size, size, requires_grad=True)
    outputs = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: outputs.append(o))
    model(image)
    handle.remove()
    middle = outputs[0].shape[-1] // 2
    outputs[0][0, :, middle, middle].sum().backward()
    return np.flatnonzero((image.grad[0] != 0).any(0).any(0).numpy())


def test_the_positions_read_are_those_of_the_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    rows, reads = drawings.positions_read(model, "conv3")
    assert list(rows) == ["image", "conv1", "conv2", "conv3"]
    columns = gradient_columns(model, "2")
    assert np.array_equal(np.diff(rows["image"]), np.diff(columns))
    assert all(len(sources) == 3 for sources in reads["conv2"][0].values())


@pytest.mark.parametrize("name", ["s7", "s10", "compact", "resnet18"])
def test_the_field_drawn_is_as_wide_as_the_table_says(name):
    model = get_model(name)
    layers = inspection.layer_path(inspection.trace_layers(model))
    last = next(
        layer for layer in reversed(layers) if max(layer.kernel) > 1 and layer.kind == "conv"
    )
    rows, _ = drawings.positions_read(model, last.name)
    assert max(rows["image"]) - min(rows["image"]) + 1 == last.field[1]


def test_an_unknown_layer_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"^last=conv99 is not on the main path: conv1, conv2"):
        drawings.positions_read(get_model("s7"), "conv99")


@pytest.mark.parametrize("name", MODELS)
def test_the_boxes_of_a_model_have_all_its_layers_with_sizes_and_fields(name):
    model = get_model(name)
    boxes = drawings.list_boxes(model)
    layers = inspection.layer_path(inspection.trace_layers(model))
    pointwise = sum(
        layer.kind == "pointwise" and before.kind == "depthwise"
        for before, layer in itertools.pairwise(layers)
    )
    assert sum(box.count for box in boxes) == len(layers) - pointwise
    assert [boxes[-1].size, boxes[-1].field] == [1, layers[-1].field[1]]
    assert {box.size for box in boxes} == {layer.nout[1] for layer in layers}
    figure = drawings.draw_model(model, name)
    figure.canvas.draw()
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {str(box.field) for box in boxes} <= texts
    assert {f"{box.size}x{box.size}" for box in boxes} <= texts


def test_boxes_of_compact_are_what_its_class_says():
    boxes = drawings.list_boxes(get_model("compact"))
    units = [(box.text, box.count) for box in boxes if box.added]
    assert units == [
        ("3x3 depthwise, 32", 4),
        ("3x3 depthwise, 64", 5),
        ("3x3 depthwise, 64", 4),
        ("3x3 depthwise, 96", 3),
    ]
    strided = [box.text for box in boxes if "stride 2" in box.text]
    assert strided == [
        "3x3, 64, 8 groups, stride 2",
        "3x3, 64, 8 groups, dilation 3, stride 2",
        "3x3, 96, 8 groups, stride 2",
    ]
    assert [boxes[0].text, boxes[0].kind] == ["3x3, 32", "convolution"]
