"""What a model executes: the order of its modules, and its calls of PyTorch's functions."""

import contextlib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from helpers.device import eval_mode, preserve_random_state

# Attribute and shape queries. They change nothing, unless they return a tensor (as x.mT does), and
# PyTorch's modules call them inconsistently.
IGNORED_CALLS = {"__get__", "dim", "size", "numel", "__len__"}


def execution_order(model: nn.Module) -> list[nn.Module]:
    """Return the modules in the order of their first call.

    Args:
        model: The model. It runs once in evaluation mode, on two images of zeros.

    Returns:
        Each module once; the model itself is the first.
    """
    modules: list[nn.Module] = []

    def append_once(module: nn.Module, _inputs: Any) -> None:
        if module not in modules:
            modules.append(module)

    hook = register_module_forward_pre_hook(append_once)
    try:
        with eval_mode(model):
            model(_blank_images(model))
    finally:
        hook.remove()
    return modules


class FunctionLog(TorchFunctionMode):
    """Record the calls of PyTorch's functions while it is active.

    Attributes:
        calls: A line for each call: the function's name and arguments. A tensor is recorded as its
            shape and its origin, which is its name or the number of the call that returned it.
        weights: The parameters, and other tensors that require gradients, among the arguments.
    """

    def __init__(self, named_tensors: Iterable[tuple[str, Tensor]] = ()) -> None:
        """Create a log.

        Args:
            named_tensors: Names of tensors that exist before the first call.
        """
        super().__init__()
        self.calls: list[str] = []
        self.weights: list[Tensor] = []
        self._outputs: list[Any] = []  # kept alive, so that no later tensor gets the same id
        self._origins = {id(tensor): name for name, tensor in named_tensors}

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        """Record a call and execute it."""
        arguments = (args, kwargs or {})
        self.weights += [value for value in tree_leaves(arguments) if _is_weight(value)]
        line = without_addresses(f"{func.__name__}{tree_map(self._describe, arguments)}")
        returned = func(*args, **arguments[1])
        outputs = tree_leaves(returned)
        self._outputs += outputs
        if func.__name__ not in IGNORED_CALLS or isinstance(returned, Tensor):
            for index, value in enumerate(outputs):
                self._origins[id(value)] = f"{len(self.calls)}.{index}"
            self.calls.append(line)
        return returned

    def unregistered_weights(self, model: nn.Module) -> list[Tensor]:
        """Return the recorded weights that are not among the model's parameters."""
        # Views of parameters require gradients as well, and are outputs of calls.
        known = {id(tensor) for tensor in (*model.parameters(), *self._outputs)}
        return [weight for weight in self.weights if id(weight) not in known]

    def _describe(self, value: Any) -> Any:
        """Return shape and origin of a tensor, and other values unchanged."""
        if not isinstance(value, Tensor):
            return value
        if is_lazy(value):
            return "lazy"
        return (*value.shape, self._origins.get(id(value)))


def model_fingerprint(build: Callable[[], nn.Module]) -> list[str]:
    """Describe a model so that two models with the same description train in the same way.

    The model is built and runs on two images in evaluation and in training mode, from a fixed
    seed. The global random states are restored. The description notices every change of the code
    that affects what is executed, in classes, functions and constants. It ignores comments. It does
    not notice how random weights are drawn, nor probabilities that Python code handles itself.

    Args:
        build: Returns a new model.

    Returns:
        A line for each buffer, each parameter and each call of a PyTorch function.
    """
    with _fixed_seed():
        model = build().eval()
        log = FunctionLog([*model.named_parameters(), *model.named_buffers()])
        with torch.no_grad(), log:
            model(_blank_images(model))  # initializes lazy layers
        buffers = [f"{name} {_describe_buffer(value)}" for name, value in model.named_buffers()]
        parameters = [
            f"{name} {_describe_parameter(value)}" for name, value in model.named_parameters()
        ]
        model.train()
        # Some models fail on two images in training mode.
        with contextlib.suppress(Exception), log:
            model(_blank_images(model))
    return [*buffers, *parameters, *log.calls]


def without_addresses(text: str) -> str:
    """Return the text without addresses of objects, which differ in every process."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", text)


def _describe_buffer(value: Tensor) -> str:
    """Return the shape of a buffer and a number that depends on its values and their order."""
    weighted = value.double().flatten() * torch.linspace(1, 2, value.numel())
    return f"{tuple(value.shape)} {weighted.norm():.3g}"  # the last digits differ between machines


def _describe_parameter(value: Tensor) -> str:
    """Return shape, whether it is trained, and its initial value if that is constant."""
    first = value.detach().flatten()[:1]
    # Another version of PyTorch may draw other random values.
    initial = first.tolist() if (value == first).all() else "random"
    return f"{tuple(value.shape)} {value.requires_grad} {initial}"


@contextlib.contextmanager
def _fixed_seed() -> Iterator[None]:
    """Seed the random generators of the CPU, and restore their states afterwards."""
    with preserve_random_state():
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed the GPUs
        yield


def _is_weight(value: Any) -> bool:
    """Tell whether a value is a parameter or another tensor that requires gradients."""
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.requires_grad)


def _blank_images(model: nn.Module) -> Tensor:
    """Return two images of zeros on the device of the model."""
    return torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
