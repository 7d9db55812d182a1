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
    pad = A.Pad(padding=2, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([A.HorizontalFlip(p=0.5), pad, A.RandomCrop(32, 32)])


def hole(mean: np.ndarray) -> A.CoarseDropout:
    """A hole of 16x16 pixels, inside the image, in the colour of the mean, in every other image."""
    return A.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16),
        fill=tuple(np.rint(255 * mean).astype(int).tolist()), p=0.5,
    )  # fmt: skip


def flip_shift_scale_rotate_and_hole(mean: np.ndarray) -> A.Compose:
    """S9: mirror half of the images; shift, scale and rotate half; cut a hole into half.

    By up to 2 pixels, 10 % and 10 degrees, the border mirrored.
    """
    affine = A.Affine(
        translate_px=(-2, 2),  # a percentage would be rounded towards nothing
        scale=(0.9, 1.1), keep_ratio=True, rotate=(-10, 10),
        border_mode=cv2.BORDER_REFLECT_101, p=0.5,
    )  # fmt: skip
    return A.Compose([A.HorizontalFlip(p=0.5), affine, hole(mean)])


def flip_shift_scale_rotate_and_rare_hole(mean: np.ndarray) -> A.Compose:
    """S9: the same with a hole in one image of four."""
    steps = flip_shift_scale_rotate_and_hole(mean)
    steps[-1].p = 0.25
    return steps


def flip_shift_and_hole(mean: np.ndarray) -> A.Compose:
    """S10: mirror half of the images, shift all by up to 4 pixels, cut a hole into half."""
    shift = A.Affine(translate_px=(-4, 4), border_mode=cv2.BORDER_REFLECT_101, p=1)
    return A.Compose([A.HorizontalFlip(p=0.5), shift, hole(mean)])


def crop_and_hole(mean: np.ndarray) -> A.Compose:
    """ResNet18: RandomCrop(32, padding=4), the border mirrored; CutOut, in half of the images."""
    pad = A.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([pad, A.RandomCrop(32, 32), hole(mean)])
