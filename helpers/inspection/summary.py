"""Parameters, multiply-adds and layer tables of a model.

The model is left unchanged: a copy of it runs.
"""

import contextlib
import io
import re
from collections import Counter

import pandas as pd
import torch
import torchinfo
import torchsummary
from torch import nn

from helpers.device import copy_model
from helpers.inspection.tracer import NotUnderstoodError, trace


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_mult_adds(model: nn.Module) -> int:
    """Return the number of multiply-adds for one image of 3x32x32, as torchinfo counts them.

    They are counted from the operations as they run, so weights that are computed, as by
    `weight_norm`, and functions in place of modules count as well.

    Raises:
        NotUnderstoodError: If the model cannot be traced.
    """
    return trace(model).mult_adds


# Two libraries, as the assignments print torchsummary's table, which has no multiply-adds.


def torchsummary_text(model: nn.Module) -> str:
    """Return torchsummary's table: the output shape and the parameters of each layer.

    Args:
        model: The model, for images of 3x32x32.
    """
    text = io.StringIO()
    # torchsummary draws a random image and prints its table.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(text):
        torchsummary.summary(_copy_for_summary(model), (3, 32, 32), device="cpu")
    return text.getvalue()


def torchinfo_text(model: nn.Module) -> str:
    """Return torchinfo's table: shapes, kernels, parameters, and the multiply-adds in total.

    The total is that of `count_mult_adds`, as torchinfo misses weights that are computed.

    Args:
        model: The model, for images of 3x32x32.
    """
    try:
        total = f"{count_mult_adds(model) / 1e6:,.2f}"
    except NotUnderstoodError:
        total = "not counted"
    table = str(_torchinfo_statistics(model))
    return re.sub(r"Total mult-adds .*", f"Total mult-adds (millions): {total}", table)


def layer_cost_percentages(model: nn.Module) -> pd.DataFrame:
    """Return each layer's percentage of the parameters and of the multiply-adds.

    Args:
        model: The model, for images of 3x32x32.

    Returns:
        A table with a row for each layer that has parameters, and the columns "parameters" and
        "multiply-adds" in %. Batch normalization accounts for what is missing to 100 %. Layers
        that use the same parameters share their percentage evenly.
    """
    traced = trace(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    uses = Counter(name for layer in traced.layers for name in layer.weights)
    costs = {}
    for layer in traced.layers:
        if layer.weights:
            params = sum(sizes[name] / uses[name] for name in layer.weights)
            costs[layer.name] = [params, layer.mult_adds]
    columns = ["parameters", "multiply-adds"]
    table = pd.DataFrame.from_dict(costs, orient="index", columns=columns)
    return 100 * table / [count_parameters(model), traced.mult_adds]


def block_cost_percentages(model: nn.Module) -> pd.DataFrame:
    """Return each block's percentage of the parameters and of the multiply-adds.

    Args:
        model: The model, for images of 3x32x32.

    Returns:
        The rows of `layer_cost_percentages`, added up for each attribute of the model, such as
        "block1".
    """
    blocks = {layer.name: layer.module.partition(".")[0] for layer in trace(model).layers}
    costs = layer_cost_percentages(model)
    return costs.groupby([blocks[name] or "model" for name in costs.index], sort=False).sum()


def _torchinfo_statistics(model: nn.Module) -> torchinfo.ModelStatistics:
    """Run torchinfo on one image of 3x32x32."""
    return torchinfo.summary(
        _copy_for_summary(model),
        input_data=torch.zeros(1, 3, 32, 32),  # with `input_size` it would draw a random image
        col_names=("input_size", "kernel_size", "output_size", "num_params", "trainable"),
        col_width=16,
        device="cpu",
        verbose=0,
    )


def _copy_for_summary(model: nn.Module) -> nn.Module:
    """Return a copy in float32, on the CPU and in evaluation mode.

    torchsummary would run the model in training mode and change its batch normalization.
    """
    return copy_model(model).cpu().float().eval()
