"""The networks of the notebooks, one module each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.config import validate_choice
from helpers.device import copy_model, eval_mode, preserve_random_state
from helpers.files import format_error
from helpers.inspection.fingerprint import FunctionLog
from helpers.models.compact import Compact
from helpers.models.layers import DepthwiseSeparableConv
from helpers.models.resnet18 import ResNet18
from helpers.models.s7 import S7
from helpers.models.s7_dropout import S7Dropout
from helpers.models.s9 import S9
from helpers.models.s10 import CustomResNet

__all__ = [
    "MODELS",
    "S7",
    "S9",
    "Compact",
    "CustomResNet",
    "DepthwiseSeparableConv",
    "ResNet18",
    "S7Dropout",
    "get_model",
    "validate_model",
]

# Functions that build a model, by its name. A notebook may add its own.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "s7": S7,
    "s7_dropout": S7Dropout,
    "s9": S9,
    "compact": Compact,
    "s10": CustomResNet,
    "resnet18": ResNet18,
}


def get_model(name: str) -> nn.Module:
    """Return a new model.

    Args:
        name: A key of `MODELS`.

    Returns:
        The model with random weights.

    Raises:
        ValueError: If there is no such model, or `validate_model` refuses it.
    """
    build = MODELS[validate_choice("network", name, MODELS)]
    if isinstance(build, nn.Module):
        raise ValueError(
            f'MODELS["{name}"] is a network: give its class, for example {type(build).__name__}'
        )
    model = build()
    is_ours = type(model).__module__.startswith(f"{__name__}.")  # tested already
    return model if is_ours else validate_model(model)


def validate_model(model: nn.Module) -> nn.Module:
    """Check that a model can be trained here: its parameters, its input and its output.

    Args:
        model: The model. It runs once in evaluation mode, which initializes lazy layers. A copy
            of it takes a training step.

    Returns:
        The same model.

    Raises:
        ValueError: If the model does not map images (N, 3, 32, 32) to logits (N, 10) in float32,
            has no parameters, uses weights that are not among them, or cannot be trained.
    """
    name = type(model).__name__
    contract = "a network maps images (N, 3, 32, 32) to logits (N, 10), both float32"
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise ValueError(f"{contract}; {name} is compiled: give the network as it was before that")
    try:
        with eval_mode(model), FunctionLog() as log:
            logits = model(torch.zeros(2, 3, 32, 32))
    except Exception as error:  # the code of the model may raise anything
        raise ValueError(f"{contract}; {name} raises {format_error(error)}") from error

    unregistered = log.unregistered_weights(model)
    if unregistered:
        shape = tuple(unregistered[0].shape)
        raise ValueError(
            f"{name} uses weights of shape {shape} that are not among its parameters(): they "
            "would be neither trained nor saved. Use nn.Parameter, and nn.ModuleList for a list"
        )
    if not isinstance(logits, Tensor):
        raise ValueError(f"{contract}; {name} gives a {type(logits).__name__}")
    if logits.shape != (2, 10) or logits.dtype != torch.float32:
        dtype = str(logits.dtype).removeprefix("torch.")
        raise ValueError(f"{contract}; {name} gives {tuple(logits.shape)} {dtype} for 2 images")
    if (logits >= 0).all() and torch.allclose(logits.sum(dim=1), torch.ones(2), atol=1e-4):
        raise ValueError(
            f"{contract}; {name} returns probabilities: return logits, leave out softmax"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{name} has no parameters that require gradients: expected at least one. Add a layer "
            "such as nn.Conv2d or nn.Linear"
        )
    # Ghost batch normalization and the like need more than two images.
    error = _training_error(model, 2) and _training_error(model, 32)
    if error:
        raise ValueError(f"{name} cannot be trained: {error}")
    return model


def _training_error(model: nn.Module, num_images: int) -> str | None:
    """Return what goes wrong if a copy of a model takes a training step; None if nothing does."""
    try:
        model = copy_model(model).train()
        stored = {key: value.shape for key, value in model.state_dict().items()}
        with torch.enable_grad(), preserve_random_state():
            logits = model(torch.rand(num_images, 3, 32, 32))
            if not isinstance(logits, Tensor):
                return f"in training mode it gives a {type(logits).__name__}, not a tensor"
            if logits.shape != (num_images, 10):
                return f"in training mode it gives {tuple(logits.shape)} for {num_images} images"
            F.cross_entropy(logits, torch.zeros(num_images, dtype=torch.long)).backward()
        if stored != {key: value.shape for key, value in model.state_dict().items()}:
            return "a training step changes its parameters or buffers: create them in __init__"
    except Exception as error:  # the code of the model may raise anything
        return format_error(error)
    return None
