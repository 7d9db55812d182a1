"""What a network executes, in this order: its modules, and PyTorch's functions."""

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from tracing.layers import at_rest


def executed(model: nn.Module) -> list[nn.Module]:
    """The modules in the order in which an image meets them, each once."""
    order = {}
    hook = register_module_forward_pre_hook(lambda module, _: order.setdefault(module))
    try:
        with at_rest(model):
            model(_images(model))
    finally:
        hook.remove()
    return list(order)


# They tell something of a tensor and change none; PyTorch's own modules ask now one, now another.
QUESTIONS = {"__get__", "dim", "size", "numel", "__len__"}


class Calls(TorchFunctionMode):
    """Notes what is called of PyTorch: `functions`, and the `weights` that they are given.

    A function is noted as its name and its arguments, a tensor among these as its shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[str] = []
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None):
        """Note a function, and call it."""
        given = args, kwargs or {}
        self.weights += [value for value in tree_leaves(given) if _is_weight(value)]
        if func.__name__ not in QUESTIONS:
            plain = tree_map(_plain, given)
            self.functions.append(without_addresses(f"{func.__name__}{plain}"))
        return func(*args, **given[1])

    def strays(self, model: nn.Module) -> list[Tensor]:
        """The weights among the arguments that the network does not know to be its own."""
        known = {id(parameter) for parameter in model.parameters()}
        return [weight for weight in self.weights if id(weight) not in known]


def traits(model: nn.Module) -> list[str]:
    """What tells a network from another: its weights' shapes, and all that it calls of PyTorch.

    So an edit is seen wherever it is, in a class, a function or a constant, and also what acts in
    training only; comments and versions of PyTorch make no difference.
    """
    twin = copy.deepcopy(model)  # whose running averages may change
    shapes = [f"{name} {_plain(values)}" for name, values in twin.state_dict().items()]
    with at_rest(twin), Calls() as calls:
        for training in (False, True):
            twin.train(training)
            twin(_images(twin))
    return shapes + calls.functions


def without_addresses(text: str) -> str:
    """The text without the addresses of objects, which no other process has."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", text)


def _is_weight(value: Any) -> bool:
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.requires_grad)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "lazy" if is_lazy(value) else tuple(value.shape)
    return value


def _images(model: nn.Module) -> Tensor:
    return torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
