"""What any network goes through before it is used: checked, and put in place."""

import torch
from torch import Tensor, nn

from tracing.layers import at_rest
from tracing.order import Calls

EXPECTED = "a network maps images (N, 3, 32, 32) to logits (N, 10), both float32"
REMEDY = "they would be neither trained nor kept; put modules into an nn.ModuleList, not a list"


def checked(model: nn.Module) -> nn.Module:
    """The network, with its lazy layers filled in. ValueError where it does not do as EXPECTED.

    The same where it uses weights that PyTorch does not know to be its own.
    """
    try:
        with at_rest(model), Calls() as calls:
            logits = model(torch.zeros(2, 3, 32, 32))
    except Exception as error:  # a network of anybody's
        raise ValueError(f"{EXPECTED}; {type(model).__name__} raises {line(error)}") from error
    if strays := calls.strays(model):
        found = f"weights of shape {tuple(strays[0].shape)} that are not among its parameters()"
        raise ValueError(f"{type(model).__name__} uses {found}: {REMEDY}")
    if not isinstance(logits, Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.shape != (2, 10) or logits.dtype != torch.float32:
        found = f"{tuple(logits.shape)} {logits.dtype} for 2 images".replace("torch.", "")
    else:
        return model
    raise ValueError(f"{EXPECTED}; {type(model).__name__} gives {found}")


def line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, channels last in memory where its `forward` allows that.

    Channels last is what convolutions are fast with; `view` refuses it, and on Macs PyTorch's
    gradients of it are wrong up to version 2.13 at least (its issues 175189 and 175190).
    """
    if device.type == "mps":
        return model.to(device)
    model.to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
    try:
        with at_rest(model):
            model(laid_out(images, model))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
    return model.to(device)


def laid_out(images: Tensor, model: nn.Module) -> Tensor:
    """Images (N, 3, H, W) in memory as the weights of the network are."""
    last = any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
