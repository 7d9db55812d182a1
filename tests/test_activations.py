"""Activations and receptive fields of modules match what gradients say."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.inspection import (
    effective_receptive_field,
    get_activations,
    theoretical_receptive_field,
    trace_layers,
)
from helpers.models import get_model

BLOCKS = ("block1", "block2", "block3", "block4")


def with_positive_weights(model):
    """Return the model with positive weights, no bias and mean poolings: every pixel counts."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for i, child in enumerate(module):
                module[i] = nn.AvgPool2d(2) if isinstance(child, nn.MaxPool2d) else child
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
            if module.bias is not None:
                module.bias.data.zero_()
    return model


@pytest.mark.parametrize("name", ["s7", "s9", "compact"])
def test_the_theoretical_square_is_what_the_gradient_reaches(name):
    model = with_positive_weights(get_model(name))
    layers = trace_layers(model)
    inputs = torch.rand(1, 3, 32, 32)
    for block in BLOCKS:
        top, left, height, width = theoretical_receptive_field(layers, block)
        pixels = np.argwhere(effective_receptive_field(model, block, inputs) > 0)
        corners = np.clip([[top, left], [top + height - 1, left + width - 1]], 0, 31)
        assert (pixels >= corners[0]).all()
        assert (pixels <= corners[1]).all()
        if name != "s9":  # its strided 1x1 kernels skip pixels at the border
            assert (pixels.min(axis=0) == corners[0]).all()
            assert (pixels.max(axis=0) == corners[1]).all()


def test_the_effective_field_is_the_mean_absolute_gradient_and_leaves_the_model_unchanged():
    model = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, bias=False)).train()
    model[0].weight.data = torch.arange(-13.0, 14).view(1, 3, 3, 3)
    field = effective_receptive_field(model, "0", torch.rand(5, 3, 32, 32))
    expected = model[0].weight.detach().abs().mean((0, 1))
    assert np.allclose(field[15:18, 15:18], expected)
    assert np.count_nonzero(field) == 9 - np.count_nonzero(expected == 0)
    assert model.training
    assert model[0].weight.grad is None
    with pytest.raises(AttributeError, match="block9"):
        effective_receptive_field(get_model("s7"), "block9", torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    "padded",
    [
        [nn.Conv2d(3, 1, 3, padding=1, padding_mode="reflect")],
        [nn.ZeroPad2d(1), nn.Conv2d(3, 1, 3)],
        [nn.Conv2d(3, 1, 3, padding=1)],
    ],
)
def test_the_square_has_its_position_however_the_image_is_padded(padded):
    model = nn.Sequential(*padded, nn.Conv2d(1, 1, 3, stride=2, padding=1))
    square = theoretical_receptive_field(trace_layers(model), str(len(model) - 1))
    assert square.tolist() == [14, 14, 5, 5]


def test_activations_are_those_of_the_module_even_if_the_next_one_overwrites_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    inputs = torch.randn(2, 3, 32, 32)
    activations = get_activations(model, "0", inputs)
    assert activations.min() < 0
    assert torch.allclose(activations, model[0](inputs), atol=1e-5)
