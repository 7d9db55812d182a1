"""What does a change to a run's recipe bring? Judged on the validation split, and written down.

    python experiments/tried.py S7/s7 '{"optimizer": "Muon"}' --images 10000 --epochs 5 --seed 1

trains on so many of its 45,000 images and tests on the 5,000 held out. The row goes to
results/<notebook>/tried.csv; what is there already is not measured again.
"""

import dataclasses
import json
import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill, measured
from helpers.images import data
from helpers.runs.catalogue import RUNS
from helpers.settings import FULL, ROOT, Settings


def main(
    name: str,
    change: str,
    images: int = 0,
    epochs: int = 0,
    seed: int = 0,
) -> None:
    """Train the run with the change, a JSON object, for so many epochs (by default, its own).

    With a `batch_size` the learning rate changes in its proportion, unless that is given too.
    """
    run, changes = RUNS[name], json.loads(change)
    recipe, whole = run.recipe, data.load(Settings(FULL, "cifar10"), validation=True)
    recipe = recipe.with_batch_size(changes.get("batch_size", recipe.batch_size))
    epochs = epochs or recipe.epochs
    peak = recipe.peak_epoch / recipe.epochs * epochs
    recipe = dataclasses.replace(recipe, **{"epochs": epochs, "peak_epoch": peak} | changes)
    run = dataclasses.replace(run, recipe=recipe)
    part = whole.first(images or len(whole.train_labels))
    told = ", ".join(f"{key} {value}" for key, value in changes.items())
    title = f"{run.net}, {len(part.train_labels):,} images, {epochs} epochs: {told}"
    table = ROOT / "results" / run.name.split("/")[0] / "tried.csv"
    row = {"training images": len(part.train_labels)}
    fill(table, seed, {title: lambda: row | measured(run, part, seed)})


if __name__ == "__main__":
    typer.run(main)
