"""Parameters, mult-adds and layer tables of a network, which is left untouched."""

import contextlib
import copy
import io
import math
from collections import Counter

import pandas as pd
import torch
import torchinfo
import torchsummary

from tracing.layers import layers


def parameter_count(model: torch.nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _copy(model: torch.nn.Module) -> torch.nn.Module:
    # torchsummary runs the network in the mode it is in, and in training mode that would change
    # what batch normalisation has learned.
    return copy.deepcopy(model).cpu().float().eval()


def _statistics(model: torch.nn.Module) -> torchinfo.ModelStatistics:
    columns = ("input_size", "kernel_size", "output_size", "num_params", "trainable")
    # Given its size alone, torchinfo would draw a random image.
    options = {"col_names": columns, "col_width": 16, "device": "cpu", "verbose": 0}
    return torchinfo.summary(_copy(model), input_data=torch.zeros(1, 3, 32, 32), **options)


def torchinfo_table(model: torch.nn.Module) -> str:
    """torchinfo's table for an image of 3x32x32, with kernels and mult-adds."""
    return str(_statistics(model)).replace("(Units.MEGABYTES)", "(millions)")


def mult_adds(model: torch.nn.Module) -> int:
    """Multiply-adds for one image of 3x32x32, as torchinfo counts them."""
    return _statistics(model).total_mult_adds


def shares(model: torch.nn.Module) -> pd.DataFrame:
    """Each layer's share of the parameters and of the multiply-adds, in %, by its name.

    What they lack of 100 % is batch normalisation's. Layers of the same parameters share them.
    """
    rows, found = {}, layers(model)
    uses = Counter(layer.module for layer in found)
    for layer in found:
        own = sum(p.numel() for p in model.get_submodule(layer.module).parameters(recurse=False))
        rows[layer.name] = [own / uses[layer.module], own * math.prod(layer.nout)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["parameters", "multiply-adds"])
    return 100 * table[table.any(axis=1)] / [parameter_count(model), mult_adds(model)]


def layer_table(model: torch.nn.Module) -> str:
    """torchsummary's table: every layer with its output shape and parameters."""
    text = io.StringIO()
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(text):
        torchsummary.summary(_copy(model), (3, 32, 32), device="cpu")
    return text.getvalue()
