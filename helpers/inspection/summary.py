"""Parameters, multiply-adds and layer tables of a model.

The model is left unchanged: a copy of it runs.
"""

import contextlib
import copy
import io
import math
from collections import Counter

import pandas as pd
import torch
import torchinfo
import torchsummary
from torch import nn

from helpers.inspection.tracer import trace_layers


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


def count_mult_adds(model: nn.Module) -> int:
    """Return the number of multiply-adds for one image of 3x32x32, as torchinfo counts them."""
    return _torchinfo_statistics(model).total_mult_adds


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

    Args:
        model: The model, for images of 3x32x32.
    """
    return str(_torchinfo_statistics(model)).replace("(Units.MEGABYTES)", "(millions)")


def layer_cost_percentages(model: nn.Module) -> pd.DataFrame:
    """Return each layer's percentage of the parameters and of the multiply-adds.

    Args:
        model: The model, for images of 3x32x32.

    Returns:
        A table with a row for each layer that has parameters, and the columns "parameters" and
        "multiply-adds" in %. Batch normalization accounts for what is missing to 100 %. Layers
        that use the same parameters share their percentage evenly.
    """
    layers = trace_layers(model)
    uses = Counter(layer.module for layer in layers)
    costs = {}
    for layer in layers:
        module = model.get_submodule(layer.module)
        params = sum(p.numel() for p in module.parameters(recurse=False))
        costs[layer.name] = [params / uses[layer.module], params * math.prod(layer.nout)]
    columns = ["parameters", "multiply-adds"]
    table = pd.DataFrame.from_dict(costs, orient="index", columns=columns)
    has_parameters = table.any(axis=1)
    return 100 * table[has_parameters] / [count_parameters(model), count_mult_adds(model)]


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
    return copy.deepcopy(model).cpu().float().eval()
