"""The learning rate finder: it finds the best one, continues if interrupted, is reused."""

import copy
import dataclasses
import json
import math
import random

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import data as data_module
from helpers import lr_finder
from helpers.checkpoints import CheckpointManager
from helpers.config import ROOT, SMOKE, Profile, Settings
from helpers.experiments import (
    EXPERIMENTS,
    LR_SEARCH_FILE,
    find_experiment_lr,
    run_experiment,
)
from helpers.lr_finder import interpolate_best_lr, lr_range_test, next_lr_candidate
from helpers.models import MODELS
from helpers.optim import TrainConfig, scale_to_profile
from helpers.transforms import crop_cutout
from tests.test_training import FailsInTest, Tiny

EXPERIMENT = dataclasses.replace(EXPERIMENTS["S7/s7_dropout"], model="tiny", find_lr=True)
RANGE_TEST = pd.DataFrame({"learning_rate": [0.01, 0.2, 1.0], "loss": [2.0, 1.0, 3.0]})
SEARCH = ["range test", 0.02, 0.04, 0.08, 0.16]  # what is measured if the best one is .083


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(300, 360)


@pytest.fixture
def settings(tmp_path):
    return Settings(SMOKE, "sample", output_dir=tmp_path)


@pytest.fixture
def measured(monkeypatch):
    """The range tests and learning rates that are measured; the best one is a little over .08."""
    log = []

    def range_test(*_):
        log.append("range test")
        return RANGE_TEST

    def loss(model, data, transform, config, seed):
        log.append(config.max_lr)
        return abs(math.log2(config.max_lr / 0.083))

    monkeypatch.setattr(lr_finder, "lr_range_test", range_test)
    monkeypatch.setattr(lr_finder, "_short_run_loss", loss)
    return log


def saved_lr(name):
    search = json.loads((ROOT / "results" / name / LR_SEARCH_FILE).read_text())
    return interpolate_best_lr(dict(search["short_runs"]))


def search_all(loss, start, most=7):
    losses = {}
    while (lr := next_lr_candidate(losses, start, most)) is not None:
        assert lr not in losses
        losses[lr] = loss(lr)
    return losses


@given(best=st.floats(-12, 2), offset=st.floats(-4.4, 4.4), curvature=st.floats(0.01, 10))
def test_from_far_off_it_finds_the_bottom_of_a_valley(best, offset, curvature):
    losses = search_all(
        lambda lr: 1 + curvature * (math.log2(lr) - best) ** 2, 2 ** (best + offset)
    )
    assert len(losses) <= 7
    lowest = min(losses, key=losses.get)
    assert {lowest / 2, 2 * lowest} <= losses.keys()
    assert interpolate_best_lr(losses) == pytest.approx(2**best, rel=1e-3)


@given(limit=st.floats(-3, 3), start=st.sampled_from([1e-3, 0.1, 1.0]))
def test_learning_rates_that_diverge_are_worse_than_any(limit, start):
    losses = search_all(lambda lr: 1 / lr if lr < start * 2**limit else math.inf, start)
    best = interpolate_best_lr(losses)
    assert math.isfinite(losses[best])
    assert losses[2 * best] == math.inf


@pytest.mark.parametrize("most", [1, 2, 7])
def test_if_all_diverge_or_all_are_equal_it_ends(most):
    diverged = search_all(lambda _: math.inf, 0.1, most)
    assert len(diverged) == most
    assert interpolate_best_lr(diverged) == min(diverged)
    equal = search_all(lambda _: 2.3, 0.1, most)
    assert len(equal) == most
    assert interpolate_best_lr(equal) == min(equal)
    assert interpolate_best_lr({0.1: 1.0, 0.2: 1.0, 0.4: 1.0}) == 0.1


def test_twice_the_best_is_tried_before_half_of_it():
    assert next_lr_candidate({}, 0.1) == 0.1
    assert next_lr_candidate({0.1: 1.0}, 0.1) == 0.2
    assert next_lr_candidate({0.1: 1.0, 0.2: 2.0}, 0.1) == 0.05
    assert next_lr_candidate({0.1: 1.0, 0.2: 2.0, 0.05: 2.0}, 0.1) is None


