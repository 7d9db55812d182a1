"""The augmentations of the series, on uint8 images (32, 32, 3); only here is Albumentations used.

Each is a function of the channel means (3,) of the training images, in [0, 1]. Normalising is not
among them: the device does that, a batch at a time.
"""

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network

import albumentations as A
import cv2

Range = tuple[float, float]


class _Quick:
    """A transform of Albumentations, drawn and applied with less of its Python code.

    It draws from its parent's distribution, though in another random stream, and is recorded under
    its parent's name. It is for images alone, not for boxes, masks and key points.
    """

    @classmethod
    def get_class_fullname(cls) -> str:
        return cls.__name__


class CoarseDropout(_Quick, A.CoarseDropout):
    """Holes of one colour; their sizes are in pixels."""

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """`holes` (N, 4) int64: the left, top, right and bottom of each, inside the image."""
        draw, (height, width) = self.py_random.randint, params["shape"][:2]
        holes = []
        for _ in range(draw(*self.num_holes_range)):
            rows, columns = draw(*self.hole_height_range), draw(*self.hole_width_range)
            left, top = draw(0, width - columns), draw(0, height - rows)
            holes.append((left, top, left + columns, top + rows))
        return {"holes": np.array(holes)}

    def apply(self, img: np.ndarray, holes: np.ndarray, **params: object) -> np.ndarray:
        """A copy of the image with the holes in it."""
        img = img.copy()
        for left, top, right, bottom in holes.tolist():
            img[top:bottom, left:right] = self.fill
        return img


class Affine(_Quick, A.Affine):
    """Shifts by whole pixels, one scale for both sides, rotation in degrees; the border mirrored.

    Each is given as the range, or the ranges of "x" and "y", that it is drawn from.
    """

    def __init__(
        self, translate_px: Range | dict[str, Range], scale: Range = (1, 1), rotate: Range = (0, 0),
        p: float = 0.5,
    ):  # fmt: skip
        drawn = {"translate_px": translate_px, "scale": scale, "rotate": rotate}
        super().__init__(**drawn, keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, p=p)

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """`matrix` (2, 3) float64, from places in the image to places in the outcome."""
        draw, (height, width) = self.py_random, params["shape"][:2]
        middle = width / 2 - 0.5, height / 2 - 0.5
        angle, scale = draw.uniform(*self.rotate), draw.uniform(*self.scale["x"])
        matrix = cv2.getRotationMatrix2D(middle, angle, scale)
        matrix[:, 2] += [draw.randint(*map(int, self.translate_px[axis])) for axis in "xy"]
        return {"matrix": matrix}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        """The image (H, W, 3) under that matrix."""
        size, options = img.shape[1::-1], {"borderMode": self.border_mode}
        return cv2.warpAffine(img, matrix[:2], size, flags=self.interpolation, **options)


def flip_and_shift(mean: np.ndarray) -> A.Compose:
    """S7: mirror half of the images, shift all by up to 2 pixels (the border mirrored)."""
    pad = A.Pad(padding=2, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([A.HorizontalFlip(p=0.5), pad, A.RandomCrop(32, 32)])


def hole(mean: np.ndarray) -> CoarseDropout:
    """A hole of 16x16 pixels, inside the image, in the colour of the mean, in every other image."""
    return CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16),
        fill=tuple(np.rint(255 * mean).astype(int).tolist()), p=0.5,
    )  # fmt: skip


def flip_shift_scale_rotate_and_hole(mean: np.ndarray) -> A.Compose:
    """S9: mirror half of the images; shift, scale and rotate half; cut a hole into half.

    By up to 2 pixels, 10 % and 10 degrees, the border mirrored.
    """
    # In pixels: a percentage would be rounded towards nothing.
    affine = Affine(translate_px=(-2, 2), scale=(0.9, 1.1), rotate=(-10, 10), p=0.5)
    return A.Compose([A.HorizontalFlip(p=0.5), affine, hole(mean)])


def flip_shift_scale_rotate_and_rare_hole(mean: np.ndarray) -> A.Compose:
    """S9: the same with a hole in one image of four."""
    steps = flip_shift_scale_rotate_and_hole(mean)
    steps[-1].p = 0.25
    return steps


def flip_shift_and_hole(mean: np.ndarray) -> A.Compose:
    """S10: mirror half of the images, shift all by up to 4 pixels, cut a hole into half."""
    shift = Affine(translate_px=(-4, 4), p=1)
    return A.Compose([A.HorizontalFlip(p=0.5), shift, hole(mean)])


def crop_and_hole(mean: np.ndarray) -> A.Compose:
    """ResNet18: RandomCrop(32, padding=4), the border mirrored; CutOut, in half of the images."""
    pad = A.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([pad, A.RandomCrop(32, 32), hole(mean)])
