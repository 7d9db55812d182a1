"""Drawings that explain: a convolution in numbers, a receptive field, a network as blocks.

Everything drawn is computed from the weights or from the layers of a model. The functions
`draw_...` return Matplotlib figures; the others return what is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torch.nn import functional as F

from helpers.inspection import Layer, layer_path, trace_layers
from helpers.plotting import BLUE, ORANGE, new_figure

LIGHT_BLUE = "#BBDDF2"
LIGHT_ORANGE = "#F6D3BD"
GRAY = "#DDDDDD"
COLORS = {  # of the boxes of `draw_model`
    "convolution": LIGHT_BLUE,
    "separable convolution": LIGHT_ORANGE,
    "1x1 convolution or linear": GRAY,
    "pooling": "white",
}


@style.context("default")
def draw_convolution(image: np.ndarray, kernel: np.ndarray, row: int, column: int) -> Figure:
    """Draw an image, a kernel and the feature map, with the numbers behind one output.

    Args:
        image: Numbers (H, W).
        kernel: Numbers (k, k) with an odd k. The image is not padded.
        row: The row of the output that is worked out.
        column: Its column.

    Returns:
        The figure, with three grids of numbers. The title shows the sum.
    """
    side = len(kernel)
    weights = torch.from_numpy(kernel).float()[None, None]
    feature_map = F.conv2d(torch.from_numpy(image).float()[None, None], weights)[0, 0].numpy()
    window = image[row : row + side, column : column + side]
    terms = [
        f"{a:g}·{b:g}" if b > 0 else f"{a:g}·({b:g})"
        for a, b in zip(window.flat, kernel.flat, strict=True)
        if a != 0 and b != 0
    ]
    title = f"One output: {' + '.join(terms) or 0} = {feature_map[row, column]:g}"
    widths = [image.shape[1], side, feature_map.shape[1]]
    figure, axes = new_figure(8.5, 3.9, title, ncols=3, width_ratios=widths)
    output = np.zeros_like(feature_map, dtype=bool)
    output[row, column] = True
    inputs = np.zeros_like(image, dtype=bool)
    inputs[row : row + side, column : column + side] = True
    _draw_numbers(axes[0], image, inputs, "image")
    _draw_numbers(axes[1], kernel, np.ones_like(kernel, dtype=bool), "kernel")
    _draw_numbers(axes[2], feature_map, output, "feature map")
    return figure


def _draw_numbers(axis: Axes, numbers: np.ndarray, marked: np.ndarray, title: str) -> None:
    """Draw a grid of numbers. Marked cells are colored."""
    height, width = numbers.shape
    for (row, column), number in np.ndenumerate(numbers):
        color = LIGHT_ORANGE if marked[row, column] else "white"
        axis.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="gray"))
        axis.text(column + 0.5, row + 0.5, f"{number:g}", ha="center", va="center", fontsize=11)
    axis.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal", title=title)
    axis.axis("off")


@style.context("default")
def draw_receptive_field(model: nn.Module, last: str, title: str) -> Figure:
    """Draw in one dimension which positions of every layer reach one output.

    Layers that read a single position, such as 1x1 convolutions, are left out.

    Args:
        model: The model.
        last: The name of the layer with the output, such as "conv6".
        title: The title.

    Returns:
        The figure. Each row is a layer, the lowest one the image. Filled dots reach the output on
        top, and lines show what reads what.

    Raises:
        ValueError: If no layer on the main path has the name.
    """
    rows, reads = positions_read(model, last)
    names = [*rows]
    figure, axis = new_figure(9, 1.2 + 0.55 * len(rows), title)
    low, high = min(rows["image"]) - 3, max(rows["image"]) + 3
    for y, (name, positions) in enumerate(rows.items()):
        jump = reads[name][1] if name in reads else 1
        first = positions[0] - jump * np.floor((positions[0] - low) / jump)
        grid = np.arange(first, high + 1e-6, jump)
        axis.plot(grid, np.full(len(grid), y), "o", color="silver", fillstyle="none", zorder=2)
        axis.plot(positions, np.full(len(positions), y), "o", color=BLUE, zorder=3)
        if name in reads:
            for position, sources in reads[name][0].items():
                for source in sources:
                    axis.plot([position, source], [y, y - 1], color=BLUE, alpha=0.3, lw=1, zorder=1)
    width = max(rows["image"]) - min(rows["image"]) + 1
    axis.annotate(f"{width:.0f} pixels", (high, 0), (8, 0), textcoords="offset points", va="center")
    axis.set(xlabel="position (pixels)", xlim=(low - 1, high + 1), ylim=(-0.6, len(rows) - 0.4))
    axis.set_yticks(range(len(rows)), names)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    return figure


def positions_read(
    model: nn.Module, last: str
) -> tuple[dict[str, list[float]], dict[str, tuple[dict[float, list[float]], float]]]:
    """Return the positions of every layer that reach one output, in one dimension.

    Args:
        model: The model.
        last: The name of the layer with the output.

    Returns:
        For "image" and each layer with a kernel or stride over 1, from below, the positions in
        pixels that reach the output. For each layer, the positions that each of its outputs reads,
        and the distance between its outputs.

    Raises:
        ValueError: If no layer on the main path has the name.
    """
    path = layer_path(trace_layers(model))
    names = [layer.name for layer in path]
    if last not in names:
        raise ValueError(f"last={last} is not on the main path: {', '.join(names)}")
    path = path[: names.index(last) + 1]
    path = [layer for layer in path if layer.kernel[1] > 1 or layer.stride[1] > 1]
    positions = [0.0]
    rows, reads = {}, {}
    for layer in reversed(path):
        jump_in = float(layer.jump[1]) / layer.stride[1]
        offsets = np.arange(layer.kernel[1]) - (layer.kernel[1] - 1) / 2
        taps = offsets * layer.dilation[1] * jump_in
        rows[layer.name] = positions
        reads[layer.name] = {p: (p + taps).tolist() for p in positions}, float(layer.jump[1])
        positions = sorted(
            {source for sources in reads[layer.name][0].values() for source in sources}
        )
    rows["image"] = positions
    return dict(reversed(rows.items())), reads


@dataclass(frozen=True)
class Box:
    """A box of `draw_model`: a layer, or several equal ones.

    Attributes:
        kind: A key of COLORS.
        text: Kernel, channels, and what is special.
        size: Side of the output maps.
        field: Receptive field of an output in pixels.
        added: Whether its output is added to the output of an earlier layer.
        block: The part of the model that it belongs to, such as "block1".
        count: The number of equal layers.
    """

    kind: str
    text: str
    size: int
    field: int
    added: bool
    block: str
    count: int = 1


def list_boxes(model: nn.Module) -> list[Box]:
    """Return the layers on the main path as boxes. A separable convolution is one box.

    Args:
        model: The model, for images of 3x32x32.
    """
    layers = layer_path(trace_layers(model))
    boxes: list[Box] = []
    channels = 3
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        channels_in = channels
        groups = 1
        for name in layer.weights:
            shape = model.get_parameter(name).shape
            if len(shape) > 1:  # not the bias
                channels, groups = shape[0], channels_in // shape[1]
        added = following is not None and len(following.sources) > 1
        if layer.kind == "pointwise" and boxes and boxes[-1].kind == "separable convolution":
            box = boxes.pop()  # the depthwise half
            text = f"{box.text}, {channels}"
            box = replace(box, text=text, field=_side(layer.field), added=added)
        else:
            box = Box(
                _box_kind(layer),
                _describe_layer(layer, channels, groups),
                _side(layer.nout),
                _side(layer.field),
                added,
                layer.module.partition(".")[0],
            )
        boxes.append(box)
    merged: list[Box] = []
    for box in boxes:
        previous = merged[-1] if merged else None
        if previous and replace(previous, field=0, count=1) == replace(box, field=0):
            merged[-1] = replace(box, count=previous.count + 1)
        else:
            merged.append(box)
    return merged


def _side(size: Sequence[float]) -> int:
    """Return the width of (height, width)."""
    return int(size[1])


def _box_kind(layer: Layer) -> str:
    """Return the key of COLORS for a layer."""
    if layer.kind == "depthwise":
        return "separable convolution"
    if layer.kind in ("conv", "transposed conv") and max(layer.kernel) > 1:
        return "convolution"
    if layer.weights:
        return "1x1 convolution or linear"
    return "pooling"


def _describe_layer(layer: Layer, channels: int, groups: int) -> str:
    """Return kernel, channels, stride and dilation as text."""
    kernel = f"{layer.kernel[0]}x{layer.kernel[1]}"
    if layer.kind == "fc":
        return f"linear, {channels}"
    if layer.kind in ("gap", "gmp"):
        return "global average" if layer.kind == "gap" else "global maximum"
    if not layer.weights:
        return f"{layer.kind} {kernel}"
    text = f"{kernel} depthwise" if layer.kind == "depthwise" else f"{kernel}, {channels}"
    if layer.kind != "depthwise" and groups > 1:
        text += f", {groups} groups"
    if max(layer.dilation) > 1:
        text += f", dilation {layer.dilation[0]}"
    if max(layer.stride) > 1:
        text += f", stride {layer.stride[0]}"
    return text


@style.context("default")
def draw_model(model: nn.Module, name: str) -> Figure:
    """Draw the main path of a model as boxes, with map sizes and receptive fields.

    Args:
        model: The model, for images of 3x32x32.
        name: The name of the model, for the title.

    Returns:
        The figure. A higher box has larger feature maps, on a logarithmic scale. The numbers below
        the boxes are receptive fields in pixels.
    """
    boxes = list_boxes(model)
    figure, axis = new_figure(10, 4.6, f"{name}: layers, map sizes and receptive fields")
    heights = [2 + 0.4 * np.log2(box.size) for box in boxes]
    top = max(heights)
    for x, (box, height) in enumerate(zip(boxes, heights, strict=True)):
        corner = (x + 0.08, (top - height) / 2)
        axis.add_patch(
            Rectangle(corner, 0.84, height, facecolor=COLORS[box.kind], edgecolor="dimgray")
        )
        axis.text(x + 0.5, top / 2, box.text, rotation=90, ha="center", va="center", fontsize=9)
        above = [f"x{box.count}"] if box.count > 1 else []
        above += ["+"] if box.added else []
        axis.text(x + 0.5, (top + height) / 2 + 0.06, " ".join(above), ha="center", fontsize=10)
        axis.text(x + 0.5, -0.32, f"{box.field}", ha="center", va="center", fontsize=9, color=BLUE)
    axis.text(-0.15, -0.32, "receptive field", ha="right", va="center", fontsize=9, color=BLUE)
    axis.text(-0.15, -0.75, "feature maps", ha="right", va="center", fontsize=9, color=ORANGE)
    start = 0
    for x, box in enumerate(boxes):
        if x + 1 == len(boxes) or boxes[x + 1].size != box.size:
            axis.plot([start + 0.1, x + 0.9], [-0.55, -0.55], color=ORANGE)
            middle = (start + x + 1) / 2
            side = f"{box.size}x{box.size}"
            axis.text(middle, -0.75, side, ha="center", va="center", fontsize=9, color=ORANGE)
            start = x + 1
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=color, edgecolor="dimgray", label=kind)
        for kind, color in COLORS.items()
        if any(box.kind == kind for box in boxes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    axis.set(xlim=(-2.2, len(boxes) + 0.1), ylim=(-0.95, top + 0.45))
    axis.axis("off")
    return figure
