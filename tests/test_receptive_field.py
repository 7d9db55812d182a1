"""Receptive fields: the published table, and what the input gradient really covers."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.anatomy import receptive_field
from helpers.models import MODELS, build
from tests import published
from tracing.layers import layers


def as_probe(model: nn.Module) -> nn.Module:
    """A copy with the same geometry in which no path cancels another: all weights positive."""
    probe = copy.deepcopy(model).double().eval()
    for parent in list(probe.modules()):
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
    return probe


def support(features, image: torch.Tensor, side: int = 1) -> int:
    """Height of the input region with a gradient from `side` x `side` features in the middle."""
    image.requires_grad_(True)
    out = features(image)
    start = out.shape[-1] // 2 - side // 2
    out[..., start : start + side, start : start + side].sum().backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert rows.min() > 0 and rows.max() < image.shape[-2] - 1, "the image is too small to tell"
    assert rows.max() - rows.min() == columns.max() - columns.min()
    return int(rows.max() - rows.min()) + 1


def features_of(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What goes into the global pooling; what comes after it may not fit so large an image."""
    caught = []
    if hasattr(model, "gap"):
        hook = model.gap.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    else:
        hook = model.layer4.register_forward_hook(lambda _, inputs, output: caught.append(output))
    with contextlib.suppress(RuntimeError):
        model(image)
    hook.remove()
    return caught[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_input_gradient_covers_just_the_computed_field(name):
    found = layers(build(name))
    before, including = receptive_field.receptive_field(found)
    [gap] = [layer for layer in found if layer.kind in ("gap", "gmp")]
    probe = as_probe(build(name))
    side = 32 * (including[0] // 32 + 2)  # so that a border is left that is not seen
    image = torch.ones(1, 3, side, side, dtype=torch.float64)
    assert support(lambda x: features_of(probe, x), image.clone()) == before[0] == before[1]
    assert support(lambda x: features_of(probe, x), image.clone(), gap.kernel[0]) == including[0]


def test_published_table_of_s7():
    table = receptive_field.table(layers(build("s7")))
    text = table.to_csv(sep=" ", header=False).strip()
    assert text == published.S7_RECEPTIVE_FIELD.strip()


class Residual(nn.Module):
    """A block whose branches see 1, 3 and 9 pixels, then a pooling."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(3, 3, 3, padding=1)
        self.wide = nn.Conv2d(3, 3, 3, padding=4, dilation=4)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.gap(self.narrow(x) + x + self.wide(x))


def test_the_widest_branch_goes_on():
    assert receptive_field.receptive_field(layers(Residual())) == ((9, 9), (40, 40))


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
    before, _ = receptive_field.receptive_field(layers(model, image_size=256))
    image = torch.ones(1, 3, 256, 256, dtype=torch.float64)
    assert support(as_probe(nn.Sequential(*convolutions)), image) == before[0] == before[1]


def test_rectangles_are_two_numbers_in_the_table():
    found = layers(nn.Sequential(nn.Conv2d(3, 3, (3, 5), padding=(1, 2)), nn.AdaptiveAvgPool2d(1)))
    assert receptive_field.receptive_field(found) == ((3, 5), (34, 36))
    assert list(receptive_field.table(found).loc["conv1"]) == [32, "3x5", "1x2", 1, 32, 1, "3x5"]
