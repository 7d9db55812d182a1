"""Parameters, mult-adds and layer tables of a network, which is left untouched."""

import contextlib
import copy
import io

import torch
import torchinfo
import torchsummary


def parameter_count(model: torch.nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _copy(model: torch.nn.Module) -> torch.nn.Module:
    # torchsummary runs the network in the mode it is in, and in training mode that would change
    # what batch normalisation has learned.
    return copy.deepcopy(model).cpu().float().eval()


def torchinfo_table(model: torch.nn.Module) -> torchinfo.ModelStatistics:
    """torchinfo's table for an image of 3x32x32, with kernels and mult-adds; print it."""
    columns = ("input_size", "kernel_size", "output_size", "num_params", "trainable")
    image = torch.zeros(1, 3, 32, 32)  # given its size, torchinfo would draw a random one
    return torchinfo.summary(
        _copy(model), input_data=image, col_names=columns, device="cpu", verbose=0
    )


def mult_adds(model: torch.nn.Module) -> int:
    """Multiply-adds for one image of 3x32x32, as torchinfo counts them."""
    return torchinfo_table(model).total_mult_adds


def layer_table(model: torch.nn.Module) -> str:
    """torchsummary's table: every layer with its output shape and parameters."""
    text = io.StringIO()
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(text):
        torchsummary.summary(_copy(model), (3, 32, 32), device="cpu")
    return text.getvalue()
