"""The networks of the series, one file each; `MODELS` maps their names to constructors."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.files import line
from helpers.models.compact import Compact
from helpers.models.resnet18 import ResNet18
from helpers.models.s7 import S7
from helpers.models.s7_dropout import S7Dropout
from helpers.models.s9 import S9
from helpers.models.s10 import CustomResNet
from helpers.settings import one_of
from tracing.layers import at_rest
from tracing.order import Calls

MODELS: dict[str, Callable[[], nn.Module]] = {
    "s7": S7, "s7_dropout": S7Dropout, "s9": S9,
    "compact": Compact, "s10": CustomResNet, "resnet18": ResNet18,
}  # fmt: skip
EXPECTED = "a network maps images (N, 3, 32, 32) to logits (N, 10), both float32"
REMEDY = "they would be neither trained nor kept: use an nn.Parameter, and nn.ModuleList for a list"


def build(name: str) -> nn.Module:
    """A freshly initialised network, one of MODELS.

    Raises ValueError where there is none, or it does not map (N, 3, 32, 32) to (N, 10).
    """
    return checked(MODELS[one_of("network", name, MODELS)]())


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
