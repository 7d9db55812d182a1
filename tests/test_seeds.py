"""Further seeds of a kept run: trained once each, and put beside its own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from helpers.images import data
from helpers.runs import conductor
from helpers.runs.catalogue import RUNS
from helpers.settings import SMOKE, Settings
from upkeep import seeds

NAME = "S7/s7_dropout"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where one seed of a run is kept."""
    settings = Settings(SMOKE, "digits", home=tmp_path_factory.mktemp("home"))
    conductor.train(RUNS[NAME], data.load(settings), settings)
    return settings.home


@pytest.fixture
def settings(home, tmp_path):
    shutil.copytree(home / "results", tmp_path / "results")
    return Settings(SMOKE, "digits", home=tmp_path)


def kept(settings):
    return json.loads((settings.results("digits") / NAME / "metrics.json").read_text())


def test_seeds_that_lack_are_trained_once_and_averaged(settings, tmp_path, monkeypatch):
    before, weights = kept(settings), settings.results("digits") / NAME / "model.safetensors"
    first = weights.read_bytes()
    line = seeds.add(NAME, 2, dataclasses.replace(settings, reuse=True))  # REUSE=1, left set
    after = kept(settings)
    assert weights.read_bytes() == first
    other = dataclasses.replace(settings, seed=1, home=tmp_path / "apart")
    second = conductor.train(RUNS[NAME], data.load(other), other).metrics
    figures = [before["test_accuracy"], second["test_accuracy"]]
    assert [of_seed["test_accuracy"] for of_seed in after["seeds"]] == figures
    assert [of_seed["seed"] for of_seed in after["seeds"]] == [0, 1]
    assert after["test_accuracy_mean"] == pytest.approx(np.mean(figures))
    assert after["test_accuracy_std"] == pytest.approx(np.std(figures, ddof=1))
    assert after["seeds"] == before["seeds"] + second["seeds"]
    assert [of_seed["trained_on"] for of_seed in after["seeds"]] == [second["trained_on"]] * 2
    changed = {key for key in after if after[key] != before[key]}
    assert changed <= {"seeds", "test_accuracy_mean", "test_accuracy_std"}
    assert f"{np.mean(figures):.2f} %" in line
    monkeypatch.setattr("helpers.runs.conductor.train", None)
    assert seeds.add(NAME, 2, settings)


def test_a_run_of_another_recipe_gets_no_seeds(settings, monkeypatch):
    recipe = dataclasses.replace(RUNS[NAME].recipe, max_lr=0.05)
    monkeypatch.setitem(RUNS, NAME, dataclasses.replace(RUNS[NAME], recipe=recipe))
    with pytest.raises(ValueError, match="another recipe"):
        seeds.add(NAME, 2, settings)


def test_a_run_that_is_trained_anew_meanwhile_is_not_mixed_with_the_old_one(settings, monkeypatch):
    file, whole = settings.results("digits") / NAME / "metrics.json", conductor.train

    def meanwhile(run, images, apart):
        trained = whole(run, images, apart)
        file.write_text(json.dumps(kept(settings) | changed))
        return trained

    monkeypatch.setattr(conductor, "train", meanwhile)
    changed = {"recipe": kept(settings)["recipe"] | {"max_lr": 0.5}}
    with pytest.raises(ValueError, match="another recipe"):
        seeds.add(NAME, 2, settings)
    assert [of_seed["seed"] for of_seed in kept(settings)["seeds"]] == [0]
    there = [*kept(settings)["seeds"], {"seed": 1, "test_accuracy": 0.0}]
    changed = {"recipe": changed["recipe"] | {"max_lr": kept(settings)["max_lr"]}, "seeds": there}
    file.write_text(json.dumps(kept(settings) | {"recipe": changed["recipe"]}))
    seeds.add(NAME, 2, settings)
    assert [of_seed["seed"] for of_seed in kept(settings)["seeds"]] == [0, 1], "once each"


def test_a_rate_that_was_found_is_taken_over(settings, monkeypatch):
    found = kept(settings)["max_lr"]
    recipe = dataclasses.replace(RUNS[NAME].recipe, max_lr=9.0)
    run = dataclasses.replace(RUNS[NAME], recipe=recipe, find_rate=True)
    monkeypatch.setitem(RUNS, NAME, run)
    seeds.add(NAME, 2, settings)
    apart = settings.home / "checkpoints" / "seeds" / "1" / "results" / "_smoke-digits" / NAME
    assert json.loads((apart / "metrics.json").read_text())["max_lr"] == found


def test_nothing_kept_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        seeds.add(NAME, 2, Settings(SMOKE, "digits", home=tmp_path))
