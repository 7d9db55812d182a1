"""The training loop: schedule, metrics, loss scaling, and resuming after a kill."""

import contextlib
import copy
import dataclasses
import random
import re
import signal
import subprocess
import sys
import types
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

from helpers import data as data_module
from helpers import device, evaluation, progress, training, transforms
from helpers.checkpoints import CheckpointManager
from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS
from helpers.loaders import SeededBatchSampler, make_train_loader
from helpers.optim import TrainConfig, build_optimizer, build_scheduler
from helpers.training import evaluate, fit, format_epoch, set_seed, train_one_epoch
from tests.easy_images import easy_images
from tests.test_progress import in_notebook

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(epochs=3, batch_size=64, max_lr=0.1, peak_epoch=1, label_smoothing=0.1)


class Tiny(nn.Module):
    """A small network with everything that has state: batch normalization and dropout."""

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
def sample():
    return data_module.load_sample().subset(300, 360)


@pytest.fixture
def new_accelerator(monkeypatch):
    """Returns a function that creates an Accelerator in a given precision."""

    def create(mixed_precision):
        monkeypatch.setattr(AcceleratorState, "_shared_state", {})
        return Accelerator(mixed_precision=mixed_precision)

    return create


def train_tiny(sample, config=CONFIG, transform=None, **options):
    set_seed(0)
    model = Tiny()
    history = fit(model, sample, transform, config, **options)
    return model, history


def without_times(history):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in history.epochs]


def interrupt_in_epoch(epoch):
    """Replaces `_check_convergence`: a user interrupts the run in the given epoch."""

    def check(name, loss, number, config):
        if number == epoch:
            raise KeyboardInterrupt

    return check


def scheduled_lrs(config, batches):
    """The learning rates of a whole run, and its optimizer."""
    optimizer = build_optimizer(Tiny(), config)
    scheduler = build_scheduler(optimizer, config, batches)
    lrs = []
    for step in range(config.epochs * batches):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if step + 1 < config.epochs * batches:
            scheduler.step()
    return lrs, optimizer


def test_the_learning_rates_of_a_run_follow_the_config(sample):
    _, history = train_tiny(sample)
    lrs = history.lrs
    assert len(lrs) == 3 * 5  # 300 images in batches of 64, the last one smaller
    assert int(np.argmax(lrs)) == 5 - 1  # the last step of epoch 1
    assert max(lrs) == pytest.approx(0.1)
    assert lrs[0] == pytest.approx(0.01)
    assert lrs[-1] < 1e-5
    assert np.allclose(np.diff(lrs, 2)[[0, 1, 2, *range(5, 13)]], 0, atol=1e-9)  # two lines
    assert [row["learning_rate"] for row in history.epochs] == [lrs[4], lrs[9], lrs[14]]


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    epochs=st.integers(2, 60),
    batches=st.integers(8, 400),
    peak=st.floats(0.15, 0.6),
    name=st.sampled_from(["SGD", "Muon", "AdamW"]),
)
def test_every_schedule_peaks_at_its_peak_epoch_and_does_not_change_momentum(
    epochs, batches, peak, name
):
    config = TrainConfig(epochs, 64, max_lr=0.2, peak_epoch=peak * epochs, optimizer=name)
    before = build_optimizer(Tiny(), config).param_groups
    lrs, optimizer = scheduled_lrs(config, batches)
    assert abs(int(np.argmax(lrs)) + 1 - peak * epochs * batches) <= 1
    for name in ("betas", "momentum"):
        assert [g.get(name) for g in before] == [g.get(name) for g in optimizer.param_groups]


