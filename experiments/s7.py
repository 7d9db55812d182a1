"""What does each part of `s7`'s recipe bring? Short runs with one thing changed in each.

    python experiments/s7.py [SEED]

Each trains on 15,000 of the 45,000 images of the validation split for 5 epochs and is tested on the
5,000 held out. The table goes to results/S7/ablation.csv.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill, measured
from helpers.images import data
from helpers.runs.catalogue import RUNS
from helpers.settings import FULL, ROOT, Settings
from helpers.training.recipes import shortened

IMAGES = 15_000
PROFILE = dataclasses.replace(FULL, epochs=5)
AS_TRAINED = RUNS["S7/s7"]
RECIPE = shortened(AS_TRAINED.recipe, PROFILE, IMAGES)
RECIPES = {
    "as trained": RECIPE,
    "usual random weights": dataclasses.replace(RECIPE, whitened=False, identity=False),
    "identity weights, no whitening": dataclasses.replace(RECIPE, whitened=False),
    "no label smoothing": dataclasses.replace(RECIPE, label_smoothing=0.0),
    "half the learning rate": dataclasses.replace(RECIPE, max_lr=RECIPE.max_lr / 2),
    "twice the batch, and twice the learning rate": RECIPE.with_batch_size(2 * RECIPE.batch_size),
}
VARIANTS = {name: dataclasses.replace(AS_TRAINED, recipe=r) for name, r in RECIPES.items()}
VARIANTS["no augmentation"] = dataclasses.replace(VARIANTS["as trained"], transform=lambda _: None)
TABLE = ROOT / "results" / "S7" / "ablation.csv"


def main(seed: int = 0) -> None:
    """Train every variant that the table does not have with this seed."""
    images = data.load(Settings(FULL, "cifar10"), validation=True).first(IMAGES)
    measure = {name: partial(measured, run, images, seed) for name, run in VARIANTS.items()}
    fill(TABLE, seed, measure)


if __name__ == "__main__":
    main(*(int(seed) for seed in sys.argv[1:]))
