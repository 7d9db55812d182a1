"""What a network executes, in this order: its modules, and PyTorch's functions."""

import contextlib
import inspect
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


class Calls(TorchFunctionMode):
    """Notes what is called of PyTorch: `functions`, and the `parameters` that they are given.

    A function is noted as its name and its arguments, a tensor among these as its shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[str] = []
        self.parameters: list[nn.Parameter] = []

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None):
        """Note a function, and call it."""
        given = args, kwargs or {}
        self.parameters += [v for v in tree_leaves(given) if isinstance(v, nn.Parameter)]
        plain = tree_map(_plain, given)
        # Without the addresses of objects, which no other process has.
        self.functions.append(re.sub(" at 0x[0-9a-f]+", "", f"{func.__name__}{plain}"))
        return func(*args, **given[1])

    def strays(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters among the arguments that the network does not know to be its own."""
        known = {id(parameter) for parameter in model.parameters()}
        return [parameter for parameter in self.parameters if id(parameter) not in known]


def traits(model: nn.Module) -> list[str]:
    """What tells a network from another: its modules, its classes' code, and all that it calls.

    The calls show what stands elsewhere, such as a constant; the code what acts in training only.
    """
    with at_rest(model), Calls() as calls:
        model(_images(model))
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    own = (cls for cls in classes if not cls.__module__.startswith(("torch.", "torchvision.")))
    sources = []
    for function in (f for cls in own for f in vars(cls).values() if inspect.isfunction(f)):
        with contextlib.suppress(OSError):  # what was typed into a session may be lost
            sources.append(inspect.getsource(function))
    return [str(model), *sorted(sources), *calls.functions]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "lazy" if is_lazy(value) else tuple(value.shape)
    return value


def _images(model: nn.Module) -> Tensor:
    return torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
