"""The networks are those of the submissions, and the tables leave them unchanged."""

import copy
import re

import pandas as pd
import pytest
import torch
from torch import nn

from helpers import inspection, models
from helpers.inspection import format_size, trace_layers
from helpers.models import MODELS, Compact, DepthwiseSeparableConv, get_model, validate_model
from tests import reference_tables
from tools.experiments import compact_shapes


@pytest.mark.parametrize("name", reference_tables.LAYERS)
def test_every_published_row(name):
    table = inspection.torchsummary_text(get_model(name))
    assert reference_tables.rows(table) == reference_tables.LAYERS[name]
    assert f"Total params: {reference_tables.FIGURES[name][0]:,}" in table


def test_every_published_row_of_s10():
    rows = []
    for line in inspection.torchinfo_text(get_model("s10")).splitlines():
        match = re.match(r"[├│└─ ]+(\w+: \d-\d+)\s+(.*)", line)
        if match:
            columns = re.findall(r"\[[\d, ]+\]|--|[\d,]+", match[2])
            rows.append((match[1], *columns[:4]))
    assert rows == reference_tables.S10_LAYERS


def test_stages_of_s10():
    model = get_model("s10")
    shapes = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _module, _input, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    model(torch.zeros(2, 3, 32, 32))
    assert shapes == {
        "prep": (2, 64, 32, 32),
        "layer1": (2, 128, 16, 16),
        "residual1": (2, 128, 16, 16),
        "layer2": (2, 256, 8, 8),
        "layer3": (2, 512, 4, 4),
        "residual3": (2, 512, 4, 4),
        "gap": (2, 512, 1, 1),
        "fc": (2, 10),
    }


def test_compact_has_the_required_layers():
    layers = trace_layers(get_model("compact"))
    kinds = [layer.kind for layer in layers]
    assert not {"max pool", "average pool"} & set(kinds)
    assert kinds[-2:] == ["gap", "fc"]
    assert sum(layer.separable for layer in layers) >= 6
    before, _ = inspection.receptive_field_of(layers)
    assert min(before) > 44


def test_transitions_of_compact():
    model = get_model("compact").eval()
    first, second, third = (getattr(model, f"transition{i}")[0] for i in (1, 2, 3))
    assert first.kernel_size == (1, 1)
    assert first.stride == (1, 1)
    assert second.kernel_size == (3, 3)
    assert second.dilation > (1, 1)
    assert third.stride == (2, 2)
    assert third.kernel_size == (3, 3)
    shapes = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _module, _input, output, name=name: shapes.update({name: output.shape[-1]})
        )
    model(torch.zeros(1, 3, 32, 32))
    sizes = [shapes[f"{name}{i}"] for i in (1, 2, 3) for name in ("block", "transition")]
    assert sizes == [16, 16, 16, 8, 8, 4]


def test_the_table_of_shapes_matches_the_shapes():
    table = pd.read_csv(compact_shapes.TABLE)
    assert set(table["name"]) == set(compact_shapes.SHAPES)
    for row in table.to_dict("records"):
        shape = compact_shapes.SHAPES[row["name"]]
        model = Compact(**shape)
        assert {key: row[key] for key in ("widths", "depths")} == {
            key: str(shape[key]) for key in ("widths", "depths")
        }
        assert inspection.count_parameters(model) == row["parameters"] < 100_000
        before, _ = inspection.receptive_field(model)
        assert format_size(before) == row["receptive field"]
    shapes = [str(Compact(**shape)) for shape in compact_shapes.SHAPES.values()]
    assert str(get_model("compact")) in shapes


def test_downsampling_of_compact_reads_every_pixel_and_that_of_s9_a_quarter():
    def fraction_of_pixels_read(conv):
        maps = torch.rand(1, conv.in_channels, 32, 32, requires_grad=True)
        conv(maps).sum().backward()
        return (maps.grad.abs().sum(dim=1) > 0).float().mean().item()

    compact, s9 = get_model("compact"), get_model("s9")
    assert fraction_of_pixels_read(compact.block1[-1][0]) == 1
    assert fraction_of_pixels_read(compact.transition2[0]) == 1
    assert fraction_of_pixels_read(compact.transition3[0]) == 1
    strided = [m for m in s9.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert [fraction_of_pixels_read(conv) for conv in strided] == [0.25] * 3
    even_dilation = copy.deepcopy(compact.transition2[0])  # would skip pixels with stride 2
    even_dilation.dilation = even_dilation.padding = (2, 2)
    assert fraction_of_pixels_read(even_dilation) == 0.25


@pytest.mark.parametrize("name", MODELS)
def test_parameters_mult_adds_and_fields(name):
    model = get_model(name)
    params, million_mult_adds, fields = reference_tables.FIGURES[name]
    assert inspection.count_parameters(model) == params
    assert inspection.count_mult_adds(model) / 1e6 == pytest.approx(million_mult_adds, abs=0.005)
    assert tuple(map(format_size, inspection.receptive_field(model))) == fields


@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_row_an_image_and_gradients_reach_every_parameter(name):
    model = get_model(name)
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 10)
    # Not the cross-entropy: with a ReLU on the logits its gradient may vanish at the start.
    (logits * torch.randn(4, 10)).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 4)


