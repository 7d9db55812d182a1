"""What the augmentations really do, measured on pixels."""

import warnings

import albumentations as A
import numpy as np
import pytest

from helpers import notebook, transforms

MEAN = np.array([0.4914, 0.4822, 0.4465])


def position_image() -> np.ndarray:
    """An image whose pixels say where they come from: (row, column, 200)."""
    rows, columns = np.mgrid[0:32, 0:32]
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


def test_flip_and_shift_mirrors_half_and_shifts_by_up_to_two():
    transform = transforms.flip_and_shift(MEAN)
    transform.set_random_seed(0)
    seen = []
    for _ in range(600):
        image = transform(image=position_image())["image"]
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.uint8
        middle = image[12:20, 12:20].astype(int)
        mirrored = middle[0, 1, 1] < middle[0, 0, 1]
        down = middle[0, 0, 0] - 12
        right = middle[0, 0, 1] - (31 - 12 if mirrored else 12)
        seen.append((mirrored, down, right))
    assert 250 < sum(mirrored for mirrored, _, _ in seen) < 350
    assert {down for _, down, _ in seen} == {right for _, _, right in seen} == {-2, -1, 0, 1, 2}


def test_in_a_notebook_an_argument_that_the_library_does_not_know_is_an_error():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        notebook.set_up("smoke", "digits")
        with pytest.raises(UserWarning, match="max_holes"):
            A.CoarseDropout(max_holes=1, max_height=16, max_width=16)
