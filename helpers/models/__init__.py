"""The networks of the series, one file each; `MODELS` maps their names to constructors."""

from collections.abc import Callable

from torch import nn

from helpers.models.compact import Compact
from helpers.models.resnet18 import ResNet18
from helpers.models.s7 import S7
from helpers.models.s7_dropout import S7Dropout
from helpers.models.s9 import S9
from helpers.models.s10 import CustomResNet
from helpers.settings import one_of

MODELS: dict[str, Callable[[], nn.Module]] = {
    "s7": S7, "s7_dropout": S7Dropout, "s9": S9,
    "compact": Compact, "s10": CustomResNet, "resnet18": ResNet18,
}  # fmt: skip


def build(name: str) -> nn.Module:
    """A freshly initialised network for 3x32x32 images; ValueError lists those there are."""
    return MODELS[one_of("network", name, MODELS)]()
