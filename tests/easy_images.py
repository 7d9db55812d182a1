"""Images that a network learns in seconds: a bright square at a place of its own for each class."""

import dataclasses

import numpy as np

from helpers.data import ImageData, load_sample


def easy_images(train: int, test: int = 360) -> ImageData:
    """Return the sample of CIFAR-10 with a square in each image that gives its class away.

    Args:
        train: The number of training images.
        test: The number of test images.
    """
    data = load_sample().subset(train, test)
    return dataclasses.replace(
        data,
        train_images=_mark(data.train_images, data.train_labels),
        test_images=_mark(data.test_images, data.test_labels),
    )


def _mark(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return darkened images (N, 32, 32, 3) with a white square at the place of their label."""
    marked = images // 4
    for image, label in zip(marked, labels, strict=True):
        top, left = 16 * (label // 5), 6 * (label % 5)
        image[top : top + 12, left : left + 6] = 255
    return marked
