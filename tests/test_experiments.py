"""The tables of short runs belong to the configs that they name."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import albumentations as A
import pandas as pd
import pytest
import torch
from torch import nn

from helpers import experiments
from helpers.config import ROOT, SMOKE, Settings
from helpers.data import load_sample
from helpers.experiments import EXPERIMENTS
from helpers.optim import TrainConfig, scale_to_profile
from tools.experiments import learning_rates, s7_ablation, tables, try_config


def test_the_ablation_is_of_the_config_that_trains_s7():
    """If this fails, the config has changed: delete the table and measure again."""
    table = pd.read_csv(s7_ablation.TABLE)
    for _, rows in table.groupby("seed"):
        assert list(rows["name"]) == list(s7_ablation.VARIANTS)
    for row in table.to_dict("records"):
        config = s7_ablation.VARIANTS[row["name"]].config
        assert json.loads(row["recipe"]) == dataclasses.asdict(config)


@pytest.mark.parametrize("notebook", ["S7", "S9"])
def test_a_row_of_tried_configs_has_the_config_of_its_name(notebook):
    for row in pd.read_csv(ROOT / "results" / notebook / "tried.csv").to_dict("records"):
        config = TrainConfig(**json.loads(row["recipe"]))
        run, changes = row["name"].split(": ")
        assert run.endswith(f", {row['training images']:,} images, {config.epochs} epochs")
        for field, value in (change.split(" ") for change in changes.split(", ")):
            assert str(getattr(config, field)) == value


def test_the_best_learning_rate_of_each_sweep_is_never_the_first_or_last():
    """Otherwise the sweep does not show which learning rate is best."""
    table = pd.read_csv(learning_rates.TABLE)
    for row in table.to_dict("records"):
        name, optimizer, lr = row["name"].split(", ")
        assert f"{row['learning rate']:g}" == lr
        config = EXPERIMENTS[name].config
        config = scale_to_profile(config, learning_rates.PROFILE, learning_rates.TRAIN_IMAGES)
        config = dataclasses.replace(config, optimizer=optimizer, max_lr=row["learning rate"])
        assert json.loads(row["recipe"]) == dataclasses.asdict(config), row["name"]
    sweeps = table.groupby([table["name"].str.rpartition(", ")[0], "seed"])
    models = {name.split("/")[1].split(",")[0] for (name, _), _ in sweeps}
    assert len(models) == 6, "six networks"
    for (name, seed), rows in sweeps:
        assert len(rows) == len(learning_rates.FACTORS) or seed > 0, name
        losses = rows.sort_values("learning rate")["validation loss"].to_numpy()
        assert 0 < losses.argmin() < len(rows) - 1, (name, seed)


def test_a_changed_batch_size_scales_the_learning_rate_unless_that_changes_too():
    config = TrainConfig(epochs=10, batch_size=128, max_lr=0.2, peak_epoch=2.5)
    changed = try_config.change_config(config, {"batch_size": 256}, epochs=4)
    assert (changed.batch_size, changed.max_lr) == (256, 0.4)
    assert (changed.epochs, changed.peak_epoch) == (4, 1.0)
    changed = try_config.change_config(config, {"batch_size": 256, "max_lr": 0.1})
    assert (changed.batch_size, changed.max_lr) == (256, 0.1)
    assert (changed.epochs, changed.peak_epoch) == (10, 2.5)


def test_a_table_goes_into_the_folder_of_its_notebook():
    assert try_config.table_file("S9/compact") == ROOT / "results" / "S9" / "tried.csv"


def test_only_missing_rows_are_measured_and_each_is_written_at_once(tmp_path):
    file = tmp_path / "table.csv"
    tables.append_missing_rows(file, 0, {"a": lambda: {"x": 1.5}})

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.append_missing_rows(file, 0, {"a": fail, "b": lambda: {"x": 2.5}, "c": fail})
    assert pd.read_csv(file).to_dict("list") == {
        "name": ["a", "b"],
        "seed": [0, 0],
        "x": [1.5, 2.5],
    }
    tables.append_missing_rows(file, 1, {"a": lambda: {"x": 3.5}})
    assert pd.read_csv(file)["x"].tolist() == [1.5, 2.5, 3.5]


@pytest.fixture
def tiny():
    """An experiment and sample that train in a second."""
    experiment = EXPERIMENTS["S7/s7_dropout"]
    config = dataclasses.replace(experiment.config, epochs=1, peak_epoch=0.5, batch_size=16)
    return dataclasses.replace(experiment, config=config), load_sample().subset(32, 20)


@pytest.mark.slow
def test_a_row_has_the_config_and_what_the_last_epoch_reached(tiny):
    experiment, data = tiny
    row = tables.train_and_measure(experiment, data, seed=0)
    assert json.loads(row["recipe"]) == dataclasses.asdict(experiment.config)
    assert 0 <= row["training accuracy (%)"] <= 100 and 0 <= row["validation accuracy (%)"] <= 100
    assert row["validation loss"] > 0


def test_a_run_that_diverges_has_no_numbers(tiny, monkeypatch):
    def diverge(*_, **__):
        raise FloatingPointError

    monkeypatch.setattr(tables, "fit", diverge)
    row = tables.train_and_measure(*tiny, seed=0)
    assert math.isnan(row["validation loss"]) and math.isnan(row["validation accuracy (%)"])


@pytest.mark.slow
def test_a_learning_rate_is_that_of_the_run(tiny, monkeypatch):
    experiment, data = tiny
    row = learning_rates.train_at_lr(experiment, 0.025, data, seed=0)
    assert row["learning rate"] == json.loads(row["recipe"])["max_lr"] == 0.025


@pytest.mark.parametrize("module", [try_config, learning_rates])
def test_an_unknown_experiment_is_an_error_of_one_line(module):
    arguments = ("S7/s8", "{}") if module is try_config else ("S7/s8",)
    with pytest.raises(ValueError, match="experiment=S7/s8 is unknown; it is one of S7/s7,"):
        module.main(*arguments)


@pytest.mark.slow
def test_batch_statistics_are_recomputed_from_training_images(tiny):
    from tools.experiments import batch_statistics

    experiment, data = tiny
    model = experiments.build_initialized_model(experiment, data, seed=0)
    state = {
        "model": model.state_dict(),
        "history": {
            "epochs": [{"epoch": 1, "learning_rate": 0.1, "test_accuracy": 12.345}],
        },
    }
    row = batch_statistics.evaluate_checkpoint(experiment, data, state)
    for statistics in ("running", "recomputed"):
        assert 0 <= row[f"test accuracy (%), {statistics} statistics"] <= 100
    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    before = [norm.running_mean.clone() for norm in norms]
    batch_statistics.recompute_batch_statistics(model, experiment, data)
    assert any((norm.running_mean != mean).any() for norm, mean in zip(norms, before, strict=True))


@pytest.mark.slow
def test_a_shape_of_compact_is_trained_and_counted(tiny, monkeypatch):
    from tools.experiments import compact_shapes

    config = dataclasses.replace(compact_shapes.CONFIG, epochs=1, peak_epoch=0.5, batch_size=16)
    monkeypatch.setattr(compact_shapes, "CONFIG", config)
    shape = compact_shapes.SHAPES["wider at 16x16: compact"]
    row = compact_shapes.train_shape(shape, tiny[1], seed=0)
    saved = pd.read_csv(compact_shapes.TABLE).set_index("name")
    expected = saved.loc["wider at 16x16: compact"]
    for column in ("parameters", "million mult-adds", "widths", "depths"):
        assert row[column] == expected[column], column
    assert str(row["receptive field"]) == str(expected["receptive field"])


def with_path(mean):
    return A.Compose([A.HorizontalFlip(p=0.5), Described(Path("notes.txt"))])


class Described(A.NoOp):
    """A step with an argument that JSON cannot hold."""

    def __init__(self, notes):
        super().__init__(p=1)
        self.notes = notes

    def get_transform_init_args_names(self):
        return ("notes",)


def with_old_argument(mean):
    return A.Compose([A.CoarseDropout(max_holes=1, max_height=16, max_width=16, fill_value=0)])


def with_misspelt_argument(mean):
    return A.Compose([A.HorizontalFlip(probability=0.5)])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"transform": with_path}, ValueError, "cannot be saved as JSON"),
        ({"transform": with_old_argument}, ValueError, r"S7/odd: Argument\(s\) 'max_holes"),
        ({"transform": with_misspelt_argument}, ValueError, r"Argument\(s\) 'probability'"),
        ({"transform": A.Compose([])}, TypeError, "the transform is a Compose; give a function"),
        ({"transform": A.OneOf([A.NoOp()])}, TypeError, "the transform is a Compose"),
        ({"name": "S7/../../x"}, ValueError, "is not of the form NOTEBOOK/RUN"),
        ({"name": "S7/.hidden"}, ValueError, "is not of the form NOTEBOOK/RUN"),
        ({"name": "S7/"}, ValueError, "is not of the form NOTEBOOK/RUN"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(
    changes, error, message, monkeypatch, tmp_path
):
    monkeypatch.setattr(experiments, "fit", None)
    odd = dataclasses.replace(EXPERIMENTS["S7/s7"], **{"name": "S7/odd", **changes})
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    with pytest.raises(error, match=message):
        experiments.run_experiment(odd, load_sample().subset(20, 10), settings)
    assert not list(tmp_path.rglob("*.*"))


def test_no_seeds_are_refused(tmp_path):
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    with pytest.raises(ValueError, match="seeds=0 is not 1 or more"):
        experiments.run_experiment(EXPERIMENTS["S7/s7"], load_sample(), settings, seeds=0)


class RandomWidth(nn.Sequential):
    widths = itertools.count(8)

    def __init__(self):
        width = next(self.widths)
        super().__init__(
            nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
        )


def test_a_network_that_cannot_be_loaded_again_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "fit", None)
    monkeypatch.setitem(experiments.MODELS, "odd", RandomWidth)
    odd = dataclasses.replace(EXPERIMENTS["S7/s7"], name="S7/odd", model="odd")
    with pytest.raises(ValueError, match=r"RandomWidth.*differ"):
        experiments.run_experiment(
            odd, load_sample().subset(20, 10), Settings(SMOKE, "sample", output_dir=tmp_path)
        )


def test_a_tensor_as_a_learning_rate_is_saved_as_a_number():
    config = dataclasses.replace(EXPERIMENTS["S7/s7"].config, max_lr=torch.tensor(0.5))
    assert type(config.max_lr) is float
