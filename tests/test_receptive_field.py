"""Receptive fields equal the published table and the extent of the input gradient."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.inspection import (
    format_size,
    layer_path,
    receptive_field,
    receptive_field_of,
    receptive_field_table,
    trace_layers,
)
from helpers.models import MODELS, get_model
from tests import reference_tables


def with_positive_weights(model: nn.Module) -> nn.Module:
    """Return a copy with the same geometry in which no path cancels another."""
    model = copy.deepcopy(model).double().eval()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(parent, name, pool)
            elif isinstance(child, nn.BatchNorm2d | nn.Dropout):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d | nn.Linear):
                nn.init.ones_(child.weight)
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
    return model


def gradient_extent(feature_maps, image: torch.Tensor, side: int = 1) -> int:
    """Return the height of the input region with a gradient from the central side x side values."""
    image.requires_grad_(True)
    maps = feature_maps(image)
    start = maps.shape[-1] // 2 - side // 2
    maps[..., start : start + side, start : start + side].sum().backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert rows.min() > 0 and rows.max() < image.shape[-2] - 1, "the image is too small"
    assert rows.max() - rows.min() == columns.max() - columns.min()
    return int(rows.max() - rows.min()) + 1


def maps_before_pooling(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the input of the global pooling."""
    maps = []
    if hasattr(model, "gap"):
        hook = model.gap.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    else:
        hook = model.layer4.register_forward_hook(lambda _, inputs, output: maps.append(output))
    with contextlib.suppress(RuntimeError):  # the later layers may not accept so large an image
        model(image)
    hook.remove()
    return maps[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_input_gradient_covers_exactly_the_traced_field(name):
    layers = trace_layers(get_model(name))
    before, including = receptive_field_of(layers)
    [gap] = [layer for layer in layers if layer.kind in ("gap", "gmp")]
    model = with_positive_weights(get_model(name))
    size = 32 * (including[0] // 32 + 2)  # larger than the field
    image = torch.ones(1, 3, size, size, dtype=torch.float64)

    def feature_maps(x):
        return maps_before_pooling(model, x)

    assert gradient_extent(feature_maps, image.clone()) == before[0] == before[1]
    assert gradient_extent(feature_maps, image.clone(), gap.kernel[0]) == including[0]


def test_published_table_of_s7():
    table = receptive_field_table(get_model("s7"))
    assert list(table.columns) == ["Nin", "k", "p", "s", "Nout", "Jout", "Rout"]
    text = table.to_csv(sep=" ", header=False).strip()
    assert text == reference_tables.S7_RECEPTIVE_FIELD.strip()


def test_a_column_names_the_modules():
    table = receptive_field_table(get_model("s9"), modules=True)
    assert table.loc["input", "module"] == ""
    assert table.loc["conv4", "module"] == "block1.12"
    assert table.loc["gap", "module"] == "gap"
    assert table.drop(columns="module").equals(receptive_field_table(get_model("s9")))


class Branches(nn.Module):
    """Branches with fields of 1, 3 and 9 pixels, then a pooling."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(3, 3, 3, padding=1)
        self.wide = nn.Conv2d(3, 3, 3, padding=4, dilation=4)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.gap(self.narrow(x) + x + self.wide(x))


def test_the_branch_with_the_largest_field_counts():
    assert receptive_field(Branches()) == ((9, 9), (40, 40))
    layers = trace_layers(Branches())
    assert [layer.module for layer in layers] == ["narrow", "wide", "gap"]
    assert [layer.module for layer in layer_path(layers)] == ["wide", "gap"]


def test_gates_are_not_on_the_path():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)
            self.fc = nn.Linear(10, 10)

        def forward(self, x):
            x = self.conv(x).mean((2, 3))
            return x * self.fc(x).sigmoid()

    class GatedMaps(Gated):
        def forward(self, x):
            x = self.conv(x)
            gate = self.fc(x.mean((2, 3))).sigmoid()
            return x * gate[:, :, None, None]

    assert [layer.name for layer in layer_path(trace_layers(Gated()))] == ["conv1", "gap", "fc"]
    layers = trace_layers(GatedMaps())
    assert [(layer.name, layer.gate) for layer in layers] == [
        ("conv1", False), ("gap", True), ("fc", True),
    ]  # fmt: skip
    assert [layer.name for layer in layer_path(layers)] == ["conv1"]
    assert receptive_field_of(layers) == ((3, 3), (3, 3))


def test_no_layers_have_no_path():
    assert layer_path([]) == []


def test_a_layer_that_flattens_maps_counts_as_a_global_pooling():
    model = nn.Sequential(
        nn.Conv2d(3, 2, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * 14 * 14, 9),
        nn.Linear(9, 9),
    )
    assert receptive_field(model) == ((6, 6), (32, 32))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 5]), st.integers(1, 2), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_any_chain_of_convolutions(chain):
    convolutions = [
        nn.Conv2d(1 if i else 3, 1, kernel, stride, dilation * (kernel - 1) // 2, dilation)
        for i, (kernel, stride, dilation) in enumerate(chain)
    ]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1))
    before, _ = receptive_field_of(trace_layers(model, image_size=256))
    image = torch.ones(1, 3, 256, 256, dtype=torch.float64)
    feature_maps = with_positive_weights(nn.Sequential(*convolutions))
    assert gradient_extent(feature_maps, image) == before[0] == before[1]


def test_rectangles_are_two_numbers_in_the_table():
    model = nn.Sequential(nn.Conv2d(3, 3, (3, 5), padding=(1, 2)), nn.AdaptiveAvgPool2d(1))
    assert receptive_field(model) == ((3, 5), (34, 36))
    row = receptive_field_table(model).loc["conv1"]
    assert list(row) == [32, "3x5", "1x2", 1, 32, 1, "3x5"]


def test_a_square_is_formatted_as_one_number():
    assert format_size((3, 3)) == 3
    assert format_size((7, 1)) == "7x1"
