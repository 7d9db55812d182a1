"""What does each part of `s7`'s recipe bring? Short runs with one thing changed in each.

    python experiments/s7.py [SEED]

Each trains on 15,000 of the 45,000 images of the validation split for 5 epochs and is tested on the
5,000 held out. The table goes to results/S7/ablation.csv.
"""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill
from helpers import data
from helpers.data import ImageData
from helpers.recipes import Recipe
from helpers.runs import RUNS, initial
from helpers.settings import FULL, ROOT, Settings
from helpers.training import fit

RUN = RUNS["S7/s7"]
CHANGES = {
    "as trained": {},
    "usual random weights": {"whitened": False, "identity": False},
    "identity weights, no whitening": {"whitened": False},
    "no label smoothing": {"label_smoothing": 0.0},
    "half the learning rate": {"max_lr": RUN.recipe.max_lr / 2},
    "twice the batch, and twice the learning rate": {
        "batch_size": 2 * RUN.recipe.batch_size, "max_lr": 2 * RUN.recipe.max_lr,
    },
    "no augmentation": {},
}  # fmt: skip
TABLE = ROOT / "results" / "S7" / "ablation.csv"


def changed(name: str) -> Recipe:
    """The run's recipe for five epochs, with the change of that name."""
    peak_epoch = RUN.recipe.peak_epoch / RUN.recipe.epochs * 5
    return dataclasses.replace(RUN.recipe, epochs=5, peak_epoch=peak_epoch, **CHANGES[name])


def measured(name: str, images: ImageData, seed: int) -> dict[str, object]:
    """Train with the change of that name: the recipe, and accuracies in %."""
    recipe = changed(name)
    transform = None if name == "no augmentation" else RUN.transform(images.statistics[0])
    model = initial(dataclasses.replace(RUN, recipe=recipe), images, seed)
    last = fit(model, images, transform, recipe, seed=seed).rows[-1]
    return {
        "recipe": json.dumps(dataclasses.asdict(recipe)),
        "training accuracy (%)": round(last["train_accuracy"], 2),
        "validation accuracy (%)": round(last["test_accuracy"], 2),
    }


def main(seed: int = 0) -> None:
    """Train with every change that the table does not have with this seed."""
    images = data.load(Settings(FULL, "cifar10"), validation=True).first(15_000)
    fill(TABLE, seed, {name: partial(measured, name, images, seed) for name in CHANGES})


if __name__ == "__main__":
    main(*(int(seed) for seed in sys.argv[1:]))
