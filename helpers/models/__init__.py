"""The networks of the series, one file each; `MODELS` maps their names to constructors."""

from collections.abc import Callable

from torch import nn

from helpers.models.resnet18 import ResNet18
from helpers.models.s7 import S7
from helpers.models.s7_dropout import S7Dropout
from helpers.models.s9 import S9
from helpers.models.s10 import CustomResNet

MODELS: dict[str, Callable[[], nn.Module]] = {
    "s7": S7,
    "s7_dropout": S7Dropout,
    "s9": S9,
    "s10": CustomResNet,
    "resnet18": ResNet18,
}


def build(name: str) -> nn.Module:
    """Return a freshly initialised network for 3x32x32 images and 10 classes.

    Raises:
        KeyError: no network has that name; the message lists those there are.
    """
    if name not in MODELS:
        raise KeyError(f"no network is called {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]()
