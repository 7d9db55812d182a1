"""Try a change of an experiment's training config on the validation split.

    python -m tools.experiments.try_config S7/s7 '{"optimizer": "Muon"}' --images 10000 --epochs 5

The run trains on the training images of the split and is tested on the 5,000 validation images. The
row goes into results/NOTEBOOK/tried.csv.
"""

import dataclasses
import json
from pathlib import Path

import typer

from helpers.config import FULL, ROOT, Settings, validate_choice
from helpers.data import load_data
from helpers.experiments import EXPERIMENTS
from helpers.optim import TrainConfig
from tools.experiments.tables import append_missing_rows, train_and_measure


def change_config(config: TrainConfig, changes: dict[str, object], epochs: int = 0) -> TrainConfig:
    """Return a config with changes.

    A change of `batch_size` scales the learning rate, and `epochs` moves the peak, unless the
    changes set these.

    Args:
        config: The config to change.
        changes: Fields of the config with new values.
        epochs: The number of epochs. 0 keeps the config's.
    """
    config = config.scale_batch_size(changes.get("batch_size", config.batch_size))
    epochs = epochs or config.epochs
    peak_epoch = config.peak_epoch / config.epochs * epochs
    return dataclasses.replace(config, **{"epochs": epochs, "peak_epoch": peak_epoch, **changes})


def table_file(name: str) -> Path:
    """Return the table of an experiment's notebook.

    Args:
        name: A key of EXPERIMENTS.
    """
    notebook = name.partition("/")[0]
    return ROOT / "results" / notebook / "tried.csv"


def main(name: str, changes: str, images: int = 0, epochs: int = 0, seed: int = 0) -> None:
    """Train an experiment with changes of its config, a JSON object.

    --images is the number of training images (default: all 45,000), --epochs the number of epochs
    (default: the experiment's).
    """
    experiment = EXPERIMENTS[validate_choice("experiment", name, EXPERIMENTS)]
    changed_fields = json.loads(changes)
    config = change_config(experiment.config, changed_fields, epochs)
    experiment = dataclasses.replace(experiment, config=config)
    data = load_data(Settings(FULL, "cifar10"), validation=True).subset(images or None)
    train_images = len(data.train_labels)
    changes_text = ", ".join(f"{field} {value}" for field, value in changed_fields.items())
    title = f"{experiment.model}, {train_images:,} images, {config.epochs} epochs: {changes_text}"

    def measure() -> dict[str, object]:
        return {"training images": train_images, **train_and_measure(experiment, data, seed)}

    append_missing_rows(table_file(name), seed, {title: measure})


if __name__ == "__main__":
    typer.run(main)