@hypothesis_settings(deadline=None, max_examples=100)
@given(epochs=st.integers(1, 5), batches=st.integers(1, 5), data=st.data())
def test_every_schedule_is_two_lines_even_if_the_peak_is_the_first_step(epochs, batches, data):
    steps = epochs * batches
    some_step = st.integers(1, steps).map(lambda step: step / batches)
    peak_epoch = data.draw(some_step | st.floats(0, epochs, exclude_min=True), "peak_epoch")
    lrs, _ = scheduled_lrs(TrainConfig(epochs, 64, max_lr=0.2, peak_epoch=peak_epoch), batches)
    peak_step = peak_epoch * batches - 1  # the first step has the index 0
    if peak_step <= 0:
        points = {0: 0.2, steps - 1: 0.2 / 1e5} if steps > 1 else {0: 0.2}
    elif peak_step < steps - 1:
        points = {0: 0.02, peak_step: 0.2, steps - 1: 0.2 / 1e5}
    else:
        points = {0: 0.02, peak_step: 0.2}
    expected = np.interp(range(steps), list(points), list(points.values()))
    assert lrs == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_s10_peaks_at_the_end_of_epoch_5_of_24():
    optimizer = build_optimizer(Tiny(), EXPERIMENTS["S10/s10"].config)
    scheduler = build_scheduler(optimizer, EXPERIMENTS["S10/s10"].config, batches=98)
    lrs = []
    for _ in range(24 * 98 - 1):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    lrs.append(scheduler.get_last_lr()[0])
    assert len(lrs) == scheduler.total_steps == 2352
    assert int(np.argmax(lrs)) == 489


def test_a_run_of_a_single_step_trains_at_the_peak(sample):
    config = TrainConfig(epochs=1, batch_size=64, max_lr=0.01, peak_epoch=1)
    set_seed(0)
    model = Tiny()
    before = model.conv.weight.detach().clone()
    history = fit(model, sample.subset(64, 20), None, config)
    assert history.lrs == [pytest.approx(0.01)]
    assert not torch.equal(model.conv.weight, before)


def test_biases_and_normalization_layers_get_no_weight_decay():
    optimizer = build_optimizer(Tiny(), dataclasses.replace(CONFIG, weight_decay=0.01))
    decayed, not_decayed = optimizer.param_groups
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in not_decayed["params"]} == {1}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(Tiny().parameters()))


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer=Lion is unknown; it is one of SGD"):
        build_optimizer(Tiny(), dataclasses.replace(CONFIG, optimizer="Lion"))


def test_test_metrics_are_those_of_the_weights_at_the_end(sample):
    model, history = train_tiny(sample)
    with device.create_accelerator().autocast():
        logits = evaluation.predict(model, sample, sample.test_images)
    labels = torch.from_numpy(sample.test_labels)
    last = history.epochs[-1]
    accuracy = evaluation.test_accuracy(logits.numpy(), sample)
    assert last["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert last["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_training_metrics_weigh_every_image_once(sample):
    # With a learning rate of almost zero they are those of an evaluation in training mode.
    config = dataclasses.replace(CONFIG, epochs=2, max_lr=1e-12)
    set_seed(0)
    model = Tiny()
    model.dropout.p = 0.0
    model.norm = nn.Identity()
    history = fit(model, sample, None, config)
    with device.create_accelerator().autocast():
        logits = evaluation.predict(model, sample, sample.train_images)
    labels = torch.from_numpy(sample.train_labels)
    expected = 100 * (logits.argmax(1) == labels).float().mean().item()
    assert history.epochs[0]["train_accuracy"] == pytest.approx(expected, abs=0.4)
    loss = F.cross_entropy(logits, labels).item()
    assert history.epochs[0]["train_loss"] == pytest.approx(loss, rel=2e-3)


def test_it_learns():
    config = dataclasses.replace(CONFIG, epochs=8, max_lr=0.5, peak_epoch=2)
    _, history = train_tiny(easy_images(300), config)
    assert history.epochs[-1]["test_accuracy"] > 60
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]


