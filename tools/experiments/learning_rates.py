"""Sweep of fixed learning rates for an experiment: short runs on the validation split.

    python -m tools.experiments.learning_rates S7/s7 [--optimizer Muon] [--seed 1 --around 0.2]

Each run trains on 10,000 of the 45,000 training images of the split for 4 epochs and is tested on
the 5,000 validation images. The table is results/S10/rates.csv.
"""

import dataclasses
from functools import partial

import typer

from helpers.config import FULL, ROOT, Settings, validate_choice
from helpers.data import ImageData, load_data
from helpers.experiments import EXPERIMENTS, Experiment
from helpers.optim import scale_to_profile
from tools.experiments.tables import append_missing_rows, train_and_measure

TRAIN_IMAGES = 10_000
PROFILE = dataclasses.replace(FULL, epochs=4)
FACTORS = (1 / 4, 1 / 2, 1, 2, 4)  # of the experiment's learning rate
FACTORS_AROUND = (1 / 2, 1, 2)  # of the rate given with --around
TABLE = ROOT / "results" / "S10" / "rates.csv"


def train_at_lr(experiment: Experiment, lr: float, data: ImageData, seed: int) -> dict[str, object]:
    """Train an experiment at a learning rate and return a row of the table.

    Args:
        experiment: What to train.
        lr: The `max_lr` of the run.
        data: The data.
        seed: The seed.
    """
    config = dataclasses.replace(experiment.config, max_lr=lr)
    experiment = dataclasses.replace(experiment, config=config)
    return {"learning rate": lr, **train_and_measure(experiment, data, seed)}


def main(
    name: str, optimizer: str | None = None, seed: int = 0, around: float | None = None
) -> None:
    """Train the experiment at each learning rate that the table does not have.

    The learning rates are multiples of the experiment's or, with --around, half, once and twice the
    given one. Without --optimizer, the optimizer is the experiment's.
    """
    experiment = EXPERIMENTS[validate_choice("experiment", name, EXPERIMENTS)]
    data = load_data(Settings(FULL, "cifar10"), validation=True).subset(TRAIN_IMAGES)
    config = scale_to_profile(experiment.config, PROFILE, TRAIN_IMAGES)
    if optimizer:
        config = dataclasses.replace(config, optimizer=optimizer)
    experiment = dataclasses.replace(experiment, config=config)
    if around:
        lrs = [factor * around for factor in FACTORS_AROUND]
    else:
        lrs = [factor * config.max_lr for factor in FACTORS]
    measurements = {
        f"{name}, {config.optimizer}, {lr:g}": partial(train_at_lr, experiment, lr, data, seed)
        for lr in lrs
    }
    append_missing_rows(TABLE, seed, measurements)


if __name__ == "__main__":
    typer.run(main)
