"""An executed PyTorch operation (ATen), with its arguments by name."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from helpers.inspection.receptive_field import Pair, ReceptiveField


@dataclass(frozen=True)
class OpCall:
    """An executed operation.

    Attributes:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        input_fields: The receptive fields of those inputs that have any, by the `id` of the input.
        outputs: The tensors that it returned.
        num_images: The number of images that the model was given.
    """

    func: torch._ops.OpOverload
    args: tuple
    kwargs: dict[str, Any]
    input_fields: dict[int, ReceptiveField]
    outputs: list[Tensor]
    num_images: int

    @cached_property
    def name(self) -> str:
        """ATen's name without the underscores around it, such as "add" for `aten::add_`."""
        return self.func._schema.name.removeprefix("aten::").strip("_")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, with the defaults of those that were left out."""
        parameters = self.func._schema.arguments
        arguments = {p.name: p.default_value for p in parameters if p.has_default_value()}
        arguments.update(zip((p.name for p in parameters), self.args, strict=False))
        arguments.update(self.kwargs)
        return arguments

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [value for value in leaves if isinstance(value, Tensor)]

    @property
    def adds(self) -> bool:
        """Whether it adds or subtracts its inputs."""
        return self.name in ("add", "sub")

    @property
    def fields(self) -> list[ReceptiveField]:
        """The receptive fields of the inputs that have any."""
        return list(self.input_fields.values())

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    @property
    def dims(self) -> set[int]:
        """The dimensions along which the operation works: its argument `dim`, or else all."""
        rank = self.inputs[0].dim()
        dims = self.arguments.get("dim")
        if isinstance(dims, int):
            dims = [dims]
        return {dim % rank for dim in dims or range(rank)}

    def as_pair(self, name: str) -> Pair:
        """Return an argument of one or two numbers as a pair."""
        value = self.arguments[name]
        return (value, value) if isinstance(value, int) else (value[0], value[-1])

    def rerun(self, replacements: dict[int, Tensor]) -> list[Tensor]:
        """Execute the operation again with other tensors in place of some inputs.

        Args:
            replacements: The other tensors, by the `id` of the input.

        Returns:
            The outputs.
        """
        args, kwargs = tree_map(lambda v: replacements.get(id(v), v), (self.args, self.kwargs))
        return tree_leaves(self.func(*args, **kwargs))

    def probe_dependencies(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Find out which rows and columns of an input each output row and column depends on.

        One row or column at a time is set to NaN. NaN passes through every sum, product and
        maximum.

        Args:
            maps: The input (N, C, H, W). The output is (N, C', H', W').

        Returns:
            Boolean tensors (H, H') and (W, W').
        """
        return self._probe_axis(maps, 2), self._probe_axis(maps, 3)

    def _probe_axis(self, maps: Tensor, dim: int) -> Tensor:
        """Return the dependencies along one dimension, (length, length of the output)."""
        other_dim = 5 - dim
        dependencies = []
        for positions in torch.arange(maps.shape[dim]).split(8):  # in chunks, to save memory
            probe = maps.new_zeros(len(positions), *maps.shape[1:])
            for image, position in zip(probe, positions, strict=True):
                image.select(dim - 1, position).fill_(torch.nan)
            is_nan = self.rerun({id(maps): probe})[0].isnan()
            dependencies.append(is_nan.any(dim=other_dim).any(dim=1))
        return torch.cat(dependencies)
