"""What any network goes through before it is used: read from a file, checked, put in place."""

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tracing.layers import at_rest

EXPECTED = "a network maps images (N, 3, 32, 32) to logits (N, 10), both float32"


def from_file(place: str) -> nn.Module:
    """A new network of the class at "folder/file.py:Class"; the file is executed.

    Raises ValueError where the file, the class or its construction without arguments fails.
    """
    path, _, name = place.rpartition(":")
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{place}: there is no such file; expected FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
        model = getattr(module, name)()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place} cannot be built: {_line(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{place} gives a {type(model).__name__}; expected a torch.nn.Module")
    return model


def checked(model: nn.Module) -> nn.Module:
    """The network, with its lazy layers filled in. ValueError where it does not do as EXPECTED."""
    try:
        with at_rest(model):
            logits = model(torch.zeros(2, 3, 32, 32))
    except Exception as error:  # a network of anybody's
        raise ValueError(f"{EXPECTED}; {type(model).__name__} raises {_line(error)}") from error
    if not isinstance(logits, Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.shape != (2, 10) or logits.dtype != torch.float32:
        found = f"{tuple(logits.shape)} {logits.dtype} for 2 images".replace("torch.", "")
    else:
        return model
    raise ValueError(f"{EXPECTED}; {type(model).__name__} gives {found}")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def executed(model: nn.Module) -> list[nn.Module]:
    """The modules in the order in which an image meets them, each once."""
    order = {}
    hook = register_module_forward_pre_hook(lambda module, _: order.setdefault(module))
    try:
        with at_rest(model):
            model(torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device))
    finally:
        hook.remove()
    return list(order)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, channels last in memory where its `forward` allows that.

    Channels last is what convolutions are fast with; `view` refuses it.
    """
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
