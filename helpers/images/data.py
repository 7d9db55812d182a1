"""Images in memory, and where they come from."""

import dataclasses
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from helpers.files import alone
from helpers.images.downloads import DataUnavailable, download_cifar10
from helpers.settings import Settings, cifar10_root


@dataclasses.dataclass(frozen=True)
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
        # OpenCV sums up in float64 without a float copy of all images.
        mean, std = cv2.meanStdDev(self.train_images.reshape(-1, 32, 3))
        return mean.ravel() / 255, std.ravel() / 255

    @cached_property
    def _constants(self) -> dict[torch.device, list[torch.Tensor]]:
        """Mean and deviation on each device that asked: no step copies them, or waits for that."""
        return {}

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images (N, 3, 32, 32) on any device to float32 of mean 0 and deviation 1."""
        if images.device not in self._constants:
            with torch.inference_mode(False):  # they serve in training too
                self._constants[images.device] = [
                    torch.from_numpy(255 * v).float().view(1, 3, 1, 1).to(images.device)
                    for v in self.statistics
                ]
        mean, std = self._constants[images.device]
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

    def first(self, train: int | None, test: int | None = None) -> "ImageData":
        """The first so many images (None: all), under the statistics of all training images.

        Where test images are left out, the title says so.
        """
        title, whole = self.title, len(self.test_labels)
        title += f", first {test:,} test images" if test is not None and test < whole else ""
        trained = self.train_images[:train], self.train_labels[:train]
        tested = self.test_images[:test], self.test_labels[:test]
        part = ImageData(self.key, title, self.classes, *trained, *tested)
        part.__dict__["statistics"] = self.statistics
        return part

    def validation(self) -> "ImageData":
        """A fixed split of the training images; the tenth held out takes the test set's place.

        Rates, transforms and epochs are chosen on it; the test images are for reporting only.
        """
        order = np.random.default_rng(10).permutation(len(self.train_images))
        held, rest = np.split(order, [len(order) // 10])
        title, arrays = f"{self.title} (validation split)", (self.train_images, self.train_labels)
        parts = [array[indices] for indices in (rest, held) for array in arrays]
        return ImageData(f"{self.key}-validation", title, self.classes, *parts)


def digits() -> ImageData:
    """scikit-learn's 8x8 digits, which ship with it, as 1,437 and 360 RGB images of 32x32."""
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

    with alone(root, seconds=-1):  # where several begin at once, one downloads
        try:
            parts = [CIFAR10(root, train) for train in (True, False)]  # checks MD5, then unpickles
        except RuntimeError:
            download_cifar10(root)
            parts = [CIFAR10(root, train) for train in (True, False)]
    # torchvision's arrays are transposed views: a copy in reading order makes every access faster.
    arrays = [a for p in parts for a in (np.ascontiguousarray(p.data), np.array(p.targets))]
    return ImageData("cifar10", "CIFAR-10", tuple(parts[0].classes), *arrays)


def load(settings: Settings, validation: bool = False) -> ImageData:
    """The data that the settings ask for, cut to the profile's numbers of images.

    `validation` takes the split of the training images instead. Raises DataUnavailable where
    CIFAR-10 was asked for by its name and cannot be had.
    """
    reason = ""
    try:
        data = digits() if settings.dataset == "digits" else cifar10(cifar10_root())
    except DataUnavailable as unavailable:
        if settings.dataset == "cifar10":
            raise
        data, reason = digits(), str(unavailable)
    if data.key == "digits":
        line = "!" * 100
        print(f"{line}\nTHIS IS NOT CIFAR-10 but scikit-learn's digits. {reason}\n{line}")
    data = data.validation() if validation else data
    profile = settings.profile
    return data if settings.reuse else data.first(profile.train_images, profile.test_images)