def test_the_schedule_continues_if_loss_scaling_skips_steps(sample):
    _, expected = train_tiny(sample)
    accelerator = Accelerator(mixed_precision=device.create_accelerator().mixed_precision)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10_000)
    set_seed(0)
    model = Tiny()
    overflows = iter([True, True, False, True])
    model.output.weight.register_hook(lambda g: g * torch.inf if next(overflows, False) else g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a notebook that trains in fp16 would show it
        history = fit(model, sample, None, CONFIG, accelerator=accelerator)
    assert accelerator.scaler.get_scale() == 1024 / 2**3, "three steps should have been skipped"
    assert history.lrs == expected.lrs
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_divergence_is_a_clear_error(sample):
    config = dataclasses.replace(CONFIG, max_lr=1e30)
    with pytest.raises(FloatingPointError, match="diverged; try a learning rate below 1e"):
        train_tiny(sample, config)


class FailsInTest(Tiny):
    """A network whose logits are not finite in evaluation mode only."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        logits = super().forward(x)
        return logits if self.training else logits * self.factor


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38])
def test_a_test_loss_that_is_not_finite_is_a_clear_error(factor, sample):
    with pytest.raises(FloatingPointError, match=r"the test loss is (nan|inf) in epoch 1"):
        fit(FailsInTest(factor), sample, None, CONFIG)


def test_variables_of_accelerate_do_not_change_the_training(sample, monkeypatch):
    _, expected = train_tiny(sample)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert without_times(train_tiny(sample)[1]) == without_times(expected)


def test_an_equal_seed_gives_an_equal_history_and_another_seed_another(sample):
    transform = transforms.flip_shift(sample.mean)
    first, again, other = (
        without_times(train_tiny(sample, transform=transform, seed=seed)[1]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_every_epoch_and_process_has_random_numbers_of_its_own():
    def draw(*args):
        set_seed(*args)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(0) == draw(0, 0, 0)
    draws = [draw(0), draw(1), draw(0, 1), draw(0, 0, 1), draw(1, 1), draw(1, 1, 1)]
    for numbers in zip(*draws, strict=True):  # of Python, of NumPy, of PyTorch
        assert len({*numbers}) == len(draws)


def test_mixed_precision_is_removed_from_the_model_after_training(sample, new_accelerator):
    model, _ = train_tiny(sample, accelerator=new_accelerator("bf16"))
    assert "forward" not in vars(model)
    assert "_original_forward" not in vars(model)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("end", ["divergence", "interruption"])
def test_mixed_precision_is_removed_even_if_training_fails(
    end, sample, new_accelerator, monkeypatch
):
    set_seed(0)
    model = Tiny()
    config = CONFIG
    error = FloatingPointError
    if end == "divergence":
        config = dataclasses.replace(CONFIG, max_lr=1e30)
    else:
        error = KeyboardInterrupt

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(training, "evaluate", interrupt)
    with pytest.raises(error):
        fit(model, sample, None, config, accelerator=new_accelerator("bf16"))
    assert "forward" not in vars(model)
    assert "_original_forward" not in vars(model)
    dtypes = []
    model.output.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    evaluation.predict(model, sample, sample.test_images[:20])
    assert dtypes == [torch.float32]


@pytest.mark.parametrize("end", ["the last epoch", "divergence"])
def test_the_warning_filters_are_as_before_after_training(end, sample):
    config = dataclasses.replace(CONFIG, epochs=1, max_lr=0.1 if end == "the last epoch" else 1e30)
    small = sample.subset(128, 20)
    before = list(warnings.filters)
    if end == "the last epoch":
        train_tiny(small, config)
    else:
        with pytest.raises(FloatingPointError):
            train_tiny(small, config)
    assert warnings.filters == before


def test_one_epoch_can_be_trained_and_evaluated_without_fit(sample, new_accelerator):
    accelerator = new_accelerator("no")
    config = dataclasses.replace(CONFIG, epochs=1)
    set_seed(0)
    fitted = Tiny()
    model = device.prepare_model(copy.deepcopy(fitted), accelerator.device)
    history = fit(fitted, sample, None, config, accelerator=accelerator)

    sampler = SeededBatchSampler(300, 64, seed=0)
    sampler.epoch = 1
    loader = make_train_loader(sample, None, sampler)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, len(loader))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    set_seed(0, epoch=1)
    model.eval()
    train, lrs = train_one_epoch(
        model, loader, sample, criterion, optimizer, scheduler, accelerator
    )
    assert model.training
    assert lrs == history.lrs
    assert train.images == 300
    test = evaluate(model, sample, accelerator)
    assert model.training, "an evaluation does not change the mode"
    assert test.images == 360
    row = history.epochs[0]
    assert (train.loss, train.accuracy) == pytest.approx(
        (row["train_loss"], row["train_accuracy"]), rel=1e-5
    )
    assert (test.loss, test.accuracy) == pytest.approx(
        (row["test_loss"], row["test_accuracy"]), rel=1e-5
    )


def test_the_metrics_of_an_epoch_are_those_of_its_logits(sample, new_accelerator):
    """Recorded in the forward pass: with dropout, and without label smoothing."""
    accelerator = new_accelerator("no")
    config = dataclasses.replace(CONFIG, epochs=1)
    model = Tiny()
    logits = []
    model.register_forward_hook(lambda *args: logits.append(args[-1].detach().clone()))
    sampler = SeededBatchSampler(300, 64, seed=0)
    loader = make_train_loader(sample, None, sampler)
    optimizer = build_optimizer(model, config)
    metrics, _ = train_one_epoch(
        model,
        loader,
        sample,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer,
        build_scheduler(optimizer, config, len(loader)),
        accelerator,
    )
    labels = torch.from_numpy(sample.train_labels[np.concatenate([batch for batch, _ in sampler])])
    logits = torch.cat(logits)
    assert metrics.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    accuracy = 100 * (logits.argmax(dim=1) == labels).float().mean().item()
    assert metrics.accuracy == pytest.approx(accuracy, rel=1e-5)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 3 s with every training batch, and by 5 s with every evaluation."""
    clock = types.SimpleNamespace(now=100.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(progress, "time", clock)
    original_evaluate, original_totals = training.evaluate, training._batch_totals

    def slow_evaluate(*args):
        metrics = original_evaluate(*args)
        clock.now += 5
        return metrics

    def slow_totals(logits, labels):
        clock.now += 3 if len(labels) in (64, 300 % 64) else 0
        return original_totals(logits, labels)

    monkeypatch.setattr(training, "evaluate", slow_evaluate)
    monkeypatch.setattr(training, "_batch_totals", slow_totals)
    return clock


def test_speed_and_time_are_those_of_the_clock(clock, sample, capsys):
    _, history = train_tiny(sample)
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3]
    assert [row["seconds"] for row in history.epochs] == [20, 20, 20]
    assert [row["images_per_second"] for row in history.epochs] == [300 / 15] * 3
    out = capsys.readouterr().out
    times = re.findall(r"  20 s  (\d\d:\d\d) left$", out, re.MULTILINE)
    assert times == ["00:40", "00:20", "00:00"]


def test_the_time_left_is_that_of_the_epochs_trained_now(clock, sample, tmp_path, capsys):
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})
    config = dataclasses.replace(CONFIG, epochs=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_check_convergence", interrupt_in_epoch(2))
        with pytest.raises(KeyboardInterrupt):
            train_tiny(sample, config, checkpoint=checkpoint)
    capsys.readouterr()
    train_tiny(sample, config, checkpoint=checkpoint)
    out = capsys.readouterr().out
    times = re.findall(r"  20 s(?:  (\d\d:\d\d) left)?$", out, re.MULTILINE)
    assert times == ["", "01:00", "00:40", "00:20", "00:00"]  # none for the epoch before


@pytest.mark.parametrize("done", [0, 1])
def test_the_time_to_go_is_that_of_all_steps_to_the_end(clock, done, sample, tmp_path, capsys):
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})
    config = dataclasses.replace(CONFIG, epochs=2, batch_size=32)
    original = training._batch_totals

    def slow_totals(logits, labels):
        clock.now += 3 if len(labels) == 32 else 0  # nothing for the last batch, of 12 images
        return original(logits, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_batch_totals", slow_totals)
        if done:
            with pytest.MonkeyPatch.context() as first:
                first.setattr(training, "_check_convergence", interrupt_in_epoch(2))
                with pytest.raises(KeyboardInterrupt):
                    train_tiny(sample, config, checkpoint=checkpoint)
            capsys.readouterr()
        train_tiny(sample, config, checkpoint=checkpoint)
    # Two batches after the first three take 6 s. 5 of 20 or of 10 steps are done.
    seconds = 3 * (2 * 10 - 10 * done - 5)
    assert re.findall("about (.*) to go", capsys.readouterr().out) == [f"{seconds} seconds"]


def test_a_notebook_shows_the_progress_and_nothing_on_standard_error(sample, monkeypatch, capsys):
    monkeypatch.setattr(progress, "UPDATE_SECONDS", 0)
    with in_notebook() as (kernel, _):
        train_tiny(sample)
    texts = [entry.text for entry in kernel.displayed if entry.text != "accuracy"]
    assert [text[:7] for text in texts] == (
        ["epoch 1"] * 5
        + [""]
        + ["epoch 2"] * 5
        + [""]
        + ["epoch 3"] * 5
        + ["", ""]  # the last one removes the curve
    )
    assert capsys.readouterr().err == ""


def test_every_epoch_is_seeded_by_the_run_the_epoch_and_the_process(sample, monkeypatch):
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "set_seed", lambda *args: calls.append(args))
        fit(Tiny(), sample, None, CONFIG, seed=7)
    assert calls == [(7, 1, 0), (7, 2, 0), (7, 3, 0)]


