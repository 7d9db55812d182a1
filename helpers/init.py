"""Weight initialization that saves epochs and changes no parameter count.

Source: K. Jordan, arXiv:2404.00498.
"""

import torch
from torch import Tensor, nn

from helpers.data import ImageData
from helpers.inspection import execution_order
from helpers.optim import TrainConfig


def initialize_(model: nn.Module, config: TrainConfig, data: ImageData) -> None:
    """Set the dropout and the initial weights of a new model as the configuration asks.

    Args:
        model: The model, changed in place.
        config: Gives `dropout`, `dirac_init` and `whitening_init`.
        data: Provides the patches for whitening.
    """
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = config.dropout
    if config.dirac_init:
        dirac_init_(model)
    if config.whitening_init:
        convs = [module for module in execution_order(model) if isinstance(module, nn.Conv2d)]
        if convs and convs[0].in_channels == 3 and convs[0].groups == 1:
            images = torch.from_numpy(data.train_images[:2_000]).permute(0, 3, 1, 2)
            whitening_init_(convs[0], data.normalize(images))


@torch.no_grad()
def whitening_init_(conv: nn.Conv2d, images: Tensor, epsilon: float = 1e-2) -> None:
    """Set a convolution's filters to whitened principal components of image patches.

    Each filter projects onto one principal component, scaled to unit variance. The second half are
    the negatives of the first. Filters beyond 2x the number of components keep their values.

    Args:
        conv: The first convolution of a model, changed in place.
        images: Normalized images (N, C, H, W) float32.
        epsilon: Added to the variances, so that weak components are not amplified without limit.
    """
    patches = nn.functional.unfold(images, conv.kernel_size, conv.dilation)
    patches = patches.transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh(torch.cov(patches.T))
    filters = (components / (variances + epsilon).sqrt()).T.flip(0)
    filters = torch.cat([filters, -filters])[: conv.out_channels]
    conv.weight[: len(filters)] = filters.view(-1, *conv.weight.shape[1:])


@torch.no_grad()
def dirac_init_(model: nn.Module) -> None:
    """Let the first filters of every ungrouped convolution pass their inputs through.

    The last convolution or linear layer, which computes the logits, is left as it is.

    Args:
        model: The model, changed in place.
    """
    layers = [m for m in execution_order(model) if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            nn.init.dirac_(layer.weight[: layer.in_channels])
