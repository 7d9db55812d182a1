"""Short runs of several shapes of `compact`, compared on the validation split.

    python -m tools.experiments.compact_shapes [--seed SEED]

Each run trains on 10,000 of the 45,000 training images of the split for 8 epochs and is tested on
the 5,000 validation images. The table is results/S9/shapes.csv.
"""

import dataclasses
from functools import partial

import typer

from helpers import inspection
from helpers.config import FULL, ROOT, Settings
from helpers.data import ImageData, load_data
from helpers.experiments import EXPERIMENTS
from helpers.init import initialize_
from helpers.models.compact import Compact
from helpers.training import fit, set_seed
from tools.experiments.tables import append_missing_rows

TRAIN_IMAGES = 10_000
EXPERIMENT = EXPERIMENTS["S9/compact"]
CONFIG = dataclasses.replace(EXPERIMENT.config, epochs=8, peak_epoch=2)
SHAPES = {  # arguments of Compact; all have fewer than 100,000 parameters
    "few layers at 32x32": {"widths": (40, 56, 80, 96), "depths": (2, 4, 4, 2), "dilation": 3},
    "more layers at 32x32": {"widths": (40, 56, 80, 88), "depths": (5, 5, 4, 2), "dilation": 3},
    "wider at 16x16: compact": {"widths": (32, 64, 64, 96), "depths": (4, 5, 4, 3), "dilation": 3},
    "the same, dilation 2": {"widths": (32, 64, 64, 96), "depths": (4, 5, 4, 3), "dilation": 2},
}
TABLE = ROOT / "results" / "S9" / "shapes.csv"


def train_shape(shape: dict[str, object], data: ImageData, seed: int) -> dict[str, object]:
    """Train one shape and return a row of the table.

    Args:
        shape: The arguments of `Compact`.
        data: The data. The test images are the validation images.
        seed: The seed.
    """
    set_seed(seed)
    model = Compact(**shape)
    initialize_(model, CONFIG, data)
    history = fit(model, data, EXPERIMENT.transform(data.mean), CONFIG, seed=seed)
    before_pooling, _ = inspection.receptive_field(model)
    return {
        **{argument: str(value) for argument, value in shape.items()},
        "parameters": inspection.count_parameters(model),
        "million mult-adds": round(inspection.count_mult_adds(model) / 1e6, 1),
        "receptive field": inspection.format_size(before_pooling),
        "validation accuracy (%)": round(history.epochs[-1]["test_accuracy"], 2),
    }


def main(seed: int = 0) -> None:
    """Train each shape that the table does not have with this seed."""
    data = load_data(Settings(FULL, "cifar10"), validation=True).subset(TRAIN_IMAGES)
    measurements = {name: partial(train_shape, shape, data, seed) for name, shape in SHAPES.items()}
    append_missing_rows(TABLE, seed, measurements)


if __name__ == "__main__":
    typer.run(main)