@pytest.mark.parametrize("name", MODELS)
def test_tables_leave_model_and_random_state_unchanged(name):
    model = get_model(name).train()
    weights = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    inspection.torchsummary_text(model)
    inspection.count_mult_adds(model)
    trace_layers(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("name", "probabilities"), [("s7_dropout", [0.15] * 6), ("s9", [0.2] * 7), ("s10", [0.02] * 8)]
)
def test_dropout_is_in_the_published_layers_with_the_published_probability(name, probabilities):
    dropouts = [module for module in get_model(name).modules() if isinstance(module, nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == probabilities


def test_a_depthwise_separable_convolution_has_the_names_of_the_saved_weights():
    weights = DepthwiseSeparableConv(3, 5).state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert shapes == {"depthwise.weight": (3, 1, 3, 3), "pointwise.weight": (5, 3, 1, 1)}


def test_an_unknown_name_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match=r"network=s8 is unknown.*s7, s7_dropout, s9"):
        get_model("s8")


class WithoutParameters(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)).repeat(1, 4)[:, :10]


class WithFrozenParameters(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10))
        self.requires_grad_(False)


@pytest.mark.parametrize("model_class", [WithoutParameters, WithFrozenParameters])
def test_a_network_with_nothing_to_train_is_refused_in_one_line(model_class):
    expected = f"^{model_class.__name__} has no parameters that require gradients: .*nn.Linear$"
    with pytest.raises(ValueError, match=expected):
        validate_model(model_class())


def test_a_network_with_some_parameters_to_train_is_accepted():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model[1].weight.requires_grad_(False)
    assert validate_model(model) is model


class Probabilities(nn.Sequential):
    def __init__(self, last: nn.Module):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10), last)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sequential(nn.Softmax(dim=1), nn.ReLU())])
def test_a_network_that_returns_probabilities_is_refused(last):
    with pytest.raises(ValueError, match="returns probabilities: return logits"):
        models.validate_model(Probabilities(last))


@pytest.mark.parametrize("last", [nn.LogSoftmax(dim=1), nn.ReLU(), nn.Sigmoid()])
def test_other_outputs_are_logits(last):
    models.validate_model(Probabilities(last))


def test_compiled_networks_are_refused_in_one_line():
    network = Probabilities(nn.Identity()).eval()
    scripted = torch.jit.trace(network, torch.zeros(1, 3, 32, 32))
    for compiled in (scripted, torch.compile(network)):
        with pytest.raises(ValueError, match="is compiled: give the network as it was"):
            models.validate_model(compiled)


def test_a_network_in_place_of_its_class_is_refused(monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", models.S7())
    with pytest.raises(ValueError, match=r'MODELS\["mine"\] is a network: give its class'):
        models.get_model("mine")


class Flawed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3072, 10)


class ChangesInPlace(Flawed):
    def forward(self, x):
        x = self.linear(x.flatten(1)).exp()
        x += 1  # exp needs its output for the gradient
        return x


class TupleInTraining(Flawed):
    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return (logits, logits) if self.training else logits


class RegistersLate(Flawed):
    def forward(self, x):
        if self.training:
            self.register_buffer("seen", torch.zeros(3))
        return self.linear(x.flatten(1))


class PoolsTheBatch(Flawed):
    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return logits.mean(dim=0) if self.training else logits


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ChangesInPlace, "cannot be trained: RuntimeError.*inplace operation"),
        (TupleInTraining, "in training mode it gives a tuple"),
        (RegistersLate, "a training step changes its parameters or buffers"),
        (PoolsTheBatch, r"in training mode it gives \(10,\)"),
    ],
)
def test_what_fails_in_training_is_known_before_it(network, message):
    with pytest.raises(ValueError, match=message):
        models.validate_model(network())


@pytest.mark.parametrize("name", ["s9", "compact"])
def test_a_trial_step_changes_neither_the_network_nor_the_random_numbers(name):
    network = models.get_model(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    models.validate_model(network)
    assert torch.rand(1) == expected
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