def test_batches_are_those_of_the_transform_the_seed_and_the_workers(sample, monkeypatch):
    calls = []

    def recording_loader(data, transform, sampler, workers=0):
        calls.append((transform, sampler, workers))
        return make_train_loader(data, transform, sampler)

    monkeypatch.setattr(training, "make_train_loader", recording_loader)
    transform = transforms.flip_shift(sample.mean)
    fit(Tiny(), sample, transform, CONFIG, seed=7, workers=2)
    [(used_transform, sampler, workers)] = calls
    assert used_transform is transform
    assert workers == 2
    assert (sampler.size, sampler.batch_size, sampler.seed) == (300, 64, 7)
    assert (sampler.rank, sampler.processes) == (0, 1)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_test_metrics_are_in_the_precision_of_the_training(
    precision, dtype, sample, new_accelerator
):
    model = Tiny()
    dtypes = []
    model.output.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    evaluate(model, sample, new_accelerator(precision))
    assert dtypes == [dtype]


def test_an_epoch_is_one_line():
    row = {
        "epoch": 3,
        "learning_rate": 0.12345,
        "train_loss": 1.23456,
        "train_accuracy": 5.678,
        "test_loss": 2.3456,
        "test_accuracy": 67.891,
        "images_per_second": 1234.5,
        "seconds": 78.9,
    }
    line = (
        "epoch  3/10  lr 0.1235  train loss 1.235,  5.68 %  test loss 2.346, 67.89 %  "
        "1,234 images/s  79 s"
    )
    assert format_epoch(row, 10) == line
    assert format_epoch(row, 10, eta=0) == line + "  00:00 left"
    assert format_epoch(row, 10, eta=3725) == line + "  1:02:05 left"


