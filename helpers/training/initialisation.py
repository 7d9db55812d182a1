"""Weights to start from that save epochs and change no count (K. Jordan, arXiv:2404.00498)."""

import torch
from torch import Tensor, nn

from helpers.images.data import ImageData
from helpers.training.recipes import Recipe
from tracing.order import executed


def start_(model: nn.Module, recipe: Recipe, data: ImageData) -> None:
    """Give a new network the dropout and the starting weights that the recipe asks for."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) and recipe.dropout is not None:
            module.p = recipe.dropout
    if recipe.identity:
        identity_(model)
    first = next((module for module in executed(model) if isinstance(module, nn.Conv2d)), None)
    if recipe.whitened and first and (first.in_channels, first.groups) == (3, 1):
        images = torch.from_numpy(data.train_images[:2_000]).permute(0, 3, 1, 2)
        whiten_(first, data.normalise(images))


@torch.no_grad()
def whiten_(conv: nn.Conv2d, images: Tensor, epsilon: float = 1e-2) -> None:
    """Set a first convolution's filters to the whitened principal patches and their negatives.

    Each then answers to one direction of the patches of `images`, (N, C, H, W) float32 and
    normalised, with unit variance; filters beyond twice the directions keep what they have.
    """
    patches = nn.functional.unfold(images, conv.kernel_size, conv.dilation)
    patches = patches.transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    filters = (directions / (variances + epsilon).sqrt()).T.flip(0)
    filters = torch.cat([filters, -filters])[: conv.out_channels]
    conv.weight[: len(filters)] = filters.view(-1, *conv.weight.shape[1:])


@torch.no_grad()
def identity_(model: nn.Module) -> None:
    """Let the first filters of every ungrouped convolution pass their inputs through.

    The last one that is executed, which gives the classes, is left alone.
    """
    weighted = [m for m in executed(model) if isinstance(m, nn.Conv2d | nn.Linear)]
    for conv in weighted[:-1]:
        if isinstance(conv, nn.Conv2d) and conv.groups == 1:
            nn.init.dirac_(conv.weight[: conv.in_channels])
