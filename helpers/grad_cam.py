"""Grad-CAM (R. R. Selvaraju et al., arXiv:1610.02391) and occlusion maps.

Class activation maps come from the grad-cam library. They show where a model finds evidence for a
class. Occlusion maps show how much a logit drops if part of the image is blurred.
"""

import copy
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import torch
from matplotlib import colormaps, style
from matplotlib.figure import Figure

from helpers.data import ImageData
from helpers.device import eval_mode, match_memory_format
from helpers.evaluation import find_mistakes, predict
from helpers.plotting import BLUE, ORANGE, new_figure, plot_images, plot_no_mistakes
from helpers.results import Result


def grad_cam(
    model: torch.nn.Module,
    layer: str,
    images: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    data: ImageData,
) -> np.ndarray:
    """Return a class activation map for each image.

    The model is not changed: a float32 copy of it runs.

    Args:
        model: The model.
        layer: The module whose output is used, for example "layer3".
        images: Images (N, 32, 32, 3) uint8.
        classes: The class (N,) to explain in each image.
        data: The data the model was trained on, for normalization.

    Returns:
        Class activation maps (N, 32, 32) float32 in [0, 1], 1 where the evidence is strongest.

    Raises:
        AttributeError: If the model has no such layer.
        ValueError: If the layer does not return feature maps of more than one position.
    """
    from pytorch_grad_cam import GradCAM  # imported here because the import draws random numbers
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # GradCAM leaves hooks, evaluation mode and gradients in the model, so it gets a copy.
    model = copy.deepcopy(model).float().requires_grad_()
    target_layer = model.get_submodule(layer)
    if len(images) == 0:
        return np.zeros((0, 32, 32), np.float32)
    device = next(model.parameters()).device
    inputs = data.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).to(device))
    inputs = match_memory_format(inputs, model)
    _check_feature_maps(model, layer, inputs[:1])
    targets = [ClassifierOutputTarget(int(label)) for label in classes]
    return GradCAM(model, [target_layer])(inputs, targets)


@torch.no_grad()
def _check_feature_maps(model: torch.nn.Module, layer: str, inputs: torch.Tensor) -> None:
    """Raise ValueError if a layer does not return feature maps of more than one position."""
    outputs = []
    with eval_mode(model):
        handle = model.get_submodule(layer).register_forward_hook(
            lambda module, arguments, output: outputs.append(output)
        )
        model(inputs)
        handle.remove()
    expected = f"Grad-CAM needs feature maps (N, C, H, W) of more than one position; {layer}"
    if not outputs:
        raise ValueError(f"{expected} is not used")
    if not isinstance(outputs[0], torch.Tensor):
        raise ValueError(f"{expected} returns a {type(outputs[0]).__name__}")
    shape = tuple(outputs[0].shape)
    if len(shape) != 4 or shape[2] * shape[3] == 1:
        raise ValueError(f"{expected} returns {shape}: choose an earlier layer")


