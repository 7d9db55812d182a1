"""Activations of a module, and its theoretical and effective receptive field in the image."""

import numpy as np
import torch
from torch import Tensor, nn

from helpers.device import copy_model, match_memory_format
from helpers.inspection.receptive_field_table import layer_path
from helpers.inspection.tracer import Layer


def get_activations(model: nn.Module, module: str, inputs: Tensor) -> Tensor:
    """Return the output of a module of the model.

    A copy of the model runs on the CPU, in float32 and in evaluation mode. Gradients flow back to
    `inputs` if it requires them.

    Args:
        model: The model.
        module: Name of one of its modules, such as "block1" or "layer4.0".
        inputs: Normalized images (N, 3, 32, 32).

    Returns:
        The output of the module, (N, C, H, W) for feature maps.

    Raises:
        AttributeError: If the model has no such module.
    """
    model = copy_model(model).float().cpu().eval()
    outputs = []
    # Clone, because an in-place operation after the module may overwrite its output.
    model.get_submodule(module).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.clone())
    )
    model(match_memory_format(inputs, model))
    return outputs[0]


def effective_receptive_field(model: nn.Module, module: str, inputs: Tensor) -> np.ndarray:
    """Measure how strongly each pixel influences the center of a module's feature maps.

    The influence is the absolute gradient of the central value, summed over the channels of the
    module (W. Luo et al., arXiv:1701.04128).

    Args:
        model: The model.
        module: Name of one of its modules.
        inputs: Normalized images (N, 3, 32, 32).

    Returns:
        The absolute gradient (32, 32), averaged over the images and colors.

    Raises:
        AttributeError: If the model has no such module.
    """
    inputs = inputs.detach().requires_grad_()
    maps = get_activations(model, module, inputs)
    center = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    [gradient] = torch.autograd.grad(center.sum(), inputs)
    return gradient.abs().mean((0, 1)).numpy()


def theoretical_receptive_field(layers: list[Layer], module: str) -> np.ndarray:
    """Return the receptive field of the center of a module's feature maps as a rectangle.

    Args:
        layers: The layers of the model, from `trace_layers`.
        module: Name of a module. Its last layer on the path to the output counts.

    Returns:
        Top, left, height and width in pixels. The rectangle may exceed the image.
    """
    path = [x for x in layer_path(layers) if f"{x.module}.".startswith(f"{module}.")]
    return np.array([*path[-1].corner, *path[-1].field], float)