TRAIN = """
import json, os, signal, sys
from pathlib import Path
from helpers import data
from helpers import transforms
from helpers.checkpoints import CheckpointManager
from helpers.optim import TrainConfig
from helpers.training import fit
from helpers.training import set_seed
from tests.test_training import Tiny, without_times

file, moment, epoch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
checkpoint = CheckpointManager(file, {"run": "tiny"})

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def save(self, state, save=CheckpointManager.save):
    save(self, state)
    if moment != "never" and len(state["history"]["epochs"]) == epoch:
        if moment == "half-written":
            file = self.files[self.step % 2]
            file.write_bytes(file.read_bytes()[:1000])
        kill()

CheckpointManager.save = save
images = data.load_sample().subset(300, 360)
config = TrainConfig(epochs=6, batch_size=32, max_lr=0.1, peak_epoch=2)
set_seed(0)
model = Tiny()
transform = transforms.flip_shift(images.mean)
history = fit(model, images, transform, config, checkpoint=checkpoint)
weights = sum(p.double().abs().sum().item() for p in model.state_dict().values())
print("DONE", json.dumps([without_times(history), history.lrs, weights]))
"""


def run_and_kill(file, moment="never", epoch=0):
    command = [sys.executable, "-c", TRAIN, str(file), moment, str(epoch)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_killed_and_continued_equals_one_never_killed(tmp_path):
    expected = run_and_kill(tmp_path / "uninterrupted.pt")
    assert expected.returncode == 0, expected.stderr
    file = tmp_path / "killed" / "run.pt"
    for moment, epoch, saved in (("half-written", 3, 2), ("written", 5, 5)):
        assert run_and_kill(file, moment, epoch).returncode == -signal.SIGKILL
        assert {path.name for path in file.parent.iterdir()} == {"run.pt", "run-2.pt"}
        assert len(CheckpointManager(file, {"run": "tiny"}).load()["history"]["epochs"]) == saved
    continued = run_and_kill(file)
    assert "Continuing after epoch 5 of 6" in continued.stdout
    assert continued.stdout.split("DONE ")[1] == expected.stdout.split("DONE ")[1]


def test_a_finished_run_is_not_trained_again(sample, tmp_path, capsys):
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})
    model, history = train_tiny(sample, checkpoint=checkpoint)
    capsys.readouterr()
    again, same = train_tiny(sample, checkpoint=checkpoint)
    assert "Nothing left to train after epoch 3 of 3" in capsys.readouterr().out
    assert same == history
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_checkpoint_has_everything_that_training_continues_from(sample, tmp_path, capsys):
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})
    accelerator = Accelerator(mixed_precision=device.create_accelerator().mixed_precision)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model, history = train_tiny(sample, checkpoint=checkpoint, accelerator=accelerator)
    state = checkpoint.load()
    assert state.keys() == {"model", "optimizer", "schedule", "scaler", "history"}
    assert state["history"] == vars(history)
    assert state["schedule"]["last_epoch"] == 3 * 5 - 1
    assert state["scaler"]["scale"] == 1024
    for name, weight in model.state_dict().items():
        assert torch.equal(state["model"][name], weight)
    capsys.readouterr()

    other = Accelerator(mixed_precision=device.create_accelerator().mixed_precision)
    other.scaler = None  # continued on a device that needs no loss scaling
    assert train_tiny(sample, checkpoint=checkpoint, accelerator=other)[1] == history
    del state["scaler"]  # continued on a device that does
    checkpoint.save(state)
    assert train_tiny(sample, checkpoint=checkpoint, accelerator=accelerator)[1] == history


