"""The training loop: schedule, metrics, overflow, and resuming after a kill."""

import copy
import dataclasses
import re
import signal
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers import devices, evaluation
from helpers.images import data as data_module
from helpers.images import transforms
from helpers.images.batches import BatchSampler
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT
from helpers.training import loop
from helpers.training.checkpoints import Checkpoint
from helpers.training.loop import fit, set_seed
from helpers.training.recipes import Recipe, make_optimizer, make_schedule

pytestmark = pytest.mark.slow

RECIPE = Recipe(epochs=3, batch_size=64, max_lr=0.1, peak_epoch=1, label_smoothing=0.1)


class Tiny(nn.Module):
    """A small network with everything that has state: batch normalisation and dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(72, 10)

    def forward(self, x):
        x = self.dropout(F.relu(self.norm(self.conv(x))))
        return self.output(F.avg_pool2d(x, 5).flatten(1))


@pytest.fixture(scope="module")
def digits():
    return data_module.digits().first(300)


def trained(digits, recipe=RECIPE, transform=None, **options):
    set_seed(0)
    model = Tiny()
    history = fit(model, digits, transform, recipe, **options)
    return model, history


def without_times(history):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in history.rows]


def test_learning_rates_as_applied_follow_the_recipe(digits):
    _, history = trained(digits)
    rates = history.learning_rates
    assert len(rates) == 3 * 5  # 300 images in batches of 64, the last one smaller
    assert int(np.argmax(rates)) == 5 - 1  # the last step of epoch 1
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] < 1e-5
    assert np.allclose(np.diff(rates, 2)[[0, 1, 2, *range(5, 13)]], 0, atol=1e-9)  # two lines
    assert [row["learning_rate"] for row in history.rows] == [rates[4], rates[9], rates[14]]


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    epochs=st.integers(2, 60),
    batches=st.integers(8, 400),
    peak=st.floats(0.15, 0.6),
    name=st.sampled_from(["SGD", "Muon", "AdamW"]),
)
def test_any_schedule_peaks_where_it_should_and_leaves_momentum_alone(epochs, batches, peak, name):
    recipe = Recipe(epochs, 64, max_lr=0.2, peak_epoch=peak * epochs, optimizer=name)
    optimizer = make_optimizer(Tiny(), recipe)
    betas = [group.get("betas", group.get("momentum")) for group in optimizer.param_groups]
    schedule = make_schedule(optimizer, recipe, batches)
    rates = []
    for step in range(epochs * batches):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if step + 1 < epochs * batches:
            schedule.step()
    assert abs(int(np.argmax(rates)) + 1 - peak * epochs * batches) <= 1
    assert betas == [g.get("betas", g.get("momentum")) for g in optimizer.param_groups]


def test_s10_peaks_at_the_end_of_epoch_5_of_24():
    optimizer = make_optimizer(Tiny(), RUNS["S10/s10"].recipe)
    schedule = make_schedule(optimizer, RUNS["S10/s10"].recipe, batches=98)
    rates = []
    for _ in range(24 * 98 - 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rates.append(schedule.get_last_lr()[0])
    assert len(rates) == schedule.total_steps == 2352
    assert int(np.argmax(rates)) == 489


def test_weight_decay_spares_biases_and_normalisation():
    optimizer = make_optimizer(Tiny(), dataclasses.replace(RECIPE, weight_decay=0.01))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(Tiny().parameters()))


def test_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer=Lion is unknown; it is one of SGD"):
        make_optimizer(Tiny(), dataclasses.replace(RECIPE, optimizer="Lion"))


def test_test_columns_are_those_of_the_weights_that_remain(digits):
    model, history = trained(digits)
    with devices.accelerator().autocast():
        logits = evaluation.predict(model, digits, digits.test_images)
    labels = torch.from_numpy(digits.test_labels)
    last = history.rows[-1]
    accuracy = evaluation.test_accuracy(logits.numpy(), digits)
    assert last["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert last["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_training_metrics_weigh_every_image_once(digits):
    # With a learning rate of nothing they must be those of an evaluation in training mode.
    recipe = dataclasses.replace(RECIPE, epochs=2, max_lr=1e-12)
    set_seed(0)
    model = Tiny()
    model.dropout.p = 0.0
    model.norm = nn.Identity()
    history = fit(model, digits, None, recipe)
    with devices.accelerator().autocast():
        logits = evaluation.predict(model, digits, digits.train_images)
    labels = torch.from_numpy(digits.train_labels)
    expected = 100 * (logits.argmax(1) == labels).float().mean().item()
    assert history.rows[0]["train_accuracy"] == pytest.approx(expected, abs=0.4)
    loss = F.cross_entropy(logits, labels).item()
    assert history.rows[0]["train_loss"] == pytest.approx(loss, rel=2e-3)


def test_it_learns(digits):
    recipe = dataclasses.replace(RECIPE, epochs=8, max_lr=0.5, peak_epoch=2)
    _, history = trained(digits, recipe)
    assert history.rows[-1]["test_accuracy"] > 60
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]


def test_the_schedule_goes_on_where_loss_scaling_skips_steps(digits):
    _, expected = trained(digits)
    accelerator = Accelerator(mixed_precision=devices.accelerator().mixed_precision)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10_000)
    set_seed(0)
    model = Tiny()
    overflows = iter([True, True, False, True])
    model.output.weight.register_hook(lambda g: g * torch.inf if next(overflows, False) else g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a notebook trained in fp16 would show it
        history = fit(model, digits, None, RECIPE, accelerator=accelerator)
    assert accelerator.scaler.get_scale() == 1024 / 2**3, "three steps should have been skipped"
    assert history.learning_rates == expected.learning_rates
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_divergence_is_a_clear_error(digits):
    recipe = dataclasses.replace(RECIPE, max_lr=1e30)
    with pytest.raises(FloatingPointError, match="diverged; try a learning rate below 1e"):
        trained(digits, recipe)


def test_the_same_seed_gives_the_same_history_and_another_another(digits):
    transform = transforms.flip_and_shift(digits.statistics[0])
    first, again, other = (
        without_times(trained(digits, transform=transform, seed=seed)[1]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_network_comes_back_as_it_went_in(digits, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    model, _ = trained(digits, accelerator=Accelerator(mixed_precision="bf16"))
    assert "forward" not in vars(model), "mixed precision's wrapper was left on it"
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


TRAIN = """
import json, os, signal, sys
from pathlib import Path
from helpers.images import data, transforms
from helpers.training.checkpoints import Checkpoint
from helpers.training.recipes import Recipe
from helpers.training.loop import fit, set_seed
from tests.test_training import Tiny, without_times

