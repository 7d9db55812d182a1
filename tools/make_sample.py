"""Make the sample of CIFAR-10 in `helpers/cifar10_sample/`: python -m tools.make_sample."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image

from helpers.config import cifar10_root
from helpers.data import SAMPLE_DIR, load_cifar10
from helpers.files import atomic_write, sha256

PER_CLASS = {"train": 500, "test": 100}
COLUMNS = 50  # images in a row of a sheet


def main(folder: Path = SAMPLE_DIR) -> None:
    """Write two sheets of images, their labels and indices, checksums and channel statistics.

    Args:
        folder: The folder of the files.
    """
    data = load_cifar10(cifar10_root())
    statistics = {"mean": data.mean.tolist(), "std": data.std.tolist()}
    atomic_write(folder / "statistics.json", json.dumps(statistics, indent=1) + "\n")
    checksums = {}
    for split, number in PER_CLASS.items():
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        indices = first_of_each_class(labels, number)
        checksums[split] = sha256(images[indices].tobytes())
        table = pd.DataFrame({"index": indices, "label": labels[indices]})
        atomic_write(folder / f"{split}.csv", table.to_csv(index=False))
        buffer = io.BytesIO()
        sheet = PIL.Image.fromarray(make_sheet(images[indices]))
        sheet.save(buffer, "WEBP", lossless=True, quality=100, method=6)
        atomic_write(folder / f"{split}.webp", buffer.getvalue())
    atomic_write(folder / "sha256.json", json.dumps(checksums, indent=1) + "\n")


def first_of_each_class(labels: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of the first images of each class, in the order of the data set.

    Args:
        labels: int64 (N,).
        number: The number of images of each class.
    """
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:number] for c in range(10)]))


def make_sheet(images: np.ndarray) -> np.ndarray:
    """Tile images row by row into one image.

    Args:
        images: uint8 (N, 32, 32, 3), where N is a multiple of COLUMNS.

    Returns:
        uint8 (32 N / COLUMNS, 32 COLUMNS, 3).
    """
    grid = images.reshape(-1, COLUMNS, 32, 32, 3)
    return grid.swapaxes(1, 2).reshape(-1, 32 * COLUMNS, 3)


if __name__ == "__main__":
    main()