def test_a_change_of_device_or_versions_is_recorded_and_printed(
    sample, tmp_path, capsys, monkeypatch
):
    small = sample.subset(128, 20)
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})

    with monkeypatch.context() as patch:
        patch.setattr(training, "_check_convergence", interrupt_in_epoch(2))
        with pytest.raises(KeyboardInterrupt):
            train_tiny(small, checkpoint=checkpoint)
        patch.setattr(training, "_check_convergence", interrupt_in_epoch(3))
        with pytest.raises(KeyboardInterrupt):
            train_tiny(small, checkpoint=checkpoint)
    out = capsys.readouterr().out
    assert "Continuing after epoch 1 of 3" in out
    assert "Changed since" not in out
    environments = checkpoint.load()["history"]["environments"]
    assert len(environments) == 1
    assert environments[0]["device_type"] == "cpu"
    assert environments[0]["processes"] == 1
    assert environments[0].keys() > device.library_versions().keys()

    monkeypatch.setattr(training.device, "device_name", lambda _: "another CPU")
    history = train_tiny(small, checkpoint=checkpoint)[1]
    out = capsys.readouterr().out
    changes = re.findall("^Changed since the last checkpoint: (.*)$", out, re.MULTILINE)
    assert changes == [f"device {environments[0]['device']} -> another CPU"]
    assert history.environments == [*environments, environments[0] | {"device": "another CPU"}]
    assert re.findall(r"^epoch +(\d)", out, re.MULTILINE) == ["1", "2", "3"]

    monkeypatch.setattr(training.device, "device_name", lambda _: "a third CPU")
    finished = train_tiny(small, checkpoint=checkpoint)[1]
    assert finished.environments == history.environments, "it trained nothing"


