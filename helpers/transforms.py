"""The augmentations of the series, on uint8 images (32, 32, 3); only here is Albumentations used.

Each is a function of the channel means (3,) of the training images, in [0, 1]. Normalising is not
among them: the device does that, a batch at a time.
"""

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network

import albumentations as A
import cv2


def flip_and_shift(mean: np.ndarray) -> A.Compose:
    """S7: mirror half of the images, shift all by up to 2 pixels (the border mirrored)."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Pad(padding=2, border_mode=cv2.BORDER_REFLECT_101),
            A.RandomCrop(32, 32),
        ]
    )
