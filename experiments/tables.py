"""Tables of short runs, filled row by row: what is there already is not measured again."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.files import write
from helpers.images.data import ImageData
from helpers.runs.catalogue import Run
from helpers.runs.conductor import initial
from helpers.training.loop import fit


def measured(run: Run, images: ImageData, seed: int) -> dict[str, object]:
    """Train a run: its recipe, accuracies in %, and cross-entropy; none where training diverges."""
    model, transform = initial(run, images, seed), run.transform(images.statistics[0])
    try:
        last = fit(model, images, transform, run.recipe, seed=seed).rows[-1]
    except FloatingPointError:
        last = dict.fromkeys(("train_accuracy", "test_accuracy", "test_loss"), np.nan)
    return {
        "recipe": json.dumps(dataclasses.asdict(run.recipe)),
        "training accuracy (%)": round(last["train_accuracy"], 2),
        "validation accuracy (%)": round(last["test_accuracy"], 2),
        "validation loss": round(last["test_loss"], 4),
    }


def fill(file: Path, seed: int, measure: dict[str, Callable[[], dict]]) -> None:
    """Measure every name that the CSV file does not have with this seed, and keep each at once."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["name", "seed"])
    for name, measured in measure.items():
        if ((table["name"] == name) & (table["seed"] == seed)).any():
            continue
        print(f"\n{name}, seed {seed}")
        row = pd.DataFrame([{"name": name, "seed": seed} | measured()])
        table = pd.concat([table, row]) if len(table) else row
        write(file, table.to_csv(index=False))
