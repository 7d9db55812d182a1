"""The networks of the series, one file each; `MODELS` maps their names to constructors."""

from collections.abc import Callable

from torch import nn

from helpers.models.compact import Compact
from helpers.models.resnet18 import ResNet18
from helpers.models.s7 import S7
from helpers.models.s7_dropout import S7Dropout
from helpers.models.s9 import S9
from helpers.models.s10 import CustomResNet
from helpers.networks import checked
from helpers.settings import one_of

MODELS: dict[str, Callable[[], nn.Module]] = {
    "s7": S7, "s7_dropout": S7Dropout, "s9": S9,
    "compact": Compact, "s10": CustomResNet, "resnet18": ResNet18,
}  # fmt: skip


def build(name: str) -> nn.Module:
    """A freshly initialised network, one of MODELS.

    Raises ValueError where there is none, or it does not map (N, 3, 32, 32) to (N, 10).
    """
    return checked(MODELS[one_of("network", name, MODELS)]())