def test_the_parabola_is_that_of_numpy():
    losses = {0.05: 1.2, 0.1: 0.9, 0.2: 1.0, 0.4: 1.9}
    a, b, _ = np.polyfit(np.log2([0.05, 0.1, 0.2]), [1.2, 0.9, 1.0], 2)
    assert interpolate_best_lr(losses) == pytest.approx(2 ** (-b / (2 * a)))


@given(st.dictionaries(st.integers(-8, 8), st.floats(0.01, 10) | st.just(math.inf), min_size=1))
def test_the_best_learning_rate_is_next_to_the_lowest_loss(losses):
    losses = {2.0**exponent: loss for exponent, loss in losses.items()}
    lowest = min(losses, key=losses.get)
    best = interpolate_best_lr(losses)
    # Of equal losses the lowest learning rate counts.
    lowest = min(lr for lr in losses if losses[lr] == losses[lowest])
    assert lowest / 2**0.5 * (1 - 1e-9) <= best <= lowest * 2**0.5 * (1 + 1e-9)


def test_it_starts_at_a_tenth_of_the_range_tests_lowest_and_is_saved(measured, sample, settings):
    experiment, lr_curve, lr_trials = find_experiment_lr(EXPERIMENT, sample, settings)
    assert measured == SEARCH
    pd.testing.assert_frame_equal(lr_curve, RANGE_TEST)
    assert list(lr_trials["learning_rate"]) == measured[1:]
    assert not experiment.find_lr
    as_trained = scale_to_profile(experiment.config, settings.profile, 300)
    assert 0.075 < as_trained.max_lr < 0.095
    assert as_trained.batch_size < experiment.config.batch_size
    expected = dataclasses.replace(EXPERIMENT.config, max_lr=experiment.config.max_lr)
    assert experiment.config == expected, "its own epochs and batch size"
    file = settings.results_dir("sample") / EXPERIMENT.name / "rate_search.json"
    assert json.loads(file.read_text())["range_test"] == RANGE_TEST.to_dict("list")
    assert [lr for lr, _ in json.loads(file.read_text())["short_runs"]] == measured[1:]


@pytest.mark.parametrize("done", [1, 3])
def test_it_continues_after_the_range_test_and_after_the_last_short_run(
    done, measured, sample, settings, monkeypatch, capsys
):
    loss = lr_finder._short_run_loss

    def interrupted(*args):
        if len(measured) == done:
            raise KeyboardInterrupt
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(lr_finder, "_short_run_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_experiment_lr(EXPERIMENT, sample, settings)
    assert "Run the same command or cell again" in capsys.readouterr().out
    first, *tables = find_experiment_lr(EXPERIMENT, sample, settings)
    assert measured == SEARCH
    again, *same = find_experiment_lr(EXPERIMENT, sample, settings)
    assert measured == SEARCH
    assert first.config == again.config
    for table, other in zip(tables, same, strict=True):
        pd.testing.assert_frame_equal(table, other)


def test_another_setting_starts_a_new_search(measured, sample, settings):
    find_experiment_lr(EXPERIMENT, sample, settings)
    other = dataclasses.replace(
        EXPERIMENT, config=dataclasses.replace(EXPERIMENT.config, weight_decay=0.1)
    )
    find_experiment_lr(other, sample, settings)
    assert measured == 2 * SEARCH
    find_experiment_lr(other, sample, dataclasses.replace(settings, resume=False))
    assert measured == 3 * SEARCH
    find_experiment_lr(dataclasses.replace(other, transform=crop_cutout), sample, settings)
    assert measured == 4 * SEARCH
    find_experiment_lr(EXPERIMENT, sample, dataclasses.replace(settings, seed=1))
    assert measured == 5 * SEARCH


def test_a_saved_search_is_reused_and_named_if_it_is_damaged(measured, sample, settings):
    folder = settings.output_dir / "results" / EXPERIMENT.name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    saved = {"range_test": RANGE_TEST.to_dict("list"), "short_runs": [[0.1, 2], [0.2, 1], [0.4, 2]]}
    file = folder / "rate_search.json"
    file.write_text(json.dumps(saved))
    reusing = dataclasses.replace(settings, reuse=True)
    experiment, lr_curve, lr_trials = find_experiment_lr(EXPERIMENT, sample, reusing)
    assert experiment.config.max_lr == pytest.approx(0.2)
    pd.testing.assert_frame_equal(lr_curve, RANGE_TEST)
    assert lr_trials.to_numpy().tolist() == saved["short_runs"]
    assert not measured
    find_experiment_lr(EXPERIMENT, sample, settings)
    assert measured, "without REUSE=1 it searches"
    s10 = dataclasses.replace(EXPERIMENT, name="S10/s10")
    (folder.parents[1] / "S10" / "s10").mkdir(parents=True)
    (folder.parents[1] / "S10" / "s10" / "metrics.json").write_text("{}")
    lr = find_experiment_lr(s10, sample, reusing)[0].config.max_lr
    assert lr == saved_lr("S10/s10"), "the project's search, if the user has none"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=r"rate_search\.json"):
        find_experiment_lr(EXPERIMENT, sample, reusing)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"rate_search\.json"):
        find_experiment_lr(EXPERIMENT, sample, reusing)


