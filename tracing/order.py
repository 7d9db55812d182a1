"""What a network executes, in this order: its modules, and PyTorch's functions."""

import contextlib
import re
from collections.abc import Callable, Iterable
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


# Unless they give a tensor, as x.mT does, they change nothing; PyTorch's own modules ask now one,
# now another.
QUESTIONS = {"__get__", "dim", "size", "numel", "__len__"}


class Calls(TorchFunctionMode):
    """Notes what is called of PyTorch: `functions`, and the `weights` that they are given.

    A function is noted as its name and its arguments, a tensor among these as its shape and where
    it comes from: the number of the call that made it or, of the tensors `named`, its name.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]] = ()) -> None:
        super().__init__()
        self.functions: list[str] = []
        self.weights: list[Tensor] = []
        self.made: list[Any] = []  # and kept, so that no other tensor gets the identity of one
        self.origins = {id(tensor): name for name, tensor in named}

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None):
        """Note a function, and call it."""
        given = args, kwargs or {}
        self.weights += [value for value in tree_leaves(given) if _is_weight(value)]
        noted = without_addresses(f"{func.__name__}{tree_map(self._plain, given)}")
        made = func(*args, **given[1])
        self.made += tree_leaves(made)
        if func.__name__ not in QUESTIONS or isinstance(made, Tensor):
            for place, value in enumerate(tree_leaves(made)):
                self.origins[id(value)] = f"{len(self.functions)}.{place}"
            self.functions.append(noted)
        return made

    def _plain(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return "lazy" if is_lazy(value) else (*value.shape, self.origins.get(id(value)))

    def strays(self, model: nn.Module) -> list[Tensor]:
        """The weights among the arguments that the network does not know to be its own."""
        # A view of a parameter wants gradients as well.
        known = {id(tensor) for tensor in (*model.parameters(), *self.made)}
        return [weight for weight in self.weights if id(weight) not in known]


def traits(make: Callable[[], nn.Module]) -> list[str]:
    """What tells a network from another: its weights, buffers, and calls of PyTorch.

    It is made anew, and looks at two images in evaluation and in training. So an edit is seen
    wherever it is, in a class, a function or a constant, and comments make no difference. What is
    not seen: how random weights are drawn, and a probability that Python alone deals with.
    """
    model = make().eval()
    calls = Calls([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad(), calls:
        model(_images(model))  # which fills lazy layers in
    found = []
    for name, numbers in model.named_buffers():
        # In an order, but not to the last digit, in which machines differ.
        in_order = numbers.double().flatten() * torch.linspace(1, 2, numbers.numel())
        found.append(f"{name} {tuple(numbers.shape)} {in_order.norm():.3g}")
    for name, weights in model.named_parameters():
        first = weights.detach().flatten()[:1]
        # Random numbers may be others in another version of PyTorch.
        start = first.tolist() if (weights == first).all() else "random"
        found.append(f"{name} {tuple(weights.shape)} {weights.requires_grad} {start}")
    model.train()
    with contextlib.suppress(Exception), calls:  # for some networks, two images are too few
        model(_images(model))
    return found + calls.functions


def without_addresses(text: str) -> str:
    """The text without the addresses of objects, which no other process has."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", text)


def _is_weight(value: Any) -> bool:
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.requires_grad)


def _images(model: nn.Module) -> Tensor:
    return torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
