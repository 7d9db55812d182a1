"""Augmentations of the four notebooks with Albumentations, on uint8 images (32, 32, 3).

Each function takes the channel means (3,) of the training images, in [0, 1]. Normalization is not
part of them: `ImageData.normalize` does it on the device, a batch at a time.
"""

import albumentations as A
import cv2
import numpy as np

Range = tuple[float, float]


class RecordedByName:
    """Mixin that lets `to_dict`, and so `metrics.json`, record the name of the class."""

    @classmethod
    def get_class_fullname(cls) -> str:
        """Return the name of the class, without its module."""
        return cls.__name__


class FastCoarseDropout(RecordedByName, A.CoarseDropout):
    """Cut holes of one color. Faster than Albumentations' own class.

    It samples from the same distribution, but gives other values for the same seed. With the
    library's own classes, a whole transform takes three to five times as long. That would slow
    down training: on a two-core machine with a GPU, loading could not keep up. This class handles
    images only, not boxes, masks or key points.

    Args:
        num_holes_range: The least and the greatest number of holes.
        hole_height_range: The least and the greatest height in pixels.
        hole_width_range: The least and the greatest width in pixels.
        fill: The color, 0 to 255 per channel.
        p: The share of images that get holes.

    Raises:
        ValueError: If a size is a fraction instead of a number of pixels.
    """

    def __init__(
        self,
        num_holes_range: tuple[int, int] = (1, 1),
        hole_height_range: tuple[int, int] = (16, 16),
        hole_width_range: tuple[int, int] = (16, 16),
        fill: tuple[int, ...] | int = 0,
        p: float = 0.5,
    ):
        for size in (*hole_height_range, *hole_width_range):
            if not isinstance(size, int):
                raise ValueError(
                    f"FastCoarseDropout: a hole of size {size} is no whole number of pixels; "
                    "take albumentations.CoarseDropout for fractions"
                )
        super().__init__(num_holes_range, hole_height_range, hole_width_range, fill=fill, p=p)

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """Sample the holes.

        Args:
            params: Albumentations' parameters, with the image's "shape".
            data: The images and targets. Not used.

        Returns:
            "holes": int64 (N, 4), the left, top, right and bottom of each hole.
        """
        height, width = params["shape"][:2]
        holes = []
        for _ in range(self.py_random.randint(*self.num_holes_range)):
            hole_height = self.py_random.randint(*self.hole_height_range)
            hole_width = self.py_random.randint(*self.hole_width_range)
            left = self.py_random.randint(0, width - hole_width)
            top = self.py_random.randint(0, height - hole_height)
            holes.append((left, top, left + hole_width, top + hole_height))
        return {"holes": np.array(holes)}

    def apply(self, img: np.ndarray, holes: np.ndarray, **params: object) -> np.ndarray:
        """Return a copy of the image with the holes in it.

        Args:
            img: The image (H, W, 3) uint8.
            holes: int64 (N, 4), the left, top, right and bottom of each hole.
            params: Albumentations' other parameters. Not used.
        """
        img = img.copy()
        for left, top, right, bottom in holes.tolist():
            img[top:bottom, left:right] = self.fill
        return img


class FastAffine(RecordedByName, A.Affine):
    """Shift, scale and rotate with mirrored borders. Faster than Albumentations' own class.

    See `FastCoarseDropout` for what that means.

    Args:
        translate_px: The range of shifts in whole pixels, for both axes or for "x" and "y".
        scale: The range of the scale, the same for both axes.
        rotate: The range of angles in degrees.
        p: The share of images that are transformed.
    """

    def __init__(
        self,
        translate_px: Range | dict[str, Range],
        scale: Range = (1, 1),
        rotate: Range = (0, 0),
        p: float = 0.5,
    ):
        super().__init__(
            translate_px=translate_px,
            scale=scale,
            rotate=rotate,
            keep_ratio=True,
            border_mode=cv2.BORDER_REFLECT_101,
            p=p,
        )

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """Sample the matrix.

        Args:
            params: Albumentations' parameters, with the image's "shape".
            data: The images and targets. Not used.

        Returns:
            "matrix": float64 (2, 3), maps pixels of the image to pixels of the result.
        """
        height, width = params["shape"][:2]
        center = width / 2 - 0.5, height / 2 - 0.5
        angle = self.py_random.uniform(*self.rotate)
        scale = self.py_random.uniform(*self.scale["x"])
        matrix = cv2.getRotationMatrix2D(center, angle, scale)
        for row, axis in enumerate("xy"):
            low, high = self.translate_px[axis]
            matrix[row, 2] += self.py_random.randint(int(low), int(high))
        return {"matrix": matrix}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        """Return the transformed image.

        Args:
            img: The image (H, W, 3) uint8.
            matrix: float64 (2, 3), or (3, 3) as Albumentations' own.
            params: Albumentations' other parameters. Not used.
        """
        return cv2.warpAffine(
            img, matrix[:2], img.shape[1::-1], flags=self.interpolation, borderMode=self.border_mode
        )


def flip_shift(mean: np.ndarray) -> A.Compose:
    """Return S7's transform: flip half of the images, shift all by up to 2 pixels.

    Args:
        mean: Channel means (3,). Not used.
    """
    pad = A.Pad(padding=2, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([A.HorizontalFlip(p=0.5), pad, A.RandomCrop(32, 32)])


def cutout(mean: np.ndarray, p: float = 0.5) -> FastCoarseDropout:
    """Return CutOut: one hole of 16x16 pixels inside the image, filled with the mean.

    Source: T. DeVries and G. W. Taylor, arXiv:1708.04552.

    Args:
        mean: Channel means (3,) in [0, 1].
        p: The share of images that get a hole.
    """
    return FastCoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(16, 16),
        hole_width_range=(16, 16),
        fill=tuple(np.rint(255 * mean).astype(int).tolist()),
        p=p,
    )


def flip_shift_scale_rotate_cutout(mean: np.ndarray, p_cutout: float = 0.5) -> A.Compose:
    """Return S9's transform: flip, shift-scale-rotate and cutout, each for half of the images.

    Args:
        mean: Channel means (3,) in [0, 1].
        p_cutout: The share of images that get a hole.
    """
    # In pixels, because a percentage would be rounded towards zero.
    shift_scale_rotate = FastAffine(translate_px=(-2, 2), scale=(0.9, 1.1), rotate=(-10, 10), p=0.5)
    return A.Compose([A.HorizontalFlip(p=0.5), shift_scale_rotate, cutout(mean, p_cutout)])


def flip_shift_scale_rotate_rare_cutout(mean: np.ndarray) -> A.Compose:
    """Return S9's transform with a hole in one image of four.

    Args:
        mean: Channel means (3,) in [0, 1].
    """
    return flip_shift_scale_rotate_cutout(mean, p_cutout=0.25)


def flip_shift_cutout(mean: np.ndarray) -> A.Compose:
    """Return S10's transform: flip half, shift all by up to 4 pixels, cut a hole into half.

    Args:
        mean: Channel means (3,) in [0, 1].
    """
    shift = FastAffine(translate_px=(-4, 4), p=1)
    return A.Compose([A.HorizontalFlip(p=0.5), shift, cutout(mean)])


def crop_cutout(mean: np.ndarray) -> A.Compose:
    """Return ResNet18's transform: RandomCrop(32, padding=4), and cutout for half of the images.

    Args:
        mean: Channel means (3,) in [0, 1].
    """
    pad = A.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101)
    return A.Compose([pad, A.RandomCrop(32, 32), cutout(mean)])