@pytest.mark.slow
def test_the_losses_of_short_runs_are_those_of_held_out_images(sample, settings, monkeypatch):
    calls, fit = [], lr_finder.fit

    def recording_fit(model, data, transform, config, **options):
        calls.append((data, config))
        assert options == {"seed": 2, "workers": 0}
        return fit(model, data, transform, config, **options)

    monkeypatch.setattr(lr_finder, "fit", recording_fit)
    monkeypatch.setattr(lr_finder, "lr_range_test", lambda *_: RANGE_TEST)
    longer = dataclasses.replace(settings, seed=2, profile=Profile("longer", epochs=6))
    experiment, _, lr_trials = find_experiment_lr(EXPERIMENT, sample, longer)
    held_out = sample.train_val_split()
    for (data, config), lr in zip(calls, lr_trials["learning_rate"], strict=True):
        assert (data.test_images == held_out.test_images).all()
        assert len(data.train_images) == 300 // 5
        assert (data.train_images == held_out.train_images[:60]).all()
        assert config.epochs == 4
        assert config.peak_epoch / 4 == pytest.approx(
            EXPERIMENT.config.peak_epoch / EXPERIMENT.config.epochs
        )
        batch_size = scale_to_profile(experiment.config, longer.profile, 300).batch_size
        assert (config.max_lr, config.batch_size) == (lr, batch_size)
    assert np.isfinite(lr_trials["loss"]).all()


@pytest.mark.slow
def test_learning_rates_that_diverge_are_left_behind(sample, settings, monkeypatch, capsys):
    """From a start at which weights overflow, down to one at which they do not."""
    high = pd.DataFrame({"learning_rate": [4e20], "loss": [1.0]})
    monkeypatch.setattr(lr_finder, "lr_range_test", lambda *_: high)
    monkeypatch.setattr(
        lr_finder, "next_lr_candidate", lambda losses, start: {0: start, 1: 0.1}.get(len(losses))
    )
    experiment, _, lr_trials = find_experiment_lr(EXPERIMENT, sample, settings)
    assert scale_to_profile(experiment.config, settings.profile, 300).max_lr == pytest.approx(0.1)
    assert lr_trials["loss"][0] == math.inf
    assert capsys.readouterr().out.count("training diverged") == 1
    file = settings.results_dir("sample") / EXPERIMENT.name / LR_SEARCH_FILE
    assert json.loads(file.read_text())["short_runs"][0] == [4e19, math.inf]