def test_a_device_that_comes_back_is_recorded_again(sample, tmp_path, monkeypatch):
    small = sample.subset(128, 20)
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "tiny"})
    names = ["first", "second", "first"]
    for epoch, name in enumerate(names, start=1):
        monkeypatch.setattr(training.device, "device_name", lambda _, name=name: name)
        with monkeypatch.context() as patch:
            patch.setattr(training, "_check_convergence", interrupt_in_epoch(epoch + 1))
            with pytest.raises(KeyboardInterrupt) if epoch < 3 else contextlib.nullcontext():
                train_tiny(small, checkpoint=checkpoint)
    environments = checkpoint.load()["history"]["environments"]
    assert [environment["device"] for environment in environments] == names


@pytest.mark.parametrize("peak", [0, -1, 3.5])
def test_a_peak_outside_the_run_is_named(peak):
    with pytest.raises(ValueError, match=rf"^peak_epoch={peak} is not in \(0, 3\]$"):
        dataclasses.replace(CONFIG, peak_epoch=peak)


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "AdamW": partial(torch.optim.AdamW, betas=(0.9, 0.99)),
}


@pytest.mark.parametrize(("name", "max_lr"), [("SGD", 0.1), ("AdamW", 0.003)])
def test_every_step_is_that_of_a_loop_written_out(name, max_lr, sample, new_accelerator):
    config = TrainConfig(2, 64, max_lr, peak_epoch=1, optimizer=name, label_smoothing=0.1)
    config = dataclasses.replace(config, weight_decay=0.1)
    set_seed(0)
    model = Tiny()
    model.dropout.p = 0.0
    expected = copy.deepcopy(model).train()
    fit(model, sample, None, config, seed=3, accelerator=new_accelerator("no"))

    decayed = [p for p in expected.parameters() if p.ndim > 1]
    not_decayed = [p for p in expected.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    optimizer = OPTIMIZERS[name](groups)
    lrs = list(np.interp(range(10), [0, 4, 9], [max_lr / 10, max_lr, max_lr / 1e5]))
    mean, std = (torch.from_numpy(values).float() for values in (sample.mean, sample.std))
    sampler = SeededBatchSampler(300, 64, seed=3)
    for sampler.epoch in (1, 2):
        for indices, _ in sampler:
            images = (torch.from_numpy(sample.train_images[indices]) / 255 - mean) / std
            labels = torch.from_numpy(sample.train_labels[indices])
            logits = expected(images.permute(0, 3, 1, 2))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
            for group in optimizer.param_groups:
                group["lr"] = lrs[0]
            optimizer.step()
            del lrs[0]
    assert not lrs
    for (layer, weight), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        if layer != "conv.bias":  # before a normalization its gradients are rounding errors
            assert torch.allclose(weight, other, atol=1e-4), layer


def test_the_order_of_images_differs_by_epoch_and_seed_and_from_that_of_the_file():
    orders = [tuple(range(300))]
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        sampler = SeededBatchSampler(300, 64, seed)
        sampler.epoch = epoch
        orders.append(tuple(np.concatenate([indices for indices, _ in sampler]).tolist()))
    assert len({*orders}) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_after_its_first_steps_a_run_prints_how_long_it_will_take(sample, monkeypatch, capsys):
    monkeypatch.setattr(progress, "ETA_AFTER_SECONDS", 0)
    train_tiny(sample)
    times = re.findall(r"about (\d+) (?:seconds|minutes) to go", capsys.readouterr().out)
    assert len(times) == 1, "once, in the first epoch"
