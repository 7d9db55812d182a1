"""Hyperparameters, and Muon: which weights it updates, in which direction, and how far."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from helpers.config import Profile
from helpers.optim import (
    LR_SCALE,
    Muon,
    TrainConfig,
    build_optimizer,
    build_scheduler,
    newton_schulz,
    scale_to_profile,
)

LR = 0.2
CONFIG = TrainConfig(epochs=10, batch_size=128, max_lr=0.2, peak_epoch=2.5)


class Net(nn.Sequential):
    def __init__(self):
        depthwise = nn.Conv2d(8, 8, 3, groups=8)
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), depthwise, nn.Conv2d(8, 16, 1)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def weights_after_steps(model, optimizer, steps=1, weight_decay=0.01):
    """The weights after steps on the same images, by name."""
    config = TrainConfig(
        1, 8, max_lr=LR, peak_epoch=1, optimizer=optimizer, weight_decay=weight_decay
    )
    model = copy.deepcopy(model)
    optimizer = build_optimizer(model, config)
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
    result = left.T @ newton_schulz(matrix) @ right.T
    off_diagonal = result - torch.diag(result.diag())
    assert off_diagonal.abs().max() < 0.01
    large = values > 0.05 * values.norm()  # the least ones need more iterations
    assert result.diag()[large].min() > 0.4
    assert result.diag().max() < 1.3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_turn_by_the_learning_rate_and_keep_their_norm(model, layout):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    after = weights_after_steps(model.to(memory_format=layout), "Muon")
    for name in ("0.weight", "3.weight"):
        update = after[name] - before[name]
        assert after[name].norm() == pytest.approx(before[name].norm().item(), rel=1e-5)
        assert update.norm() / before[name].norm() == pytest.approx(LR_SCALE * LR, rel=0.05)
        values = torch.linalg.svdvals(update.flatten(1))
        assert values.max() < 4 * values.median(), "some directions count far more than others"


def muon_written_out(kernel, gradients, lr):
    """The weights after steps of Muon with momentum 0.9, in float64."""
    average = torch.zeros(len(kernel), kernel[0].numel(), dtype=torch.float64)
    weight = kernel.double().flatten(1)
    norm = max(weight.square().sum().sqrt().item(), 1e-3)
    for gradient in gradients:
        gradient = gradient.double().flatten(1)
        average = 0.9 * average + 0.1 * gradient
        look_ahead = 0.1 * gradient + 0.9 * average
        update = look_ahead / look_ahead.square().sum().sqrt()
        for _ in range(5):
            cubic = update @ update.T @ update
            update = 3.4445 * update - 4.7750 * cubic + 2.0315 * update @ update.T @ cubic
        update = update / update.square().sum().sqrt()
        weight = weight / norm - 0.25 * lr * update
        weight = norm * weight / weight.square().sum().sqrt()
    return weight.view_as(kernel)


@hypothesis_settings(deadline=None)
@given(
    shape=st.sampled_from([(8, 3, 3, 3), (4, 8, 1, 1), (16, 8, 1, 1), (6, 12), (12, 6)]),
    lr=st.floats(0.01, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_three_steps_of_muon_are_those_written_out(shape, lr, seed):
    generator = torch.Generator().manual_seed(seed)
    kernel = nn.Parameter(torch.randn(shape, generator=generator))
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    expected = muon_written_out(kernel.detach(), gradients, lr)
    optimizer = Muon([kernel], lr=lr, momentum=0.9, nesterov=True, weight_decay=0.1)
    for gradient in gradients:
        kernel.grad = gradient.clone()
        optimizer.step()
        assert kernel.grad is None
    assert torch.allclose(kernel.double(), expected, atol=1e-3 * expected.abs().max())


def test_other_parameters_are_updated_by_sgd(model):
    muon, sgd = weights_after_steps(model, "Muon"), weights_after_steps(model, "SGD")
    for name in muon:
        is_equal = torch.equal(muon[name], sgd[name])
        assert is_equal == (name not in ("0.weight", "3.weight")), name


def test_weight_decay_changes_depthwise_kernels_and_the_classifier_only(model):
    decayed = weights_after_steps(model, "Muon", weight_decay=0.1)
    not_decayed = weights_after_steps(model, "Muon", weight_decay=0.0)
    changed = {name for name in decayed if not torch.equal(decayed[name], not_decayed[name])}
    assert changed == {"2.weight", "6.weight"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("groups", [1, 3])
def test_kernels_and_biases_may_be_in_any_group(order, groups):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in [(4, 6), (4,), (3, 2, 2, 2)]]
    before = [parameter.detach().clone() for parameter in parameters]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    ordered = [parameters[i] for i in order]
    if groups == 3:
        ordered = [{"params": [parameter]} for parameter in ordered]
    Muon(ordered, lr=0.1, momentum=0.9, nesterov=True).step()
    for i in (0, 2):
        expected = muon_written_out(before[i], gradients[i : i + 1], 0.1)
        assert torch.allclose(parameters[i].double(), expected, atol=1e-4)
    bias = before[1] - 0.1 * (1 + 0.9) * gradients[1]  # SGD's first step with Nesterov momentum
    assert torch.allclose(parameters[1], bias, atol=1e-6)


def test_a_closure_computes_the_loss_of_the_step():
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    expected = copy.deepcopy(model)
    images = torch.randn(8, 6)
    losses = []

    def closure():
        model.zero_grad()
        loss = model(images).square().mean()
        loss.backward()
        losses.append(loss)
        return loss

    result = Muon(model.parameters(), lr=0.1, momentum=0.9, nesterov=True).step(closure)
    assert [result] == losses, "called once, and its loss is returned"
    optimizer = Muon(expected.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    expected(images).square().mean().backward()
    assert optimizer.step() is None
    for weight, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_muon_continues_from_its_state():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 6))
    gradients = [torch.randn(4, 6) for _ in range(4)]
    expected = muon_written_out(kernel.detach(), gradients, 0.1)
    state = None
    for gradient in gradients:
        optimizer = Muon([kernel], lr=0.1, momentum=0.9, nesterov=True)
        if state:
            optimizer.load_state_dict(state)
        kernel.grad = gradient.clone()
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
    assert torch.allclose(kernel.double(), expected, atol=1e-4)


def test_a_kernel_of_zeros_learns(model):
    nn.init.zeros_(model[3].weight)
    weight = weights_after_steps(model, "Muon", steps=3)["3.weight"]
    assert weight.isfinite().all()
    assert weight.abs().max() > 0


def test_a_gradient_of_zeros_changes_nothing():
    kernel = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    before = kernel.detach().clone()
    kernel.grad = torch.zeros(4, 6)
    Muon([kernel], lr=0.1, momentum=0.9, nesterov=True).step()
    assert torch.allclose(kernel, before)


def test_layers_that_are_not_used_keep_their_weights(model):
    model.append(nn.Conv2d(3, 8, 3)).append(nn.Linear(3, 3))
    model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
    optimizer = Muon([{"params": [p for p in model.parameters() if p.ndim > 1]}], lr=1, momentum=0)
    model(torch.zeros(2, 3, 16, 16)).sum().backward()
    before = model[7].weight.clone()
    optimizer.step()
    assert torch.equal(model[7].weight, before)


def test_the_classifier_is_updated_by_sgd_wherever_it_is_defined():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 10)
            self.body = nn.Sequential(*list(Net())[:6])

        def forward(self, x):
            return self.head(self.body(x))

    torch.manual_seed(0)
    model = HeadFirst()
    muon, sgd = weights_after_steps(model, "Muon"), weights_after_steps(model, "SGD")
    different = {name for name in muon if not torch.equal(muon[name], sgd[name])}
    assert different == {"body.0.weight", "body.3.weight"}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True, "dampening": 0}),
        ("Muon", {"momentum": 0.9, "nesterov": True, "dampening": 0}),
        ("AdamW", {"betas": (0.9, 0.99), "eps": 1e-8}),
    ],
)
def test_an_optimizer_has_the_hyperparameters_of_its_config(model, optimizer, expected):
    config = dataclasses.replace(CONFIG, optimizer=optimizer, weight_decay=0.02)
    built = build_optimizer(model, config)
    assert type(built).__name__ == optimizer
    assert [group["weight_decay"] for group in built.param_groups] == [0.02, 0]
    for group in built.param_groups:
        assert group.items() >= (expected | {"lr": 0.2}).items()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
        ("batch_size", -64, "1 or more"),
        ("max_lr", 0, "more than 0"),
        ("max_lr", -0.1, "more than 0"),
        ("max_lr", math.nan, "more than 0"),
        ("peak_epoch", 0, "in (0, 10]"),
        ("peak_epoch", 10.01, "in (0, 10]"),
        ("peak_epoch", math.nan, "in (0, 10]"),
        ("weight_decay", -1e-4, "0 or more"),
        ("label_smoothing", -0.1, "in [0, 1)"),
        ("label_smoothing", 1, "in [0, 1)"),
        ("dropout", -0.1, "None or in [0, 1)"),
        ("dropout", 1, "None or in [0, 1)"),
        ("dropout", 3.0, "None or in [0, 1)"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named(field, value, expected):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(CONFIG, **{field: value})
    assert str(error.value) == f"{field}={value} is not {expected}"


def test_a_mistyped_optimizer_is_named():
    with pytest.raises(
        ValueError, match=r"^optimizer=Adamw is unknown; it is one of SGD, Muon, Ad"
    ):
        dataclasses.replace(CONFIG, optimizer="Adamw")


def test_adam_couples_weight_decay_with_the_gradient_and_adamw_does_not(model):
    decays = {}
    for optimizer in ("Adam", "AdamW"):
        before = weights_after_steps(model, optimizer, weight_decay=0)
        after = weights_after_steps(model, optimizer, weight_decay=0.5)
        decays[optimizer] = after["0.weight"] - before["0.weight"]
    assert torch.allclose(decays["AdamW"], -LR * 0.5 * dict(model.named_parameters())["0.weight"])
    assert not torch.allclose(decays["Adam"], decays["AdamW"], rtol=0.1)


@pytest.mark.parametrize(
    ("div_factor", "final_div_factor"), [(10, 1e4), (1000, 1), (100, 2), (1, 1)]
)
def test_the_cycle_starts_and_ends_as_configured(div_factor, final_div_factor):
    config = dataclasses.replace(
        CONFIG, epochs=4, peak_epoch=1, div_factor=div_factor, final_div_factor=final_div_factor
    )
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    scheduler = build_scheduler(optimizer, config, batches=10)
    lrs = [scheduler.get_last_lr()[0]]
    for _ in range(39):
        optimizer.step()
        scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    first = config.max_lr / div_factor
    assert (lrs[0], max(lrs)) == pytest.approx((first, config.max_lr))
    assert lrs[-1] == pytest.approx(first / final_div_factor)
    assert lrs[9] == pytest.approx(config.max_lr)  # the last step of the first epoch


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 1, "peak_epoch": 1},
        {"batch_size": 1},
        {"max_lr": 1e-9},
        {"peak_epoch": 1e-9},
        {"peak_epoch": 10},
        {"weight_decay": 0},
        {"label_smoothing": 0},
        {"label_smoothing": 0.99},
        {"dropout": None},
        {"dropout": 0},
        {"dropout": 0.99},
    ],
)
def test_the_limits_of_each_range_are_allowed(changes):
    config = dataclasses.replace(CONFIG, **changes)
    assert vars(config).items() >= changes.items()


@given(
    batch_size=st.integers(1, 1024),
    other=st.integers(1, 1024),
    optimizer=st.sampled_from(["SGD", "Muon", "AdamW"]),
)
def test_the_learning_rate_follows_the_batch_size(batch_size, other, optimizer):
    config = dataclasses.replace(CONFIG, batch_size=batch_size, optimizer=optimizer)
    scaled = config.scale_batch_size(other)
    assert scaled.batch_size == other
    power = 0.5 if optimizer == "AdamW" else 1
    assert scaled.max_lr == pytest.approx(0.2 * (other / batch_size) ** power)
    assert dataclasses.replace(scaled, batch_size=batch_size, max_lr=0.2) == config
    assert scaled.scale_batch_size(batch_size).max_lr == pytest.approx(0.2)


@given(
    epochs=st.integers(1, 60),
    peak=st.floats(0.01, 1),
    batch_size=st.integers(1, 512),
    limit=st.none() | st.integers(1, 60),
    images=st.integers(1, 50_000),
)
def test_a_profile_shortens_a_run_and_leaves_its_shape(epochs, peak, batch_size, limit, images):
    config = TrainConfig(epochs, batch_size, max_lr=0.2, peak_epoch=peak * epochs)
    scaled = scale_to_profile(config, Profile("any", epochs=limit), images)
    assert scaled.epochs == min(epochs, limit or epochs)
    assert scaled.peak_epoch / scaled.epochs == pytest.approx(peak)
    if images >= 16 * batch_size * 2:  # enough for 16 steps, whatever the power of two
        assert scaled.batch_size == batch_size
    if scaled.batch_size < batch_size:
        assert math.log2(scaled.batch_size).is_integer()
        assert scaled.batch_size == 1 or images >= 16 * scaled.batch_size
        assert images < 16 * scaled.batch_size * 2, "no smaller than it must be"
    assert scaled == dataclasses.replace(
        config.scale_batch_size(scaled.batch_size),
        epochs=scaled.epochs,
        peak_epoch=scaled.peak_epoch,
    )


def test_numpy_scalars_become_python_numbers():
    config = dataclasses.replace(CONFIG, epochs=np.int64(10), max_lr=np.float32(0.5))
    assert (type(config.epochs), type(config.max_lr)) == (int, float)
