"""Which learning rate suits a run best? Short runs at five of them, on the validation split.

    python experiments/rates.py S7/s7 [--optimizer Muon] [--seed 1 --around 0.2]

Each trains on 10,000 of the 45,000 images of the split for 4 epochs and is tested on the 5,000 held
out. The rates are multiples of the recipe's, or half, once and twice the one that is given; the
optimizer is the recipe's unless another is named. The rows go to results/S10/rates.csv; what is
there already is not measured again.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill, measured
from helpers.images import data
from helpers.images.data import ImageData
from helpers.runs.catalogue import RUNS, Run
from helpers.settings import FULL, ROOT, Settings
from helpers.training.recipes import shortened

IMAGES = 10_000
PROFILE = dataclasses.replace(FULL, epochs=4)
FACTORS = 1 / 4, 1 / 2, 1, 2, 4
TABLE = ROOT / "results" / "S10" / "rates.csv"


def at(run: Run, rate: float, seed: int, images: ImageData) -> dict[str, object]:
    """Train a run at a rate: what it reaches."""
    run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, max_lr=rate))
    return {"learning rate": rate} | measured(run, images, seed)


def main(
    name: str, optimizer: str | None = None, seed: int = 0, around: float | None = None
) -> None:
    """Train the run at every rate that the table does not have."""
    images = data.load(Settings(FULL, "cifar10"), validation=True).first(IMAGES)
    recipe = shortened(RUNS[name].recipe, PROFILE, IMAGES)
    recipe = dataclasses.replace(recipe, optimizer=optimizer or recipe.optimizer)
    run = dataclasses.replace(RUNS[name], recipe=recipe)
    rates = [around / 2, around, 2 * around] if around else [recipe.max_lr * f for f in FACTORS]
    names = {f"{name}, {recipe.optimizer}, {rate:g}": rate for rate in rates}
    measure = {title: partial(at, run, rate, seed, images) for title, rate in names.items()}
    fill(TABLE, seed, measure)


if __name__ == "__main__":
    typer.run(main)
