"""CSV tables of short runs. Rows that exist already are not measured again."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from helpers.data import ImageData
from helpers.experiments import Experiment, build_initialized_model
from helpers.files import atomic_write
from helpers.training import fit


def train_and_measure(experiment: Experiment, data: ImageData, seed: int) -> dict[str, object]:
    """Train an experiment and return a row of a table.

    Args:
        experiment: What to train.
        data: The data. The test images are the validation images.
        seed: The seed.

    Returns:
        The config as JSON, accuracies in %, and the cross-entropy on the validation images. The
        numbers are NaN if training diverges.
    """
    model = build_initialized_model(experiment, data, seed)
    transform = experiment.transform(data.mean)
    try:
        history = fit(model, data, transform, experiment.config, seed=seed)
        last_epoch = history.epochs[-1]
    except FloatingPointError:
        last_epoch = dict.fromkeys(("train_accuracy", "test_accuracy", "test_loss"), math.nan)
    return {
        "recipe": json.dumps(dataclasses.asdict(experiment.config)),
        "training accuracy (%)": round(last_epoch["train_accuracy"], 2),
        "validation accuracy (%)": round(last_epoch["test_accuracy"], 2),
        "validation loss": round(last_epoch["test_loss"], 4),
    }


def append_missing_rows(
    file: Path, seed: int, measurements: Mapping[str, Callable[[], dict[str, object]]]
) -> None:
    """Measure the rows that a CSV file does not have. Write the file after each row.

    Args:
        file: The CSV file, with the columns "name" and "seed".
        seed: The seed of the rows.
        measurements: For each name, a function that returns the other columns.
    """
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["name", "seed"])
    for name, measure in measurements.items():
        if ((table["name"] == name) & (table["seed"] == seed)).any():
            continue
        print(f"\n{name}, seed {seed}")
        row = pd.DataFrame([{"name": name, "seed": seed, **measure()}])
        table = pd.concat([table, row]) if len(table) else row
        atomic_write(file, table.to_csv(index=False))