file, moment, epoch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
checkpoint = Checkpoint(file, {"run": "tiny"})

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def save(self, state, save=Checkpoint.save):
    save(self, state)
    if moment != "never" and len(state["history"]["rows"]) == epoch:
        if moment == "half-written":
            file = self.files[self.saved % 2]
            file.write_bytes(file.read_bytes()[:1000])
        kill()

Checkpoint.save = save
images = data.digits().first(300)
recipe = Recipe(epochs=6, batch_size=32, max_lr=0.1, peak_epoch=2)
set_seed(0)
model = Tiny()
transform = transforms.flip_and_shift(images.statistics[0])
history = fit(model, images, transform, recipe, checkpoint=checkpoint)
weights = sum(p.double().abs().sum().item() for p in model.state_dict().values())
print("DONE", json.dumps([without_times(history), history.learning_rates, weights]))
"""


def run_and_kill(file, moment="never", epoch=0):
    command = [sys.executable, "-c", TRAIN, str(file), moment, str(epoch)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_killed_and_continued_equals_one_never_killed(tmp_path):
    expected = run_and_kill(tmp_path / "whole.pt")
    assert expected.returncode == 0, expected.stderr
    file = tmp_path / "killed" / "run.pt"
    for moment, epoch, kept in (("half-written", 3, 2), ("written", 5, 5)):
        assert run_and_kill(file, moment, epoch).returncode == -signal.SIGKILL
        assert {path.name for path in file.parent.iterdir()} == {"run.pt", "run-2.pt"}
        assert len(Checkpoint(file, {"run": "tiny"}).load()["history"]["rows"]) == kept
    got = run_and_kill(file)
    assert "Continuing after epoch 5 of 6" in got.stdout
    assert got.stdout.split("DONE ")[1] == expected.stdout.split("DONE ")[1]


def test_a_finished_run_is_not_trained_again(digits, tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path / "run.pt", {"run": "tiny"})
    model, history = trained(digits, checkpoint=checkpoint)
    capsys.readouterr()
    again, same = trained(digits, checkpoint=checkpoint)
    assert "Nothing left to train after epoch 3 of 3" in capsys.readouterr().out
    assert same == history
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("peak", [0, -1, 3.5])
def test_a_peak_outside_the_run_is_named(peak):
    with pytest.raises(ValueError, match=rf"peak_epoch={peak} is not within epochs=3"):
        dataclasses.replace(RECIPE, peak_epoch=peak)


PLAIN = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "AdamW": partial(torch.optim.AdamW, betas=(0.9, 0.99)),
}


@pytest.mark.parametrize(("name", "max_lr"), [("SGD", 0.1), ("AdamW", 0.003)])
def test_every_step_is_that_of_a_loop_written_out(name, max_lr, digits, monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    recipe = Recipe(2, 64, max_lr, peak_epoch=1, optimizer=name, label_smoothing=0.1)
    recipe = dataclasses.replace(recipe, weight_decay=0.1)
    set_seed(0)
    model = Tiny()
    model.dropout.p = 0.0
    expected = copy.deepcopy(model).train()
    fit(model, digits, None, recipe, seed=3, accelerator=Accelerator(mixed_precision="no"))

    decayed, spared = (
        [p for p in expected.parameters() if (p.ndim > 1) is w] for w in (True, False)
    )
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
    optimizer = PLAIN[name](groups)
    rates = list(np.interp(range(10), [0, 4, 9], [max_lr / 10, max_lr, max_lr / 1e5]))
    mean, std = (torch.from_numpy(values).float() for values in digits.statistics)
    sampler = BatchSampler(300, 64, seed=3)
    for sampler.epoch in (1, 2):
        for indices, _ in sampler:
            images = (torch.from_numpy(digits.train_images[indices]) / 255 - mean) / std
            labels = torch.from_numpy(digits.train_labels[indices])
            logits = expected(images.permute(0, 3, 1, 2))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            for group in optimizer.param_groups:
                group["lr"] = rates[0]
            optimizer.step()
            del rates[0]
    assert not rates
    for (layer, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        if layer != "conv.bias":  # before a normalisation its gradients are rounding errors
            assert torch.allclose(ours, theirs, atol=1e-4), layer


def test_the_order_of_images_differs_by_epoch_and_seed_and_from_that_of_the_file():
    orders = [tuple(range(300))]
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        sampler = BatchSampler(300, 64, seed)
        sampler.epoch = epoch
        orders.append(tuple(np.concatenate([indices for indices, _ in sampler]).tolist()))
    assert len({*orders}) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_after_its_first_steps_a_run_says_how_long_it_will_take(digits, monkeypatch, capsys):
    monkeypatch.setattr(loop, "SECONDS_TIMED", 0)
    trained(digits)
    said = re.findall(r"about (\d+) (?:seconds|minutes) to go", capsys.readouterr().out)
    assert len(said) == 1, "once, in the first epoch"
