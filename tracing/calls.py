"""An operation of PyTorch (ATen) that was executed, with its arguments by name."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tracing.views import Pair, View


@dataclass(frozen=True)
class Call:
    """An operation that was executed; `known` are the views of its inputs by their identity."""

    func: torch._ops.OpOverload
    args: tuple
    kwargs: dict
    known: dict[int, View]
    outputs: list[Tensor]

    @cached_property
    def name(self) -> str:
        """ATen's name without the underscores around it."""
        return self.func._schema.name.removeprefix("aten::").strip("_")

    @cached_property
    def given(self) -> dict:
        """The arguments by their names."""
        arguments = self.func._schema.arguments
        given = {a.name: a.default_value for a in arguments if a.has_default_value()}
        return given | dict(zip((a.name for a in arguments), self.args, strict=False)) | self.kwargs

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [value for value in leaves if isinstance(value, Tensor)]

    @property
    def views(self) -> list[View]:
        """What the inputs see that see something."""
        return list(self.known.values())

    @property
    def output(self) -> Tensor:
        """The first one."""
        return self.outputs[0]

    @property
    def dims(self) -> set[int]:
        """The dimensions along which it works: those that it is given, or all."""
        dims, rank = self.given.get("dim"), self.inputs[0].dim()
        dims = [dims] if isinstance(dims, int) else dims or range(rank)
        return {dim % rank for dim in dims}

    def pair(self, name: str) -> Pair:
        """An argument of one or two numbers as two."""
        value = self.given[name]
        return (value, value) if isinstance(value, int) else (value[0], value[-1])

    def again(self, values: dict[int, Tensor]) -> list[Tensor]:
        """The outputs with other tensors in place of inputs, by their identity."""
        args, kwargs = tree_map(lambda v: values.get(id(v), v), (self.args, self.kwargs))
        return tree_leaves(self.func(*args, **kwargs))

    def probed(self, maps: Tensor) -> list[Tensor]:
        """Which rows before (H, H') and which columns (W, W') are read by which after.

        It is found by putting NaN into one row or column of the maps (N, C, H, W) at a time, which
        goes the same way as their values.
        """
        found = []
        for side, other_side in ((2, 3), (3, 2)):
            reached = []
            for places in torch.arange(maps.shape[side]).split(8):  # all would take much memory
                probe = maps.new_zeros(len(places), *maps.shape[1:])
                for image, place in zip(probe, places, strict=True):
                    image.select(side - 1, place).fill_(torch.nan)
                after = self.again({id(maps): probe})[0].isnan()
                reached.append(after.any(dim=other_side).any(dim=1))
            found.append(torch.cat(reached))
        return found
