"""The search for a learning rate: it finds the best one, goes on where it broke off, is reused."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.images import data as data_module
from helpers.images.transforms import crop_and_hole
from helpers.models import MODELS
from helpers.runs import search
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT, SMOKE, Profile, Settings
from helpers.training.recipes import shortened
from tests.test_training import Tiny

RUN = dataclasses.replace(RUNS["S7/s7_dropout"], net="tiny", find_rate=True)
TEST = pd.DataFrame({"learning_rate": [0.01, 0.2, 1.0], "loss": [2.0, 1.0, 3.0]})


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)


@pytest.fixture(scope="module")
def digits():
    return data_module.digits().first(300)


@pytest.fixture
def settings(tmp_path):
    return Settings(SMOKE, "digits", home=tmp_path)


@pytest.fixture
def tried(monkeypatch):
    """The range tests and short runs that are asked for; the best rate is a little over .08."""
    asked = []

    def loss(run, part, seed):
        asked.append(run.recipe.max_lr)
        return abs(math.log2(run.recipe.max_lr / 0.083))

    monkeypatch.setattr(search, "range_test", lambda *_: asked.append("test") or TEST)
    monkeypatch.setattr(search, "_loss", loss)
    return asked


def rate_kept(name):
    file = ROOT / "results" / name / search.FILE
    return search.best_rate(dict(json.loads(file.read_text())["short_runs"]))


def searched(loss, start):
    losses = {}
    while (rate := search.next_rate(losses, start)) is not None:
        assert rate not in losses
        losses[rate] = loss(rate)
    return losses


@given(best=st.floats(-12, 2), off=st.floats(-4.4, 4.4), bend=st.floats(0.01, 10))
def test_from_far_off_it_finds_the_bottom_of_a_valley(best, off, bend):
    losses = searched(lambda rate: 1 + bend * (math.log2(rate) - best) ** 2, 2 ** (best + off))
    assert len(losses) <= 7
    lowest = min(losses, key=losses.get)
    assert {lowest / 2, 2 * lowest} <= losses.keys()
    assert search.best_rate(losses) == pytest.approx(2**best, rel=1e-3)


@given(breaks=st.floats(-3, 3), start=st.sampled_from([1e-3, 0.1, 1.0]))
def test_rates_that_diverge_are_worse_than_any(breaks, start):
    losses = searched(lambda r: 1 / r if r < start * 2**breaks else math.inf, start)
    best = search.best_rate(losses)
    assert math.isfinite(losses[best])
    assert losses[2 * best] == math.inf


def test_where_all_diverge_or_all_are_equal_it_ends():
    down = searched(lambda _: math.inf, 0.1)
    assert len(down) == 7
    assert search.best_rate(down) == min(down)
    flat = searched(lambda _: 2.3, 0.1)
    assert len(flat) == 7
    assert search.best_rate(flat) == min(flat)
    assert search.best_rate({0.1: 1.0, 0.2: 1.0, 0.4: 1.0}) == 0.1


def test_the_parabola_is_that_of_numpy():
    losses = {0.05: 1.2, 0.1: 0.9, 0.2: 1.0, 0.4: 1.9}
    a, b, _ = np.polyfit(np.log2([0.05, 0.1, 0.2]), [1.2, 0.9, 1.0], 2)
    assert search.best_rate(losses) == pytest.approx(2 ** (-b / (2 * a)))


def test_it_starts_at_a_tenth_of_the_tests_lowest_and_is_kept(tried, digits, settings):
    run, test, short = search.with_found_rate(RUN, digits, settings)
    assert tried == ["test", 0.02, 0.04, 0.08, 0.16]
    pd.testing.assert_frame_equal(test, TEST)
    assert list(short["learning_rate"]) == tried[1:]
    assert not run.find_rate
    as_trained = shortened(run.recipe, settings.profile, 300)
    assert 0.075 < as_trained.max_lr < 0.095
    assert as_trained.batch_size < run.recipe.batch_size
    found = {"max_lr": run.recipe.max_lr}
    assert run.recipe == dataclasses.replace(RUN.recipe, **found), "its own epochs and batches"
    file = settings.results("digits") / RUN.name / "rate_search.json"
    assert json.loads(file.read_text())["range_test"] == TEST.to_dict("list")
    assert [rate for rate, _ in json.loads(file.read_text())["short_runs"]] == tried[1:]


@pytest.mark.parametrize("done", [1, 3])
def test_it_goes_on_after_the_range_test_and_after_the_last_short_run(
    done, tried, digits, settings, monkeypatch, capsys
):
    loss = search._loss

    def interrupted(*given):
        if len(tried) == done:
            raise KeyboardInterrupt
        return loss(*given)

    with monkeypatch.context() as once:
        once.setattr(search, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.with_found_rate(RUN, digits, settings)
    assert "Run the same again" in capsys.readouterr().out
    first, *tables = search.with_found_rate(RUN, digits, settings)
    assert tried == ["test", 0.02, 0.04, 0.08, 0.16]
    again, *same = search.with_found_rate(RUN, digits, settings)
    assert tried == ["test", 0.02, 0.04, 0.08, 0.16]
    assert first.recipe == again.recipe
    for table, other in zip(tables, same, strict=True):
        pd.testing.assert_frame_equal(table, other)


def test_another_setting_is_searched_anew(tried, digits, settings):
    whole = ["test", 0.02, 0.04, 0.08, 0.16]
    search.with_found_rate(RUN, digits, settings)
    other = dataclasses.replace(RUN, recipe=dataclasses.replace(RUN.recipe, weight_decay=0.1))
    search.with_found_rate(other, digits, settings)
    assert tried == 2 * whole
    search.with_found_rate(other, digits, dataclasses.replace(settings, resume=False))
    assert tried == 3 * whole
    search.with_found_rate(dataclasses.replace(other, transform=crop_and_hole), digits, settings)
    assert tried == 4 * whole
    search.with_found_rate(RUN, digits, dataclasses.replace(settings, seed=1))
    assert tried == 5 * whole


def test_one_that_is_kept_is_reused_and_named_where_it_is_damaged(tried, digits, settings):
    folder = settings.home / "results" / RUN.name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    found = {"range_test": TEST.to_dict("list"), "short_runs": [[0.1, 2], [0.2, 1], [0.4, 2]]}
    file = folder / "rate_search.json"
    file.write_text(json.dumps(found))
    reusing = dataclasses.replace(settings, reuse=True)
    run, test, short = search.with_found_rate(RUN, digits, reusing)
    assert run.recipe.max_lr == pytest.approx(0.2)
    pd.testing.assert_frame_equal(test, TEST)
    assert short.to_numpy().tolist() == found["short_runs"]
    assert not tried
    search.with_found_rate(RUN, digits, settings)
    assert tried, "without REUSE=1 it searches"
    own = dataclasses.replace(RUN, name="S10/s10")
    ours = search.with_found_rate(own, digits, reusing)[0].recipe.max_lr
    assert ours == rate_kept("S10/s10"), "the project's, where the user has none"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=r"rate_search\.json"):
        search.with_found_rate(RUN, digits, reusing)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"rate_search\.json"):
        search.with_found_rate(RUN, digits, reusing)


@pytest.mark.slow
def test_short_runs_are_judged_on_images_held_out(digits, settings, monkeypatch):
    seen, fit = [], search.fit

    def watched(model, data, transform, recipe, **options):
        seen.append((data, recipe))
        return fit(model, data, transform, recipe, **options)

    monkeypatch.setattr(search, "fit", watched)
    monkeypatch.setattr(search, "range_test", lambda *_: TEST)
    longer = dataclasses.replace(settings, profile=Profile("longer", epochs=6))
    run, _, short = search.with_found_rate(RUN, digits, longer)
    held = digits.validation()
    for (data, recipe), rate in zip(seen, short["learning_rate"], strict=True):
        assert (data.test_images == held.test_images).all()
        assert len(data.train_images) == 300 // 5
        assert (data.train_images == held.train_images[:60]).all()
        assert recipe.epochs == 4
        assert recipe.peak_epoch / 4 == pytest.approx(RUN.recipe.peak_epoch / RUN.recipe.epochs)
        batch_size = shortened(run.recipe, longer.profile, 300).batch_size
        assert (recipe.max_lr, recipe.batch_size) == (rate, batch_size)
    assert np.isfinite(short["loss"]).all()


@pytest.mark.slow
def test_rates_that_diverge_are_left_behind(digits, settings, monkeypatch, capsys):
    """From a start at which weights overflow, down to rates at which they do not."""
    high = pd.DataFrame({"learning_rate": [4e20], "loss": [1.0]})
    monkeypatch.setattr(search, "range_test", lambda *_: high)
    monkeypatch.setattr(
        search, "next_rate", lambda losses, start: {0: start, 1: 0.1}.get(len(losses))
    )
    run, _, short = search.with_found_rate(RUN, digits, settings)
    assert shortened(run.recipe, settings.profile, 300).max_lr == pytest.approx(0.1)
    assert short["loss"][0] == math.inf
    assert capsys.readouterr().out.count("training diverged") == 1
    file = settings.results("digits") / RUN.name / search.FILE
    assert json.loads(file.read_text())["short_runs"][0] == [4e19, math.inf]


def test_where_all_rates_diverge_an_error_says_so(digits, settings, tried, monkeypatch):
    monkeypatch.setattr(search, "_loss", lambda *_: math.inf)
    with pytest.raises(FloatingPointError, match="S7/s7_dropout: all short runs diverged"):
        search.with_found_rate(RUN, digits, settings)


def test_the_search_finds_the_best_of_the_sweep_from_every_rate_of_it():
    """Kept short runs of all six networks: wherever it starts, it ends in the same valley."""
    sweep = pd.read_csv(ROOT / "results" / "S10" / "rates.csv")
    sweep = sweep[sweep["seed"] == 0]
    assert sweep["name"].str.extract(r"/(.*),")[0].nunique() == 8  # two also with SGD and Muon
    for name, rows in sweep.groupby(sweep["name"].str.rpartition(",")[0]):
        losses = dict(zip(rows["learning rate"], rows["validation loss"], strict=True))
        step = {rate: round(math.log2(rate / min(losses))) for rate in losses}
        valley = {2 ** step[rate]: loss for rate, loss in losses.items()}
        best = search.best_rate(valley)
        for start in valley:
            found = searched(lambda rate, valley=valley: valley.get(rate, math.inf), start)
            assert search.best_rate(found) == pytest.approx(best, rel=1e-9), name
