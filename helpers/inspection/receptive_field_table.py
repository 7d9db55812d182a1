"""The receptive field of a model, and the table of its growth layer by layer."""

import pandas as pd
from torch import nn

from helpers.inspection.receptive_field import Pair
from helpers.inspection.tracer import Layer, trace_layers


def format_size(size: Pair) -> int | str:
    """Return one number for a square and text for a rectangle.

    Args:
        size: Height and width.

    Returns:
        For example 3 for (3, 3) and "7x1" for (7, 1).
    """
    height, width = size
    return height if height == width else f"{height}x{width}"


def layer_path(layers: list[Layer]) -> list[Layer]:
    """Return the layers on the path from the image to the output.

    Where branches meet, the path follows the branch with the largest receptive field. Shortcuts,
    smaller branches and gates are not on the path.

    Args:
        layers: The layers of a model, from `trace_layers`.

    Returns:
        The layers on the path, in the order of execution.
    """
    by_name = {layer.name: layer for layer in layers}
    ends = [layer.name for layer in layers if layer.is_output]
    ends += [layer.name for layer in reversed(layers) if not layer.gate]
    name = ends[0] if ends else None
    path = []
    while name in by_name:
        path.insert(0, by_name[name])
        name = by_name[name].source
    return path


def receptive_field(model: nn.Module) -> tuple[Pair, Pair]:
    """Return the receptive field of a model before and including the global pooling.

    A layer that flattens feature maps counts as a global pooling. What gates see, such as those of
    squeeze-and-excitation, does not count. If outputs differ, as after an upsampling, the largest
    receptive field counts.

    Args:
        model: The model, for images of 3x32x32.

    Returns:
        Height and width in pixels of the receptive field of the input of the last global pooling,
        and of the receptive field of the output.

    Raises:
        NotUnderstoodError: If an operation mixes pixels in an unknown way.
    """
    return receptive_field_of(trace_layers(model))


def receptive_field_of(layers: list[Layer]) -> tuple[Pair, Pair]:
    """Return the same as `receptive_field`, for layers that are traced already.

    Args:
        layers: The layers of a model, from `trace_layers`.

    Returns:
        Height and width in pixels, before and including the last global pooling.
    """
    main = [layer for layer in layers if not layer.gate]
    including = (max(layer.field[0] for layer in main), max(layer.field[1] for layer in main))
    inputs_of_poolings = [
        layer.field_in
        for layer in main
        if layer.kind in ("gap", "gmp") or (layer.kind == "fc" and max(layer.nin) > 1)
    ]
    before = inputs_of_poolings[-1] if inputs_of_poolings else including
    return before, including


def receptive_field_table(model: nn.Module, modules: bool = False) -> pd.DataFrame:
    """Return the receptive field layer by layer, as the assignments print it.

    Args:
        model: The model, for images of 3x32x32.
        modules: Whether a column `module` names the module of each layer.

    Returns:
        A table with a row for the input and for each layer. Columns: input size `Nin`, kernel `k`
        with its dilation, padding `p`, stride `s`, output size `Nout`, distance `Jout` in pixels
        between neighboring outputs, receptive field `Rout`. Rectangles are texts such as "7x1".

    Raises:
        NotUnderstoodError: If an operation mixes pixels in an unknown way.
    """
    return trace_table(trace_layers(model), modules)


def trace_table(layers: list[Layer], modules: bool = False) -> pd.DataFrame:
    """Return the same as `receptive_field_table`, for layers that are traced already.

    Args:
        layers: The layers of a model, from `trace_layers`.
        modules: Whether a column `module` names the module of each layer.
    """
    rows = {"input": [0, 0, 0, 0, format_size(layers[0].nin), 1, 1]}
    for layer in layers:
        sizes = (
            layer.nin,
            layer.span,
            layer.padding,
            layer.stride,
            layer.nout,
            layer.jump,
            layer.field,
        )
        rows[layer.name] = [format_size(size) for size in sizes]
    columns = ["Nin", "k", "p", "s", "Nout", "Jout", "Rout"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("layer")
    if modules:
        table["module"] = ["", *(layer.module for layer in layers)]
    return table
