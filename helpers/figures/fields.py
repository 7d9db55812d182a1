"""What a network sees of an image, block by block: by the table, in effect, and as a picture."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from helpers.anatomy.receptive_field import main_path
from helpers.devices import laid_out
from helpers.figures.plots import ORANGE, empty_figure
from tracing.layers import Layer, layers


def maps(model: nn.Module, module: str, inputs: Tensor) -> Tensor:
    """What a module of the network gives out, (N, C, H, W), for normalised images (N, 3, 32, 32).

    A copy is run, in float32, in evaluation mode and on the CPU. Raises AttributeError where there
    is no such module.
    """
    network, kept = copy.deepcopy(model).float().cpu().eval(), []
    network.get_submodule(module).register_forward_hook(lambda *x: kept.append(x[-1].clone()))
    network(laid_out(inputs, network))
    return kept[0]


def effective(model: nn.Module, module: str, inputs: Tensor) -> np.ndarray:
    """How much each pixel moves the middle of a module's maps: mean absolute gradient (32, 32).

    The mean is over normalised images (N, 3, 32, 32) and colours (W. Luo et al., arXiv:1701.04128).
    """
    inputs = inputs.detach().requires_grad_()
    found = maps(model, module, inputs)
    middle = found[:, :, found.shape[2] // 2, found.shape[3] // 2]
    [gradient] = torch.autograd.grad(middle.sum(), inputs)
    return gradient.abs().mean((0, 1)).numpy()


def nominal(found: list[Layer], module: str) -> np.ndarray:
    """The square that the middle of a module's maps sees by the table: top, left, height, width.

    In pixels; it may reach beyond the image.
    """
    *_, last = (x for x in main_path(found) if f"{x.module}.".startswith(f"{module}."))
    return np.array([*last.corner, *last.field], float)


def growth(
    model: nn.Module, modules: Sequence[str], image: np.ndarray, inputs: Tensor, title: str
) -> Figure:
    """How the view grows from module to module: the nominal square, and what counts within it.

    Above, the square lies on an image (32, 32, 3); below, the effective field over normalised
    images (N, 3, 32, 32) is bright where it is strong, each scaled to its own maximum.
    """
    figure, axes = empty_figure(10, 5.4, title, nrows=2, ncols=len(modules), squeeze=False)
    found = layers(model)
    squares = [nominal(found, module) for module in modules]
    reach = max(squares[-1][2:]) / 2 + 8  # as the squares lie a little beside the middle
    for (above, below), module, square in zip(axes.T, modules, squares, strict=True):
        top, left, height, width = square
        above.imshow(image)
        below.imshow(effective(model, module, inputs))
        for axis, ends in ((above, (16 - reach, 16 + reach)), (below, (-0.5, 31.5))):
            corner = left - 0.5, top - 0.5  # a pixel's own corner
            axis.add_patch(Rectangle(corner, width, height, fill=False, color=ORANGE, lw=2))
            axis.set(xlim=ends, ylim=ends[::-1])
        above.set_title(f"{module}: {height:.0f}x{width:.0f}", fontsize=10)
        below.set_xlabel("column (pixels)")
    axes[0, 0].set_ylabel("nominal field\nrow (pixels)")
    axes[1, 0].set_ylabel("effective field\nrow (pixels)")
    return figure
