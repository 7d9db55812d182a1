"""Ablation of the training config of `s7`: short runs with one change each.

    python -m tools.experiments.s7_ablation [--seed SEED]

Each run trains on 15,000 of the 45,000 training images of the validation split for 5 epochs and is
tested on the 5,000 validation images. The table is results/S7/ablation.csv.
"""

import dataclasses
from functools import partial

import typer

from helpers.config import FULL, ROOT, Settings
from helpers.data import load_data
from helpers.experiments import EXPERIMENTS
from helpers.optim import scale_to_profile
from tools.experiments.tables import append_missing_rows, train_and_measure

TRAIN_IMAGES = 15_000
PROFILE = dataclasses.replace(FULL, epochs=5)
EXPERIMENT = EXPERIMENTS["S7/s7"]
CONFIG = scale_to_profile(EXPERIMENT.config, PROFILE, TRAIN_IMAGES)
CONFIGS = {
    "as trained": CONFIG,
    "usual random weights": dataclasses.replace(CONFIG, whitening_init=False, dirac_init=False),
    "identity weights, no whitening": dataclasses.replace(CONFIG, whitening_init=False),
    "no label smoothing": dataclasses.replace(CONFIG, label_smoothing=0.0),
    "half the learning rate": dataclasses.replace(CONFIG, max_lr=CONFIG.max_lr / 2),
    "twice the batch, and twice the learning rate": CONFIG.scale_batch_size(2 * CONFIG.batch_size),
}
VARIANTS = {
    name: dataclasses.replace(EXPERIMENT, config=config) for name, config in CONFIGS.items()
}
VARIANTS["no augmentation"] = dataclasses.replace(
    VARIANTS["as trained"], transform=lambda mean: None
)
TABLE = ROOT / "results" / "S7" / "ablation.csv"


def main(seed: int = 0) -> None:
    """Train each variant that the table does not have with this seed."""
    data = load_data(Settings(FULL, "cifar10"), validation=True).subset(TRAIN_IMAGES)
    measurements = {
        name: partial(train_and_measure, variant, data, seed) for name, variant in VARIANTS.items()
    }
    append_missing_rows(TABLE, seed, measurements)


if __name__ == "__main__":
    typer.run(main)