def test_if_all_learning_rates_diverge_an_error_says_so(sample, settings, measured, monkeypatch):
    monkeypatch.setattr(lr_finder, "_short_run_loss", lambda *_: math.inf)
    with pytest.raises(FloatingPointError, match="S7/s7_dropout: all short runs diverged"):
        find_experiment_lr(EXPERIMENT, sample, settings)


def test_the_search_finds_the_best_of_a_sweep_from_each_learning_rate_of_it():
    """Saved short runs of all six networks: wherever it starts, it ends in the same valley."""
    sweep = pd.read_csv(ROOT / "results" / "S10" / "rates.csv")
    sweep = sweep[sweep["seed"] == 0]
    assert sweep["name"].str.extract(r"/(.*),")[0].nunique() == 8  # two also with SGD and Muon
    for name, rows in sweep.groupby(sweep["name"].str.rpartition(",")[0]):
        losses = dict(zip(rows["learning rate"], rows["validation loss"], strict=True))
        step = {lr: round(math.log2(lr / min(losses))) for lr in losses}
        valley = {2 ** step[lr]: loss for lr, loss in losses.items()}
        best = interpolate_best_lr(valley)
        for start in valley:
            searched = search_all(lambda lr, valley=valley: valley.get(lr, math.inf), start)
            assert interpolate_best_lr(searched) == pytest.approx(best, rel=1e-9), name


CONFIG = TrainConfig(epochs=20, batch_size=64, max_lr=0.1, peak_epoch=5, optimizer="AdamW")


def build_network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )
    network(torch.zeros(2, 3, 32, 32))
    return network


def test_a_range_test_changes_nothing_and_can_be_repeated(sample, capsys):
    model = Tiny()  # has dropout
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    transform = A.Compose([A.HorizontalFlip(p=0.5)])
    curves = [lr_range_test(model, sample, transform, CONFIG, seed=3, steps=30) for _ in range(2)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())
    pd.testing.assert_frame_equal(*curves)
    assert capsys.readouterr() == ("", "")
    torch.rand(1)  # changes the random state, which must not matter
    again = lr_range_test(model, sample, transform, CONFIG, seed=3, steps=30)
    pd.testing.assert_frame_equal(curves[0], again)


def test_learning_rates_grow_and_the_loss_first_falls(sample):
    curve = lr_range_test(build_network(), sample, None, CONFIG, steps=60)
    assert list(curve) == ["learning_rate", "loss"]
    lrs = curve["learning_rate"].to_numpy()
    assert lrs[0] < 2e-5
    assert (np.diff(np.log(lrs)) > 0).all()
    assert curve["loss"].min() < 0.8 * curve["loss"].iloc[0]
    assert 1e-3 < curve["learning_rate"][curve["loss"].idxmin()] <= 1
    assert len(curve) == 60


def test_it_takes_no_more_steps_than_the_run(sample):
    short = dataclasses.replace(CONFIG, epochs=2, peak_epoch=1)
    curve = lr_range_test(build_network(), sample, None, short)
    assert len(curve) == 2 * 5  # batches of 64 out of 300 images
    assert curve["learning_rate"].iloc[-1] == pytest.approx(1)
    assert len(lr_range_test(build_network(), sample, None, short, steps=4)) == 4


@pytest.mark.parametrize(
    "changes", [{"optimizer": "SGD"}, {"label_smoothing": 0.5}, {"batch_size": 32}, {"seed": 1}]
)
def test_the_range_test_is_that_of_the_config_and_the_seed(changes, sample):
    changes = dict(changes)
    seed = changes.pop("seed", 0)
    first = lr_range_test(build_network(), sample, None, CONFIG, steps=4)
    config = dataclasses.replace(CONFIG, **changes)
    other = lr_range_test(build_network(), sample, None, config, seed=seed, steps=4)
    assert not np.allclose(first["loss"], other["loss"])


