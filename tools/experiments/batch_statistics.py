"""Evaluate checkpoints with their own and with recomputed batch normalization statistics.

    python -m tools.experiments.batch_statistics CHECKPOINT...

A test curve can be jagged because of the weights or because of the running statistics of batch
normalization. Copy checkpoints from `checkpoints/` while a run is in progress and pass the copies.
The network of each is evaluated in float32 with the statistics of 5,120 augmented training images.
Its row goes into results/NOTEBOOK/batch_statistics.csv, beside the accuracy with its own ones.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import typer
from torch import nn
from torch.optim.swa_utils import update_bn

from helpers.checkpoints import read_checkpoint
from helpers.config import ROOT, cifar10_root
from helpers.data import ImageData, load_cifar10
from helpers.device import match_memory_format, prepare_model
from helpers.evaluation import predict, test_accuracy
from helpers.experiments import EXPERIMENTS, Experiment, build_initialized_model
from helpers.loaders import SeededBatchSampler, make_train_loader
from tools.experiments.tables import append_missing_rows

TRAIN_IMAGES = 5_120


def recompute_batch_statistics(model: nn.Module, experiment: Experiment, data: ImageData) -> None:
    """Set running means and variances to those of augmented training images.

    Args:
        model: The network. Its batch normalization layers change in place.
        experiment: The transform and the batch size.
        data: The data.
    """
    subset = data.subset(TRAIN_IMAGES)
    transform = experiment.transform(subset.mean)
    sampler = SeededBatchSampler(len(subset.train_labels), experiment.config.batch_size, seed=0)
    loader = make_train_loader(subset, transform, sampler)

    def batches() -> Iterator[torch.Tensor]:
        for images, _ in loader:
            yield match_memory_format(subset.normalize(images), model)

    update_bn(batches(), model)


def evaluate_checkpoint(
    experiment: Experiment, data: ImageData, state: dict[str, object]
) -> dict[str, object]:
    """Evaluate a checkpoint with recomputed statistics and return a row of the table.

    Args:
        experiment: The experiment of the checkpoint.
        data: The data.
        state: The state in the checkpoint.
    """
    model = build_initialized_model(experiment, data, seed=0)  # with the config's dropout
    model = prepare_model(model, torch.device("cpu"))
    model.load_state_dict(state["model"])
    running = predict(model, data, data.test_images).cpu().numpy()
    recompute_batch_statistics(model, experiment, data)
    recomputed = predict(model, data, data.test_images).cpu().numpy()
    last_epoch = state["history"]["epochs"][-1]
    return {
        "epoch": last_epoch["epoch"],
        "learning rate": last_epoch["learning_rate"],
        "test accuracy (%), running statistics": round(test_accuracy(running, data), 2),
        "test accuracy (%), recomputed statistics": round(test_accuracy(recomputed, data), 2),
    }


def main(checkpoints: list[Path]) -> None:
    """Evaluate each checkpoint that the table does not have."""
    data = load_cifar10(cifar10_root())
    for file in checkpoints:
        content = read_checkpoint(file)
        fingerprint = content["fingerprint"]
        state = content["state"]
        experiment = EXPERIMENTS[fingerprint["run"]]
        epoch = len(state["history"]["epochs"])
        notebook = experiment.name.partition("/")[0]
        append_missing_rows(
            ROOT / "results" / notebook / "batch_statistics.csv",
            fingerprint["seed"],
            {
                f"{experiment.name}, epoch {epoch}": partial(
                    evaluate_checkpoint, experiment, data, state
                )
            },
        )


if __name__ == "__main__":
    typer.run(main)
