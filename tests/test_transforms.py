"""What the augmentations really do, measured on pixels."""

import warnings

import albumentations as A
import numpy as np
import pytest

from helpers import notebook
from helpers.images import transforms

MEAN = np.array([0.4914, 0.4822, 0.4465])


def position_image() -> np.ndarray:
    """An image whose pixels say where they come from: (row, column, 200)."""
    rows, columns = np.mgrid[0:32, 0:32]
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "furthest", "mirrors"),
    [("flip_and_shift", 2, True), ("flip_shift_and_hole", 4, True), ("crop_and_hole", 4, False)],
)
def test_shifts_by_whole_pixels_up_to_the_furthest_and_mirrors_half_if_it_should(
    name, furthest, mirrors
):
    transform = getattr(transforms, name)(MEAN)
    transform.set_random_seed(0)
    seen = []
    for _ in range(1200):
        image = transform(image=position_image())["image"]
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.uint8
        middle = image[12:20, 12:20].astype(int)
        if (middle[..., 2] != 200).any():
            continue  # the hole is in the way
        mirrored = middle[0, 1, 1] < middle[0, 0, 1]
        down = middle[0, 0, 0] - 12
        right = middle[0, 0, 1] - (31 - 12 if mirrored else 12)
        seen.append((mirrored, down, right))
    assert len(seen) > 500
    assert 0.4 < np.mean([mirrored for mirrored, _, _ in seen]) < 0.6 if mirrors else True
    assert mirrors or not any(mirrored for mirrored, _, _ in seen)
    every = set(range(-furthest, furthest + 1))
    assert {down for _, down, _ in seen} == {right for _, _, right in seen} == every


def holes(transform, images=400):
    """The (rows, columns, colours) of what was cut out of plain white images; None if nothing."""
    transform.set_random_seed(0)
    found = []
    for _ in range(images):
        image = transform(image=np.full((32, 32, 3), 255, np.uint8))["image"]
        rows, columns = np.nonzero((image != 255).any(axis=-1))
        colours = {tuple(pixel) for pixel in image[rows, columns].tolist()}
        found.append((rows, columns, colours) if len(rows) else None)
    return found


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("flip_shift_scale_rotate_and_hole", 0.5), ("flip_shift_scale_rotate_and_rare_hole", 0.25),
        ("flip_shift_and_hole", 0.5), ("crop_and_hole", 0.5),
    ],
)  # fmt: skip
def test_the_hole_is_one_square_of_16_pixels_in_the_mean(name, share):
    found = holes(getattr(transforms, name)(MEAN))
    cut = [hole for hole in found if hole]
    assert 0.75 * share < len(cut) / len(found) < 1.25 * share
    for rows, columns, colours in cut:
        assert len(rows) == 16 * 16
        assert np.ptp(rows) == np.ptp(columns) == 15
        assert colours == {(125, 123, 114)}
    assert len({(rows.min(), columns.min()) for rows, columns, _ in cut}) > 50


@pytest.mark.parametrize("name", ["hole", "rare_hole"])
def test_shift_scale_rotate_moves_by_no_more_than_it_says(name):
    transform = getattr(transforms, f"flip_shift_scale_rotate_and_{name}")(MEAN)
    transform.set_random_seed(0)
    image = 8 * position_image()  # in eighths of a pixel
    image[..., 2] = 0  # the hole's blue is 114
    shifts, sizes, angles, mirrored = [], [], [], []
    for _ in range(800):
        middle = transform(image=image)["image"][10:22, 10:22].astype(float)
        if middle[..., 2].any():
            continue  # the hole is in the way
        middle = middle[..., :2] / 8
        down = (middle[-1] - middle[0]).mean(axis=0) / 11  # what a step down moves in the original
        mirrored.append(middle[0, 0, 1] > middle[0, -1, 1])
        sizes.append(np.hypot(*down))
        angles.append(np.degrees(np.arctan2(down[1], down[0])))
        shifts.append(np.abs(middle.mean(axis=(0, 1)) - 15.5).max())
    assert len(sizes) > 300
    assert 0.4 < np.mean(mirrored) < 0.6
    untouched = [size == 1 and angle == 0 for size, angle in zip(sizes, angles, strict=True)]
    assert 0.4 < np.mean(untouched) < 0.6
    assert 1 / 1.12 < min(sizes) < 0.95 < 1.05 < max(sizes) < 1 / 0.88
    assert 8 < max(np.abs(angles)) < 11
    assert 1.5 < max(shifts) < 2.6


def test_in_a_notebook_an_argument_that_the_library_does_not_know_is_an_error():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        notebook.set_up("smoke", "digits")
        with pytest.raises(UserWarning, match="max_holes"):
            A.CoarseDropout(max_holes=1, max_height=16, max_width=16)
