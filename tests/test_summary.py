"""Layer costs and summary tables state what a model has."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

from helpers.inspection import (
    block_cost_percentages,
    count_mult_adds,
    layer_cost_percentages,
    torchinfo_text,
)
from helpers.models import MODELS, get_model
from tests import reference_tables


@pytest.mark.parametrize("name", MODELS)
def test_layer_costs_are_percentages_of_all_parameters_and_multiply_adds(name):
    model = get_model(name)
    table = layer_cost_percentages(model)
    assert (table >= 0).all(axis=None)
    assert (table.sum() <= 100).all()
    assert table.sum().min() > 92  # the rest belongs to batch normalization
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    weights = sum(conv.weight.numel() for conv in convolutions)
    biases = sum(conv.bias.numel() for conv in convolutions if conv.bias is not None)
    percentage = table["parameters"][~table.index.str.startswith("fc")].sum()
    expected = 100 * (weights + biases) / reference_tables.FIGURES[name][0]
    assert percentage == pytest.approx(expected)


@pytest.mark.parametrize("name", MODELS)
def test_costs_of_blocks_are_those_of_their_layers(name):
    blocks = block_cost_percentages(get_model(name))
    assert blocks.sum().to_list() == pytest.approx(layer_cost_percentages(get_model(name)).sum())
    assert len(blocks) <= len([*get_model(name).children()])


def test_costs_of_a_model_without_blocks_have_one_row():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(10, 3, 32, 32))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight).flatten(1)

    assert block_cost_percentages(Functional()).index.to_list() == ["model"]


def test_layers_of_one_module_share_its_parameters():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)
            self.same = nn.Conv2d(8, 8, 3, padding=1)
            self.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(self.same(self.same(self.first(x))).mean((2, 3)))

    table = layer_cost_percentages(Twice())["parameters"]
    assert table["conv2"] == table["conv3"]
    assert table.sum() == pytest.approx(100)


def test_torchinfo_table_is_as_wide_as_published_and_names_its_unit():
    text = torchinfo_text(get_model("s10"))
    assert max(map(len, text.splitlines())) == 120
    assert "Units" not in text
    assert "Total mult-adds (millions): 379.27" in text


class Functional(nn.Module):
    """Parameters and functions in place of modules."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(3, 8, 3).weight.detach())
        self.matrix = nn.Parameter(nn.Linear(8, 10).weight.detach())

    def forward(self, x):
        return F.linear(F.conv2d(x, self.weight).mean((2, 3)), self.matrix)


def sequential(conv):
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequential(nn.Conv2d(3, 8, 3, bias=False)),
        lambda: sequential(weight_norm(nn.Conv2d(3, 8, 3, bias=False))),
        lambda: sequential(parametrizations.weight_norm(nn.Conv2d(3, 8, 3, bias=False))),
        lambda: sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, bias=False))),
        Functional,
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_multiply_adds_are_those_of_the_operations(make):
    model = make()
    assert count_mult_adds(model) == 30 * 30 * 8 * 27 + 80
    assert "Total mult-adds (millions): 0.19" in torchinfo_text(model)
    assert layer_cost_percentages(model).sum().to_list() == pytest.approx([100, 100])


def test_multiply_adds_of_a_model_that_is_not_understood_are_not_counted():
    class Softmax(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 10, 3)

        def forward(self, x):
            return self.conv(x).flatten(2).softmax(-1)[..., 0]

    assert "Total mult-adds (millions): not counted" in torchinfo_text(Softmax())
