"""Further seeds of a saved run: trained once each, and added to its metrics."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from helpers import data, experiments
from helpers.config import SMOKE, Settings
from helpers.experiments import EXPERIMENTS

NAME = "S7/s7_dropout"


@pytest.fixture(scope="module")
def trained_dir(tmp_path_factory):
    """The output folder of a run with one seed."""
    settings = Settings(SMOKE, "sample", output_dir=tmp_path_factory.mktemp("output"))
    experiments.run_experiment(EXPERIMENTS[NAME], data.load_data(settings), settings)
    return settings.output_dir


@pytest.fixture
def settings(trained_dir, tmp_path):
    shutil.copytree(trained_dir / "results", tmp_path / "results")
    return Settings(SMOKE, "sample", output_dir=tmp_path)


def metrics_file(settings):
    return settings.results_dir("sample") / NAME / "metrics.json"


def read_metrics(settings):
    return json.loads(metrics_file(settings).read_text())


def test_missing_seeds_are_trained_once_and_averaged(settings, tmp_path, monkeypatch):
    before = read_metrics(settings)
    weights = settings.results_dir("sample") / NAME / "model.safetensors"
    first = weights.read_bytes()
    reusing = dataclasses.replace(settings, reuse=True)  # REUSE=1 is still set
    line = experiments.add_seeds(NAME, 2, reusing)
    after = read_metrics(settings)
    assert weights.read_bytes() == first
    other = dataclasses.replace(settings, seed=1, output_dir=tmp_path / "other")
    second = experiments.run_experiment(EXPERIMENTS[NAME], data.load_data(other), other).metrics
    accuracies = [before["test_accuracy"], second["test_accuracy"]]
    assert [entry["test_accuracy"] for entry in after["seeds"]] == accuracies
    assert [entry["seed"] for entry in after["seeds"]] == [0, 1]
    assert after["test_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert after["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert after["seeds"] == before["seeds"] + second["seeds"]
    assert [entry["trained_on"] for entry in after["seeds"]] == [second["trained_on"]] * 2
    changed = {key for key in after if after[key] != before[key]}
    assert changed <= {"seeds", "test_accuracy_mean", "test_accuracy_std"}
    values = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    assert line == f"{NAME}: {np.mean(accuracies):.2f} %, the mean of {values}"
    monkeypatch.setattr("helpers.experiments.run_experiment", None)
    assert experiments.add_seeds(NAME, 2, settings)
    assert experiments.add_seeds(NAME, 1, settings)
    assert read_metrics(settings) == after


def test_the_seeds_follow_that_of_the_saved_run(settings, monkeypatch):
    saved = read_metrics(settings)
    metrics_file(settings).write_text(
        json.dumps(saved | {"seed": 5, "seeds": [saved["seeds"][0] | {"seed": 5}]})
    )
    trained = []

    def run(experiment, images, settings):
        trained.append((settings.seed, settings.output_dir.name, settings.reuse))
        entry = {"seed": settings.seed, "test_accuracy": 50.0}
        return dataclasses.make_dataclass("Run", ["metrics"])({"seeds": [entry]})

    monkeypatch.setattr(experiments, "run_experiment", run)
    experiments.add_seeds(NAME, 3, settings)
    assert trained == [(6, "6", False), (7, "7", False)]
    assert [entry["seed"] for entry in read_metrics(settings)["seeds"]] == [5, 6, 7]


def test_a_run_of_another_config_gets_no_seeds(settings, monkeypatch):
    config = dataclasses.replace(EXPERIMENTS[NAME].config, max_lr=0.05)
    monkeypatch.setitem(EXPERIMENTS, NAME, dataclasses.replace(EXPERIMENTS[NAME], config=config))
    with pytest.raises(ValueError, match="another recipe"):
        experiments.add_seeds(NAME, 2, settings)


def test_a_run_that_is_trained_again_meanwhile_is_not_mixed_with_the_old_one(settings, monkeypatch):
    file, original = metrics_file(settings), experiments.run_experiment

    def run_while_metrics_change(experiment, images, seed_settings):
        result = original(experiment, images, seed_settings)
        file.write_text(json.dumps(read_metrics(settings) | changes))
        return result

    monkeypatch.setattr(experiments, "run_experiment", run_while_metrics_change)
    changes = {"recipe": read_metrics(settings)["recipe"] | {"max_lr": 0.5}}
    with pytest.raises(ValueError, match="another recipe"):
        experiments.add_seeds(NAME, 2, settings)
    assert [entry["seed"] for entry in read_metrics(settings)["seeds"]] == [0]
    recipe = changes["recipe"] | {"max_lr": read_metrics(settings)["max_lr"]}
    seeds = [*read_metrics(settings)["seeds"], {"seed": 1, "test_accuracy": 0.0}]
    changes = {"recipe": recipe, "seeds": seeds}
    file.write_text(json.dumps(read_metrics(settings) | {"recipe": recipe}))
    experiments.add_seeds(NAME, 2, settings)
    assert [entry["seed"] for entry in read_metrics(settings)["seeds"]] == [0, 1], "once each"


def test_a_learning_rate_that_was_found_is_used_again(settings, monkeypatch):
    saved_lr = read_metrics(settings)["max_lr"]
    config = dataclasses.replace(EXPERIMENTS[NAME].config, max_lr=9.0)
    experiment = dataclasses.replace(EXPERIMENTS[NAME], config=config, find_lr=True)
    monkeypatch.setitem(EXPERIMENTS, NAME, experiment)
    experiments.add_seeds(NAME, 2, settings)
    seed_settings = dataclasses.replace(
        settings, output_dir=settings.output_dir / "checkpoints" / "seeds" / "1"
    )
    assert read_metrics(seed_settings)["max_lr"] == saved_lr


def test_a_missing_run_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        experiments.add_seeds(NAME, 2, Settings(SMOKE, "sample", output_dir=tmp_path))


def test_an_unknown_run_is_named(settings):
    with pytest.raises(ValueError, match=r"^run=S7/s8 is unknown; it is one of S7/s7, "):
        experiments.add_seeds("S7/s8", 2, settings)
