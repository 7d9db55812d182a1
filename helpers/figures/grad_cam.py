"""Grad-CAM (R. R. Selvaraju et al., arXiv:1610.02391), by the grad-cam library."""

import copy

import cv2
import numpy as np
import torch

from helpers.devices import laid_out
from helpers.images.data import ImageData


def grad_cam(
    model: torch.nn.Module, layer: str, images: np.ndarray, classes: np.ndarray, data: ImageData
) -> np.ndarray:
    """Where the network sees a class: a map of heat (N, 32, 32) float32 in [0, 1] for each image.

    `images` are (N, 32, 32, 3) uint8; `classes` (N,) names each image's class, `layer` whose output
    is looked at, as in "layer3". The network is left untouched: a copy of it is run, in float32.
    Raises AttributeError where it has no such layer.
    """
    from pytorch_grad_cam import GradCAM  # here, as its import draws random numbers
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # The library leaves hooks, evaluation mode and gradients behind.
    network = copy.deepcopy(model).float().requires_grad_()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(network.parameters()).device)
    inputs = laid_out(data.normalise(pixels), network)
    targets = [ClassifierOutputTarget(int(number)) for number in classes]
    return GradCAM(network, [network.get_submodule(layer)])(inputs, targets)


def overlay(images: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) uint8, in grey under their maps of heat (N, H, W); yellow is hot."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    options = {"use_rgb": True, "colormap": cv2.COLORMAP_VIRIDIS}
    both = zip(np.float32(images.mean(axis=3, keepdims=True) / 255), heat, strict=True)
    return np.stack([show_cam_on_image(image, map_, **options) for image, map_ in both])
