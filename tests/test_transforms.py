"""What the augmentations really do, measured on pixels."""

import time
import warnings

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from helpers import colab, transforms
from helpers.data import ImageData
from helpers.experiments import EXPERIMENTS
from helpers.loaders import SeededBatchSampler, make_train_loader

MEAN = np.array([0.4914, 0.4822, 0.4465])
CHANCE = 1e-4  # of a right draw to be called a wrong one, in each of some twenty comparisons


def position_image() -> np.ndarray:
    """An image whose pixels say where they come from: (row, column, 200)."""
    rows, columns = np.mgrid[0:32, 0:32]
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "furthest", "mirrors"),
    [("flip_shift", 2, True), ("flip_shift_cutout", 4, True), ("crop_cutout", 4, False)],
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
    share = np.mean([mirrored for mirrored, _, _ in seen])
    assert 0.4 < share < 0.6 if mirrors else share == 0
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
        ("flip_shift_scale_rotate_cutout", 0.5), ("flip_shift_scale_rotate_rare_cutout", 0.25),
        ("flip_shift_cutout", 0.5), ("crop_cutout", 0.5),
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


@pytest.mark.parametrize("name", ["cutout", "rare_cutout"])
def test_shift_scale_rotate_moves_by_no_more_than_it_says(name):
    transform = getattr(transforms, f"flip_shift_scale_rotate_{name}")(MEAN)
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


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@hypothesis_settings(deadline=None)
@given(
    shift=st.tuples(*[st.integers(-8, 8)] * 2), scale=st.floats(0.5, 2), angle=st.floats(-180, 180),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_affine_gives_the_pixels_of_albumentations_own(shift, scale, angle, seed):
    fixed = {"translate_px": {"x": (shift[0],) * 2, "y": (shift[1],) * 2}, "p": 1}
    fixed |= {"scale": (scale, scale), "rotate": (angle, angle)}
    own = A.Affine(**fixed, keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101)
    ours, image = transforms.FastAffine(**fixed), noise(seed)
    given_image = image.copy()
    expected, got = (t(image=image)["image"].astype(int) for t in (own, ours))
    # Where their products and our formula round apart, a pixel may be one step of 256 off.
    assert np.abs(expected - got).max() <= 1
    assert (expected != got).mean() < 0.01
    assert (image == given_image).all()
    matrix = own.get_params_dependent_on_data({"shape": image.shape}, {})["matrix"]
    expected = own.apply(image, matrix=matrix, output_shape=(32, 32))
    assert (ours.apply(image, matrix=matrix) == expected).all()


@pytest.mark.parametrize("shift", [(x, y) for x in range(-4, 5) for y in range(-4, 5)])
def test_a_shift_is_a_crop_of_the_mirrored_image(shift):
    fixed = {"x": (shift[0],) * 2, "y": (shift[1],) * 2}
    padded = cv2.copyMakeBorder(noise(), 4, 4, 4, 4, cv2.BORDER_REFLECT_101)
    left, top = 4 - shift[0], 4 - shift[1]
    shifted = transforms.FastAffine(translate_px=fixed, p=1)(image=noise())["image"]
    assert (shifted == padded[top : top + 32, left : left + 32]).all()


@hypothesis_settings(deadline=None)
@given(holes=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_holes_give_the_pixels_of_albumentations_own(holes, seed):
    options = {"num_holes_range": (holes, holes), "hole_height_range": (1, 32)}
    options |= {"hole_width_range": (3, 20), "fill": (7.0, 8.0, 255.0), "p": 1}
    own, ours, image = A.CoarseDropout(**options), transforms.FastCoarseDropout(**options), noise()
    given_image = image.copy()
    own.set_random_seed(seed)
    drawn = own.get_params_dependent_on_data({"shape": image.shape}, {})
    assert (ours.apply(image, **drawn) == own.apply(image, **drawn)).all()
    assert (image == given_image).all()
    ours.set_random_seed(seed)
    drawn = ours.get_params_dependent_on_data({"shape": image.shape}, {})
    assert (ours.apply(image, **drawn) == own.apply(image, **drawn, seed=0)).all()


def drawn(transform, number=10_000):
    transform.set_random_seed(5)
    shape = {"shape": (32, 32, 3)}
    return [transform.get_params_dependent_on_data(dict(shape), {}) for _ in range(number)]


def alike(values, others):
    """The chance that two samples of one distribution of few values differ as much as these."""
    every = sorted({*values, *others})
    counts = [[list(sample).count(value) for value in every] for sample in (values, others)]
    return stats.chi2_contingency(counts).pvalue


def test_holes_are_drawn_as_albumentations_own():
    options = {"num_holes_range": (1, 1), "hole_height_range": (14, 18), "hole_width_range": (3, 9)}
    own, ours = (
        np.concatenate([found["holes"] for found in drawn(kind(**options))])
        for kind in (A.CoarseDropout, transforms.FastCoarseDropout)
    )
    assert own.shape == ours.shape == (10_000, 4)
    for side in range(4):
        assert alike(own[:, side].tolist(), ours[:, side].tolist()) > CHANCE
    sizes = [(holes[:, 2:] - holes[:, :2]).tolist() for holes in (own, ours)]
    assert alike(*([tuple(size) for size in found] for found in sizes)) > CHANCE
    # Of the assignment's hole, all 17 x 17 places are as likely.
    corners = [tuple(found["holes"][0, :2]) for found in drawn(transforms.cutout(MEAN))]
    counts = np.unique(corners, axis=0, return_counts=True)[1]
    assert len(counts) == 17 * 17
    assert stats.chisquare(counts).pvalue > CHANCE


def test_shift_scale_and_angle_are_drawn_as_albumentations_own():
    options = {"translate_px": (-2, 2), "scale": (0.9, 1.1), "rotate": (-10, 10)}
    own = [found["matrix"] for found in drawn(A.Affine(**options, keep_ratio=True))]
    ours = [found["matrix"] for found in drawn(transforms.FastAffine(**options))]
    figures = []
    for matrices in map(np.array, (own, ours)):
        sizes = np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
        angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
        middles = matrices[:, :2] @ [15.5, 15.5, 1] - 15.5
        assert np.allclose(middles, middles.round(), atol=1e-9)
        figures.append((sizes, angles, [tuple(shift) for shift in middles.round().tolist()]))
    for figure, low, high in ((0, 0.9, 1.1), (1, -10, 10)):
        assert stats.ks_2samp(figures[0][figure], figures[1][figure]).pvalue > CHANCE
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(figures[1][figure], uniform.cdf).pvalue > CHANCE
    assert alike(figures[0][2], figures[1][2]) > CHANCE
    assert len(set(figures[1][2])) == 25


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_who_gets_a_hole_does_not_depend_on_who_is_mirrored(share):
    """As it would, where every step drew from a stream of its own with the same seed."""
    steps = transforms.flip_shift_cutout(MEAN)
    steps = A.Compose([steps[0], A.NoOp(), steps[2]])
    steps[2].p = share
    left = np.zeros((32, 32, 3), np.uint8)
    left[:, 15] = 255  # is column 16 in the mirror
    data = ImageData(
        "made", "made", (), np.stack([left] * 64), np.zeros(64, int), left[:0], left[:0]
    )
    counts = np.zeros((2, 2), int)
    for epoch in range(160):
        sampler = SeededBatchSampler(
            64, 8, seed=0
        )  # small batches: streams part after a few images
        sampler.epoch = epoch
        batches = [images for images, _ in make_train_loader(data, steps, sampler)]
        for pixels in torch.cat(batches).permute(0, 2, 3, 1).numpy():
            holed = (pixels == (125, 123, 114)).all(axis=-1).any()
            counts[int((pixels[:, 16] == 255).any()), int(holed)] += 1
    assert counts.sum() == 10_240
    mirrored, holed = counts.sum(axis=1), counts.sum(axis=0)
    assert stats.binomtest(int(mirrored[1]), 10_240, 0.5).pvalue > CHANCE
    assert stats.binomtest(int(holed[1]), 10_240, share).pvalue > CHANCE
    assert stats.chi2_contingency(counts).pvalue > CHANCE


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_run_records_the_classes_that_transformed_its_images(experiment):
    steps = experiment.transform(MEAN).to_dict()["transform"]["transforms"]
    names = [step["__class_fullname__"] for step in steps]
    expected = {
        "flip_shift": ["HorizontalFlip", "Pad", "RandomCrop"],
        "crop_cutout": ["Pad", "RandomCrop", "FastCoarseDropout"],
    }
    default = ["HorizontalFlip", "FastAffine", "FastCoarseDropout"]
    assert names == expected.get(experiment.transform.__name__, default)


@pytest.mark.parametrize("side", ["hole_height_range", "hole_width_range"])
def test_a_hole_as_a_share_of_the_image_is_refused_at_once(side):
    A.CoarseDropout(**{side: (0.1, 0.5)})(image=noise())  # the library accepts it
    with pytest.raises(ValueError, match=r"0.1 is no whole number of pixels.*CoarseDropout"):
        transforms.FastCoarseDropout(**{side: (0.1, 0.5)})


def test_the_fast_classes_are_worth_their_code():
    """Albumentations' own classes take three to five times as long on a quiet machine."""

    def seconds(transform):
        start = time.perf_counter()
        for _ in range(300):
            transform(image=image)
        return time.perf_counter() - start

    image = noise()
    options = {"translate_px": (-4, 4), "p": 1}
    library = A.Compose(
        [A.Affine(**options, border_mode=cv2.BORDER_REFLECT_101), A.CoarseDropout(p=1)]
    )
    fast = A.Compose([transforms.FastAffine(**options), transforms.FastCoarseDropout(p=1)])
    times = [(seconds(library), seconds(fast)) for _ in range(5)]
    assert min(slow for slow, _ in times) > 1.5 * min(quick for _, quick in times)


def test_in_a_notebook_an_argument_that_the_library_does_not_know_is_an_error(monkeypatch):
    monkeypatch.setenv("DATASET", "sample")
    with warnings.catch_warnings():
        warnings.resetwarnings()
        colab.setup("smoke")
        with pytest.raises(UserWarning, match="max_holes"):
            A.CoarseDropout(max_holes=1, max_height=16, max_width=16)
