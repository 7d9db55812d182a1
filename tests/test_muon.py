"""Muon: which weights it steps, in which direction, and how far."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers.training.muon import TURN, Muon, orthogonal
from helpers.training.recipes import Recipe, make_optimizer

RATE = 0.2


class Net(nn.Sequential):
    def __init__(self):
        depthwise = nn.Conv2d(8, 8, 3, groups=8)
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), depthwise, nn.Conv2d(8, 16, 1)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def stepped(model, optimizer, steps=1):
    """The weights after steps on the same images: by name."""
    recipe = Recipe(1, 8, max_lr=RATE, peak_epoch=1, optimizer=optimizer, weight_decay=0.01)
    model = copy.deepcopy(model)
    optimizer = make_optimizer(model, recipe)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_singular_values_come_near_one_and_directions_stay(rows, columns, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator) * scale
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix) @ right.T
    off = found - torch.diag(found.diag())
    assert off.abs().max() < 0.01
    large = values > 0.05 * values.norm()  # the least ones need more iterations
    assert found.diag()[large].min() > 0.4
    assert found.diag().max() < 1.3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_turn_by_the_rate_and_keep_their_length(model, layout):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    after = stepped(model.to(memory_format=layout), "Muon")
    for name in ("0.weight", "3.weight"):
        way = after[name] - before[name]
        assert after[name].norm() == pytest.approx(before[name].norm().item(), rel=1e-5)
        assert way.norm() / before[name].norm() == pytest.approx(TURN * RATE, rel=0.05)
        values = torch.linalg.svdvals(way.flatten(1))
        assert values.max() < 4 * values.median(), "some directions count far more than others"


def test_the_rest_is_stepped_by_sgd(model):
    muon, sgd = stepped(model, "Muon"), stepped(model, "SGD")
    for name in muon:
        alike = torch.equal(muon[name], sgd[name])
        assert alike == (name not in ("0.weight", "3.weight")), name


def test_a_kernel_of_zeros_learns(model):
    nn.init.zeros_(model[3].weight)
    weight = stepped(model, "Muon", steps=3)["3.weight"]
    assert weight.isfinite().all()
    assert weight.abs().max() > 0


def test_layers_that_are_not_used_stay(model):
    model.append(nn.Conv2d(3, 8, 3)).append(nn.Linear(3, 3))
    model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
    optimizer = Muon([{"params": [p for p in model.parameters() if p.ndim > 1]}], lr=1, momentum=0)
    model(torch.zeros(2, 3, 16, 16)).sum().backward()
    before = model[7].weight.clone()
    optimizer.step()
    assert torch.equal(model[7].weight, before)


def test_what_gives_the_classes_is_left_to_sgd_wherever_it_is_defined():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)
            self.body = nn.Sequential(*list(Net())[:6])

        def forward(self, x):
            return self.head(self.body(x))

    torch.manual_seed(0)
    model = HeadFirst()
    muon, sgd = stepped(model, "Muon"), stepped(model, "SGD")
    turned = {name for name in muon if not torch.equal(muon[name], sgd[name])}
    assert turned == {"body.0.weight", "body.3.weight"}
