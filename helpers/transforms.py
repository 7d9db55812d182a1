"""The augmentations of the series, on uint8 images (32, 32, 3); only here is Albumentations used.

Normalising is not among them: the device does that, a batch at a time.
"""

import functools
import os
import warnings
from collections.abc import Callable

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network

import albumentations as A
import cv2

Build = Callable[[np.ndarray], A.Compose]


def strict(build: Build) -> Build:
    """Make an error of the warning about an unknown argument, which the library then drops."""

    @functools.wraps(build)
    def wrapper(mean: np.ndarray) -> A.Compose:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Argument")
            return build(mean)

    return wrapper


@strict
def flip_and_shift(mean: np.ndarray) -> A.Compose:
    """S7: mirror half of the images, shift all by up to 2 pixels (the border mirrored)."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Pad(padding=2, border_mode=cv2.BORDER_REFLECT_101),
            A.RandomCrop(32, 32),
        ]
    )
