"""What is wrong in a jagged test curve: the weights, or what batch normalisation remembers?

    python experiments/batch_statistics.py CHECKPOINT...

tests the network of each checkpoint, files copied from `checkpoints/` while a run went on, with the
means and variances of batch normalisation measured again on training images. The rows go to
results/<notebook>/batch_statistics.csv, beside what the run's own test said, which should be in
float32, too; what is there already is not measured again.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables import fill
from helpers.devices import laid_out, placed
from helpers.evaluation import predict, test_accuracy
from helpers.images import data
from helpers.images.batches import BatchSampler, train_loader
from helpers.runs.catalogue import RUNS, Run
from helpers.runs.conductor import initial
from helpers.settings import ROOT, cifar10_root
from helpers.training import checkpoints

IMAGES = 5_120


def measured_again(model: nn.Module, run: Run, images: data.ImageData) -> None:
    """Let batch normalisation take its statistics from 5,120 augmented training images."""

    def batches() -> Iterator[torch.Tensor]:
        part = images.first(IMAGES)
        transform = run.transform(images.statistics[0])
        sampler = BatchSampler(len(part.train_labels), run.recipe.batch_size, seed=0)
        for batch, _ in train_loader(part, transform, sampler):
            yield laid_out(images.normalise(batch), model)

    update_bn(batches(), model)


def tested(run: Run, images: data.ImageData, state: dict) -> dict[str, float]:
    """The accuracies of a checkpoint's network in %, before and after measuring again."""
    model = placed(initial(run, images, 0), torch.device("cpu"))  # with the recipe's dropout
    model.load_state_dict(state["model"])
    measured_again(model, run, images)
    logits = predict(model, images, images.test_images).numpy()
    last = state["history"]["rows"][-1]
    return {
        "epoch": last["epoch"],
        "learning rate": last["learning_rate"],
        "test accuracy (%), as remembered": round(last["test_accuracy"], 2),
        "test accuracy (%), measured again": round(test_accuracy(logits, images), 2),
    }


def main(*files: str) -> None:
    """Test the network of every file that the table does not have."""
    images = data.cifar10(cifar10_root())
    for file in files:
        content = checkpoints.read(Path(file))
        fingerprint, epoch = content["fingerprint"], len(content["state"]["history"]["rows"])
        run = RUNS[fingerprint["run"]]
        table = ROOT / "results" / run.name.split("/")[0] / "batch_statistics.csv"
        measure = {f"{run.name}, epoch {epoch}": partial(tested, run, images, content["state"])}
        fill(table, fingerprint["seed"], measure)


if __name__ == "__main__":
    main(*sys.argv[1:])