def overlay(images: np.ndarray, cams: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Draw class activation maps over images. Where a map is 0, the image is unchanged.

    Args:
        images: Images (N, H, W, 3) uint8.
        cams: Class activation maps (N, H, W) in [0, 1].

    Returns:
        Images (N, H, W, 3) uint8, yellow where the map is 1.
    """
    if len(images) == 0:
        return images
    cams = np.stack(cams)
    colors = 255 * colormaps["viridis"](cams)[..., :3]
    opacity = 0.8 * cams[..., None]
    return np.rint((1 - opacity) * images + opacity * colors).astype(np.uint8)


@style.context("default")
def plot_grad_cam_steps(
    image: np.ndarray, maps: np.ndarray, weights: np.ndarray, title: str
) -> Figure:
    """Draw how Grad-CAM is computed: maps times weights, their sum, ReLU, the overlay.

    Three maps are shown: the two whose weighted sum is the largest, and the one with the smallest.

    Args:
        image: The image (32, 32, 3) uint8.
        maps: The feature maps (C, H, W) of a layer.
        weights: The weight (C,) of each map.
        title: The title.

    Returns:
        The figure.
    """
    weighted = weights[:, None, None] * maps
    order = weighted.sum(axis=(1, 2)).argsort()
    total = weighted.sum(axis=0)
    mosaic = [
        ["map0", "weighted0", "sum", "relu", "overlay"],
        ["map1", "weighted1", "sum", "relu", "overlay"],
        ["map2", "weighted2", "sum", "relu", "overlay"],
    ]
    figure = Figure((10, 5.2), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, wrap=True)
    axes = figure.subplot_mosaic(mosaic, width_ratios=[1, 1, 1.6, 1.6, 1.6])
    limit = abs(weighted[order[[-1, -2, 0]]]).max()
    for row, channel in enumerate(order[[-1, -2, 0]]):
        axes[f"map{row}"].imshow(maps[channel], "viridis")
        axes[f"map{row}"].set_title(f"map {channel}", fontsize=9)
        axes[f"weighted{row}"].imshow(weighted[channel], "PuOr_r", vmin=-limit, vmax=limit)
        axes[f"weighted{row}"].set_title(f"times {weights[channel]:+.4f}", fontsize=9)
    limit = abs(total).max()
    axes["sum"].imshow(total, "PuOr_r", vmin=-limit, vmax=limit)
    axes["sum"].set_title(f"sum of all {len(maps)} weighted maps", fontsize=9)
    axes["relu"].imshow(total.clip(0), "PuOr_r", vmin=-limit, vmax=limit)
    axes["relu"].set_title("ReLU: negative values become 0", fontsize=9)
    enlarged = cv2.resize(total.clip(0), (32, 32))
    axes["overlay"].imshow(overlay(image[None], [enlarged / max(1e-7, enlarged.max())])[0])
    axes["overlay"].set_title("enlarged, over the image", fontsize=9)
    for axis in axes.values():
        axis.set(xticks=[], yticks=[])
    return figure


def explain_mistakes(result: Result, data: ImageData, layer: str, n: int = 10) -> np.ndarray:
    """Return class activation maps of the first mistakes for the predicted and the true class.

    Args:
        result: The run.
        data: The data with the test images.
        layer: The module whose output is used, for example "layer3".
        n: The largest number of mistakes.

    Returns:
        Class activation maps (2, n, 32, 32): first for the predicted classes, then for the true
        classes. With fewer mistakes than n, there are fewer maps.

    Raises:
        AttributeError: If the model has no such layer.
    """
    mistakes = find_mistakes(result.logits, data.test_labels)[:n]
    images = data.test_images[mistakes]
    predicted = result.logits[mistakes].argmax(axis=1)
    predicted_cams = grad_cam(result.model, layer, images, predicted, data)
    true_cams = grad_cam(result.model, layer, images, data.test_labels[mistakes], data)
    return np.stack([predicted_cams, true_cams])


@style.context("default")
def plot_grad_cam(result: Result, data: ImageData, layer: str, n: int = 10) -> Figure:
    """Plot the first mistakes with their class activation maps for both classes.

    Each mistake has three pictures: the image, the map for the predicted class and the map for the
    true class. Without mistakes, the figure says so.

    Args:
        result: The run.
        data: The data with the test images.
        layer: The module whose output is used, for example "layer3".
        n: The largest number of mistakes.

    Returns:
        The figure, with two mistakes in each row.

    Raises:
        AttributeError: If the model has no such layer.
    """
    title = f"Grad-CAM from {layer}: {result.title}"
    mistakes = find_mistakes(result.logits, data.test_labels)[:n]
    if len(mistakes) == 0:
        return plot_no_mistakes(data, title)
    images = data.test_images[mistakes]
    predicted_cams, true_cams = explain_mistakes(result, data, layer, n)
    pictures = np.stack([images, overlay(images, predicted_cams), overlay(images, true_cams)], 1)
    captions = []
    for i in mistakes:
        true = data.classes[data.test_labels[i]]
        predicted = data.classes[result.logits[i].argmax()]
        captions += [true, f"{predicted} (predicted)", f"{true} (true)"]
    return plot_images(pictures.reshape(-1, 32, 32, 3), captions, title, columns=6)


def occlusion_map(
    result: Result, data: ImageData, indices: np.ndarray, size: int = 8, stride: int = 4
) -> np.ndarray:
    """Return how much the logit of the predicted class drops if a square of the image is blurred.

    Args:
        result: The run.
        data: The data with the test images.
        indices: Indices (N,) of test images.
        size: The side of the square in pixels.
        stride: The distance between neighboring squares in pixels.

    Returns:
        Drops of the logit (N, positions, positions) float32, by the row and column of the square.
        With the defaults there are 7x7 positions. A negative value means that the logit rises.
    """
    images = data.test_images[indices]
    original_logits = predict(result.model, data, images).cpu().numpy()
    predicted = original_logits.argmax(axis=1)
    blurred = np.zeros_like(images)
    for i, image in enumerate(images):
        blurred[i] = cv2.GaussianBlur(image, (0, 0), sigmaX=5)
    starts = range(0, 32 - size + 1, stride)
    logit_drops = np.zeros((len(images), len(starts), len(starts)), np.float32)
    for row, top in enumerate(starts):
        for column, left in enumerate(starts):
            square = np.s_[:, top : top + size, left : left + size]
            occluded = images.copy()
            occluded[square] = blurred[square]
            logits = predict(result.model, data, occluded).cpu().numpy()
            drops = original_logits - logits
            logit_drops[:, row, column] = drops[np.arange(len(images)), predicted]
    return logit_drops


def cam_occlusion_correlation(
    cams: np.ndarray, logit_drops: np.ndarray, size: int = 8, stride: int = 4
) -> tuple[pd.Series, pd.Series]:
    """Correlate class activation maps with occlusion maps.

    The mean of the class activation map over each square is compared with the drop of the logit if
    this square is blurred. Pairs from two different images show what correlation chance gives.

    Args:
        cams: Class activation maps (N, 32, 32).
        logit_drops: The result of `occlusion_map` for the same images.
        size: The `size` given to `occlusion_map`.
        stride: The `stride` given to `occlusion_map`.

    Returns:
        Pearson correlations in [-1, 1] of the maps of the same image (N), and of the maps of two
        different images (N * (N - 1)). NaN if a map is constant.
    """
    n = len(cams)
    if n == 0:
        return pd.Series(dtype=float), pd.Series(dtype=float)
    windows = np.lib.stride_tricks.sliding_window_view(cams, (size, size), axis=(1, 2))
    cam_means = windows[:, ::stride, ::stride].mean(axis=(3, 4))
    rows = np.concatenate([cam_means, logit_drops]).reshape(2 * n, -1)
    with np.errstate(invalid="ignore", divide="ignore"):  # constant maps have no correlation
        correlations = np.corrcoef(rows)[:n, n:]  # (map of image i, drops of image j)
    same_image = pd.Series(np.diag(correlations))
    different_images = pd.Series(correlations[~np.eye(n, dtype=bool)])
    return same_image, different_images


def agreement_with_occlusion(
    result: Result, layer: str, indices: np.ndarray, data: ImageData
) -> tuple[pd.Series, pd.Series]:
    """Correlate the class activation maps of some test images with their occlusion maps.

    Both are for the predicted classes.

    Args:
        result: The run.
        layer: The module whose output is used, for example "layer3".
        indices: Indices (N,) of test images.
        data: The data with the test images.

    Returns:
        The result of `cam_occlusion_correlation`.

    Raises:
        AttributeError: If the model has no such layer.
    """
    predicted = result.logits[indices].argmax(axis=1)
    cams = grad_cam(result.model, layer, data.test_images[indices], predicted, data)
    return cam_occlusion_correlation(cams, occlusion_map(result, data, indices))


@style.context("default")
def plot_occlusion(
    result: Result, data: ImageData, layer: str, indices: np.ndarray, logit_drops: np.ndarray
) -> Figure:
    """Plot images, their class activation maps and their occlusion maps in three rows.

    Both maps are for the predicted class, which is the caption. Without images, the figure says
    so.

    Args:
        result: The run.
        data: The data with the test images.
        layer: The module whose output Grad-CAM uses, for example "layer3".
        indices: Indices (N,) of test images.
        logit_drops: The result (N, 7, 7) of `occlusion_map` with its defaults for these images.

    Returns:
        The figure.

    Raises:
        AttributeError: If the model has no such layer.
    """
    images = data.test_images[indices]
    predicted = result.logits[indices].argmax(axis=1)
    cams = grad_cam(result.model, layer, images, predicted, data)
    occlusion_maps = [_enlarge(drops) for drops in logit_drops]
    pictures = [*images, *overlay(images, cams), *overlay(images, occlusion_maps)]
    n = len(images)
    captions = [data.classes[label] for label in predicted]
    captions += ["Grad-CAM", *[""] * (n - 1), "occlusion", *[""] * (n - 1)]
    title = f"Images, Grad-CAM from {layer}, occlusion: {result.title}"
    return plot_images(pictures, captions, title, columns=max(1, n))


def _enlarge(logit_drops: np.ndarray) -> np.ndarray:
    """Return a 7x7 map of logit drops as a map (32, 32) in [0, 1]."""
    # The squares are 4 pixels apart, and their centers leave a margin of 2 pixels.
    enlarged = np.pad(cv2.resize(logit_drops.clip(0), (28, 28)), 2, mode="edge")
    return enlarged / max(1e-7, enlarged.max())


@style.context("default")
def plot_agreement(correlations: Mapping[str, tuple[pd.Series, pd.Series]]) -> Figure:
    """Plot how well class activation maps agree with occlusion maps, layer by layer.

    Args:
        correlations: The results of `cam_occlusion_correlation`, by a name for each layer.

    Returns:
        The figure, with a row for each layer. A dot is an image, a diamond the mean of the images,
        and a gray bar the middle half of the pairs from two different images.
    """
    figure, axis = new_figure(9, 4, "Do class activation maps agree with occlusion?")
    for row, (same_image, different_images) in enumerate(correlations.values()):
        first = row == 0  # one entry in the legend is enough
        axis.hlines(
            row,
            different_images.quantile(0.25),
            different_images.quantile(0.75),
            color="silver",
            lw=14,
            label="two images: the middle half" if first else None,
        )
        axis.plot(
            same_image,
            np.full(len(same_image), row),
            "o",
            color=BLUE,
            alpha=0.5,
            label="an image" if first else None,
        )
        axis.plot(
            same_image.mean(),
            row,
            "D",
            color=ORANGE,
            markersize=8,
            label="mean of the images" if first else None,
        )
    axis.set_yticks(range(len(correlations)), list(correlations))
    axis.set(
        xlabel="correlation of the class activation map with the drop of the logit", xlim=(-1, 1)
    )
    axis.set_ylim(len(correlations) - 0.5, -0.5)  # first row on top
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@style.context("default")
def plot_own_image(result: Result, data: ImageData, photo: PIL.Image.Image, layer: str) -> Figure:
    """Plot a photo, what the model receives of it, the class activation map and the prediction.

    Args:
        result: The run.
        data: The data the model was trained on.
        photo: A square image, as `colab.load_image` returns it.
        layer: The module whose output Grad-CAM uses, for example "layer3".

    Returns:
        The figure, with three pictures and the probabilities of the five most probable classes.

    Raises:
        AttributeError: If the model has no such layer.
    """
    images = np.array(photo.resize((32, 32)))[None]
    logits = predict(result.model, data, images).cpu()
    predicted = logits.argmax(dim=1).numpy()
    cams = grad_cam(result.model, layer, images, predicted, data)
    pictures = {
        "your image": photo.resize((256, 256)),
        "as the model receives it": images[0],
        f"evidence for {data.classes[predicted[0]]}": overlay(images, cams)[0],
    }
    title = f"Your own image, Grad-CAM from {layer}: {result.title}"
    figure, axes = new_figure(11, 3.2, title, ncols=4, width_ratios=[1, 1, 1, 1.1])
    for axis, (caption, picture) in zip(axes[:3], pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(caption, fontsize=10)
        axis.axis("off")
    percentages = pd.Series(100 * logits.softmax(dim=1)[0].numpy(), index=list(data.classes))
    most_probable = percentages.nlargest(5)
    bars = axes[3].barh(most_probable.index, most_probable, color=BLUE)
    axes[3].bar_label(bars, fmt="{:.1f}", padding=3, fontsize=8)
    axes[3].set(xlabel="probability (%)", xlim=(0, 118))
    axes[3].set_title("the five most probable classes", fontsize=10)
    axes[3].invert_yaxis()
    return figure