def test_the_first_loss_of_a_range_test_is_that_of_the_initial_weights(sample):
    small = sample.subset(64)
    torch.manual_seed(0)
    # Without a normalization, so that it matters that the images are normalized.
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.Flatten(), nn.Linear(392, 10))
    curve = lr_range_test(model, small, None, CONFIG, steps=2)
    images = small.normalize(torch.from_numpy(small.train_images).permute(0, 3, 1, 2))
    loss = nn.functional.cross_entropy(model(images), torch.from_numpy(small.train_labels))
    assert curve["loss"][0] == pytest.approx(loss.item(), rel=0.02)  # may be in bfloat16


# With batches small enough for 300 images, so that no short run changes them.
SCALED_CONFIG = scale_to_profile(CONFIG, Profile("short", epochs=2), 300)


def test_the_primitives_find_a_learning_rate_without_files_and_experiments(measured, sample):
    models = []

    def make_model(data):
        models.append(len(data.train_labels))
        return Tiny()

    search = lr_finder.find_lr(make_model, sample, None, SCALED_CONFIG, seed=3)
    assert measured == SEARCH
    assert search["seed"] == 3
    assert search["range_test"] == RANGE_TEST.to_dict("list")
    assert [lr for lr, _ in search["short_runs"]] == SEARCH[1:]
    assert models == [300, 60, 60, 60, 60], "one for the range test, one for each short run"


def test_the_state_of_the_search_is_in_the_checkpoint_after_each_step(
    measured, sample, tmp_path, monkeypatch
):
    sizes = []
    save = CheckpointManager.save

    def recording_save(checkpoint, state):
        sizes.append(len(state["short_runs"]))
        save(checkpoint, state)

    monkeypatch.setattr(CheckpointManager, "save", recording_save)
    checkpoint = CheckpointManager(tmp_path / "search.pt", {"run": "tiny"})
    args = (lambda _: Tiny(), sample, None, SCALED_CONFIG)
    search = lr_finder.find_lr(*args, checkpoint=checkpoint)
    assert sizes == [0, 1, 2, 3, 4]
    assert checkpoint.load() == search
    again = lr_finder.find_lr(*args, checkpoint=checkpoint)
    assert again == search
    assert measured == SEARCH, "nothing is measured again"


@pytest.mark.slow
@pytest.mark.parametrize("batch_size_scale", [1, 2])
def test_an_experiment_with_find_lr_trains_at_the_learning_rate_found(
    batch_size_scale, measured, settings
):
    data = data_module.load_sample().subset(64, 20)
    result = run_experiment(EXPERIMENT, data, settings, batch_size_scale=batch_size_scale)
    assert measured == SEARCH
    losses = {lr: abs(math.log2(lr / 0.083)) for lr in SEARCH[1:]}
    expected = batch_size_scale * interpolate_best_lr(losses)
    assert result.metrics["max_lr"] == pytest.approx(expected)
    assert result.metrics["recipe"]["max_lr"] == pytest.approx(expected)
    # A step of the schedule need not be at the peak itself.
    assert 0.9 * expected < max(result.history.lrs) <= expected * 1.000001
    assert json.loads((result.folder / LR_SEARCH_FILE).read_text())["seed"] == 0
    run_experiment(EXPERIMENT, data, settings, batch_size_scale=batch_size_scale)
    assert measured == SEARCH, "the finished search is used again"


@pytest.mark.slow
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_short_run_that_ends_with_an_infinite_test_loss_has_diverged(factor, sample):
    data, config = sample.subset(64, 20), TrainConfig(1, 32, 0.1, 1)
    assert lr_finder._short_run_loss(FailsInTest(factor), data, None, config, 0) == math.inf
    assert math.isfinite(lr_finder._short_run_loss(Tiny(), data, None, config, 0))


def test_a_range_test_without_a_finite_loss_is_a_clear_error(sample, monkeypatch):
    curve = pd.DataFrame({"learning_rate": [1e-5, 1e-4], "loss": [math.nan, math.nan]})
    monkeypatch.setattr(lr_finder, "lr_range_test", lambda *_: curve)
    with pytest.raises(FloatingPointError, match="not a number at any learning rate"):
        lr_finder.find_lr(lambda _: Tiny(), sample, None, CONFIG)
