"""Which shape suits `compact`? Short runs of several, judged on the validation split.

    python experiments/compact.py [SEED]

Each trains on 10,000 of the 45,000 images of the split for 8 epochs and is tested on the 5,000 held
out. The table goes to results/S9/shapes.csv; what is there already is not measured again.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill
from helpers.anatomy import receptive_field, summary
from helpers.images import data
from helpers.images.data import ImageData
from helpers.models.compact import Compact
from helpers.runs.catalogue import RUNS
from helpers.settings import FULL, ROOT, Settings
from helpers.training.initialisation import start_
from helpers.training.loop import fit, set_seed
from tracing.layers import layers

SHAPES = {  # all have fewer than 100,000 parameters
    "first draft": {"widths": (48, 80, 128), "depths": (2, 3, 2), "dilation": 3},
    "the same, dilation 2": {"widths": (48, 80, 128), "depths": (2, 3, 2), "dilation": 2},
    "more at 16x16": {"widths": (48, 80, 96), "depths": (3, 5, 2), "dilation": 3},
    "narrower and deeper: compact": {"widths": (40, 80, 104), "depths": (3, 4, 3), "dilation": 3},
}
TABLE = ROOT / "results" / "S9" / "shapes.csv"


def measured(shape: dict, images: ImageData, seed: int) -> dict[str, object]:
    """Train one shape: what it is, and its validation accuracy in %."""
    run = RUNS["S9/compact"]
    recipe = dataclasses.replace(run.recipe, epochs=8, peak_epoch=2)
    set_seed(seed)
    model = Compact(**shape)
    start_(model, recipe, images)
    history = fit(model, images, run.transform(images.statistics[0]), recipe, seed=seed)
    before, _ = receptive_field.receptive_field(layers(model))
    return {
        **{key: str(value) for key, value in shape.items()},
        "parameters": summary.parameter_count(model),
        "million mult-adds": round(summary.mult_adds(model) / 1e6, 1),
        "receptive field": receptive_field.shown(before),
        "validation accuracy (%)": round(history.rows[-1]["test_accuracy"], 2),
    }


def main(seed: int = 0) -> None:
    """Train every shape that the table does not have with this seed."""
    images = data.load(Settings(FULL, "cifar10"), validation=True).first(10_000)
    fill(
        TABLE,
        seed,
        {name: partial(measured, shape, images, seed) for name, shape in SHAPES.items()},
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
