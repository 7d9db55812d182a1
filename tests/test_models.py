"""The networks are those of the hand-ins, and the tables leave them as they were."""

import copy
import re

import pandas as pd
import pytest
import torch
from torch import nn

from experiments import compact
from helpers.anatomy import receptive_field, summary
from helpers.anatomy.receptive_field import shown
from helpers.models import MODELS, Compact, build
from tests import published
from tracing.layers import layers


@pytest.mark.parametrize("name", published.LAYERS)
def test_every_published_row(name):
    table = summary.layer_table(build(name))
    assert published.rows(table) == published.LAYERS[name]
    assert f"Total params: {published.FIGURES[name][0]:,}" in table


def test_every_published_row_of_s10():
    rows = []
    for line in str(summary.torchinfo_table(build("s10"))).splitlines():
        if found := re.match(r"[├│└─ ]+(\w+: \d-\d+)\s+(.*)", line):
            columns = re.findall(r"\[[\d, ]+\]|--|[\d,]+", found[2])
            rows.append((found[1], *columns[:4]))
    assert rows == published.S10_LAYERS


def test_stages_of_s10():
    model = build("s10")
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


def test_compact_has_the_parts_that_are_asked_for():
    found = layers(build("compact"))
    kinds = [layer.kind for layer in found]
    assert not {"max pool", "average pool"} & set(kinds)
    assert kinds[-2:] == ["gap", "fc"]
    assert sum(layer.separable for layer in found) >= 6
    before, _ = receptive_field.receptive_field(found)
    assert min(before) > 44


def test_transitions_of_compact():
    model = build("compact").eval()
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
    sizes = [shapes[f"{part}{i}"] for i in (1, 2, 3) for part in ("block", "transition")]
    assert sizes == [32, 32, 32, 16, 16, 8]


def test_the_shapes_that_were_compared_are_what_their_table_says():
    table = pd.read_csv(compact.TABLE)
    assert set(table["name"]) == set(compact.SHAPES)
    for row in table.to_dict("records"):
        shape = compact.SHAPES[row["name"]]
        model = Compact(**shape)
        assert {key: row[key] for key in ("widths", "depths")} == {
            key: str(shape[key]) for key in ("widths", "depths")
        }
        assert summary.parameter_count(model) == row["parameters"] < 100_000
        field, _ = receptive_field.receptive_field(layers(model))
        assert shown(field) == row["receptive field"]
    best = table.groupby("name")["validation accuracy (%)"].mean().idxmax()
    assert str(Compact(**compact.SHAPES[best])) == str(build("compact"))


def test_downsampling_of_compact_reads_every_pixel_and_that_of_s9_a_quarter():
    def share(conv):
        maps = torch.rand(1, conv.in_channels, 32, 32, requires_grad=True)
        conv(maps).sum().backward()
        return (maps.grad.abs().sum(dim=1) > 0).float().mean().item()

    ours, s9 = build("compact"), build("s9")
    assert share(ours.transition2[0]) == share(ours.transition3[0]) == 1
    strided = [m for m in s9.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert [share(conv) for conv in strided] == [0.25] * 3
    blind = copy.deepcopy(ours.transition2[0])
    blind.dilation, blind.padding = (2, 2), (2, 2)
    assert share(blind) == 0.25  # what dilation 2 would read with stride 2


@pytest.mark.parametrize("name", MODELS)
def test_parameters_mult_adds_and_fields(name):
    model = build(name)
    params, millions, fields = published.FIGURES[name]
    assert summary.parameter_count(model) == params
    assert summary.mult_adds(model) / 1e6 == pytest.approx(millions, abs=0.005)
    found = receptive_field.receptive_field(layers(model))
    assert tuple(map(shown, found)) == fields


@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_row_an_image_and_gradients_reach_every_parameter(name):
    model = build(name)
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 10)
    # Not the cross-entropy: with a ReLU on the logits its gradient may vanish at the start.
    (logits * torch.randn(4, 10)).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 4)


@pytest.mark.parametrize("name", MODELS)
def test_tables_leave_network_and_random_state_alone(name):
    model = build(name).train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    summary.layer_table(model)
    summary.mult_adds(model)
    layers(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_dropout_is_in_the_published_places_with_the_published_probability():
    rates = [m.p for m in build("s7_dropout").modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.15] * 6


def test_unknown_network_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"network=s8 is unknown.*s7, s7_dropout, s9"):
        build("s8")
