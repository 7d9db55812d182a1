"""What the values of a tensor see of the image, followed through PyTorch's operations (ATen).

Every value carries four numbers: how far it sees up, down, left and right, in pixels from the first
one of the image (so that the first pixel itself sees 0 in all directions, and its right neighbour
-1 to the left and 1 to the right). An operation that moves values moves these numbers alike; one
that mixes values takes the greatest. Pixels outside the image count, so that the sizes are those of
the published tables.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple  # of height and width
# Gives the greatest of the numbers that are mixed, from the numbers and how they grow from one to
# the next, down and across.
Mixing = Callable[[Tensor, Pair], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """What the values of one tensor see.

    `reach` holds a tensor of its shape for each of up, down, left and right; `image` is the image's
    height and width; `jump` is how far the views of neighbours are apart, as it was before a
    pooling left no neighbours; `source` names the layer that made the values; `gated` says that
    they were scaled by what sees the whole image.
    """

    reach: tuple[Tensor, ...]
    image: Pair
    jump: Pair = (Fraction(1), Fraction(1))
    source: str = "input"
    gated: bool = False

    @classmethod
    def of_image(cls, shape: Sequence[int]) -> "View":
        """The view of images (N, 3, H, W): every pixel sees itself."""
        rows, columns = (torch.arange(float(size)) for size in shape[2:])
        down, right = rows[:, None].repeat(*shape[:2], 1, shape[3]), columns.repeat(*shape[:3], 1)
        return cls((-down, down, -right, right), tuple(shape[2:]))

    @classmethod
    def blank(cls, like: Tensor, image: Pair) -> "View":
        """The view of a new tensor, whose values see nothing."""
        return cls(tuple(stored(torch.tensor(-math.inf), like) for _ in range(4)), image)

    @property
    def blind(self) -> bool:
        """Whether no value sees anything, as in a tensor of zeros."""
        return not bool(self.reach[0].isfinite().any())

    @cached_property
    def field(self) -> Pair:
        """Height and width in pixels of what the value with the widest view sees.

        Those that leave the image may come out as much as a jump too wide, where neighbours are
        not all equally far apart: then the widest that stays inside counts.
        """
        sides = []
        for side, (back, ahead) in enumerate(zip(self.reach[::2], self.reach[1::2], strict=True)):
            seen, inside = back + ahead, (back <= 0) & (ahead < self.image[side])
            widest = seen.max().clamp(min=-1)
            if inside.any() and widest - seen[inside].max() <= float(self.jump[side]):
                widest = seen[inside].max().clamp(min=-1)
            sides.append(int(widest) + 1)
        return tuple(sides)

    @cached_property
    def dims(self) -> tuple[list[int], list[int]]:
        """The dimensions along which one goes down the image, and those across it."""
        along = []
        for places in self.reach[1::2]:
            least = places.where(places.isfinite(), math.inf)
            moves = (bool((places.amax(d) > least.amin(d)).any()) for d in range(places.dim()))
            along.append([d for d, moving in enumerate(moves) if moving])
        return tuple(along)

    def side(self, side: int) -> int | None:
        """The dimension that is this side of the maps, None where it is flattened or gone."""
        own = [dim for dim in self.dims[side] if dim not in self.dims[1 - side]]
        return own[-1] if own else None  # channels may hold neighbouring pixels too

    @property
    def sizes(self) -> Pair:
        """Height and width of the maps, 1 where there is none, or none any more."""
        sides = []
        for side, (back, ahead) in enumerate(zip(self.reach[::2], self.reach[1::2], strict=True)):
            dim = self.side(side)
            middles = ahead - back  # channels may see differently far around the same place
            apart = (middles - middles.min()) / float(2 * self.jump[side])
            # Branches that met may see places that lie a little beside one another.
            sides.append(len(apart.round().unique()) if dim is None else back.shape[dim])
        return tuple(sides)

    @property
    def corner(self) -> Pair:
        """Top and left of the pixels that the value in the middle of the maps sees."""
        middle = [slice(None)] * self.reach[0].dim()
        for dim in (self.side(0), self.side(1)):
            if dim is not None:
                middle[dim] = self.reach[0].shape[dim] // 2
        return tuple(-back[tuple(middle)].max().item() for back in self.reach[::2])

    def mixed(self, greatest: Mixing, like: Tensor) -> "View":
        """The view of a tensor that an operation made by mixing values."""
        down, across = map(float, self.jump)
        growth = (-down, 0.0), (down, 0.0), (0.0, -across), (0.0, across)
        pairs = zip(self.reach, growth, strict=True)
        reach = tuple(stored(greatest(numbers, grows), like) for numbers, grows in pairs)
        return replace(self, reach=reach).measured()

    def measured(self) -> "View":
        """The same with its jump measured, where there are neighbours."""
        jumps = list(self.jump)
        for side, places in enumerate(self.reach[1::2]):
            if (dim := self.side(side)) is not None:
                values = places.amax([d for d in range(places.dim()) if d != dim]).unique()
                values = values[values.isfinite()]
                reach = (values[-1] - values[0]).item()
                reach += reach / max(1, len(values) - 1)  # enlarged maps repeat their values
                jumps[side] = Fraction(reach / places.shape[dim]).limit_denominator(8)
        return replace(self, jump=tuple(jumps))

    def strided(self, sizes: Sequence[int], stride: Pair) -> "View":
        """The same with its jump multiplied where a stride leaves maps of one place, no neighbours.

        What comes after may pad these maps, and see further by that.
        """
        each = zip(self.jump, sizes, stride, strict=True)
        return replace(self, jump=tuple(j * s if size == 1 else j for j, size, s in each))


def gates(views: Sequence[View]) -> list[View]:
    """The views that are the same for all places along a side of the maps that others have."""
    sides = [[view for view in views if view.dims[side]] for side in (0, 1)]
    return [v for v in views if not v.blind and any(live and v not in live for live in sides)]


def stored(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers for each value of a tensor, laid out in memory as that tensor is.

    So whatever views PyTorch makes of the one it makes of the other, and what is written through a
    view of the one is written through a view of the other.
    """
    return torch.empty_like(like, dtype=torch.float32).copy_(numbers)


def joined(views: Sequence[View], like: Tensor) -> View:
    """The view of a sum or product of tensors; what only gates the others does not count."""
    reach = []
    for side in (0, 1):
        live = [view for view in views if view.dims[side]] or views
        for direction in (2 * side, 2 * side + 1):
            numbers = (view.reach[direction] for view in live)
            reach.append(stored(reduce(torch.maximum, numbers), like))
    return met(views, tuple(reach))


def met(views: Sequence[View], reach: tuple[Tensor, ...]) -> View:
    """Where views meet, the one that goes on is the widest that is no gate."""
    scaling = gates(views)
    main = max(views, key=lambda view: (view not in scaling, view.field))
    gated = bool(scaling) or any(view.gated for view in views)
    return replace(main, reach=reach, gated=gated).measured()


def extended(numbers: Tensor, growth: Pair, rows: Pair, columns: Pair) -> Tensor:
    """Maps (..., H, W) that go on beyond their borders, by so many rows and columns."""
    height, width = numbers.shape[-2:]
    maps = numbers.reshape(-1, 1, height, width)
    maps = F.pad(maps, (*columns, *rows), "replicate")
    maps = maps.view(*numbers.shape[:-2], *maps.shape[2:])

    def beyond(size: int, ends: Pair) -> Tensor:
        place = torch.arange(-ends[0], size + ends[1])
        return place - place.clamp(0, size - 1)

    return maps + beyond(height, rows)[:, None] * growth[0] + beyond(width, columns) * growth[1]


def sliding(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Mixing:
    """A kernel that slides over maps (..., H, W) and leaves maps of the size."""

    def greatest(numbers: Tensor, growth: Pair) -> Tensor:
        ends = []
        for i, before in enumerate(padding):
            read = (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
            ends.append((before, max(0, read - before - numbers.shape[i - 2])))
        maps = F.max_pool2d(extended(numbers, growth, *ends), kernel, stride, dilation=dilation)
        return maps[..., : size[0], : size[1]]

    return greatest


def padding(amounts: Sequence[int]) -> Mixing:
    """Places before and after, as F.pad names them, from the last dimension on; less is cut off."""
    cut = [min(amount, 0) for amount in amounts]
    more = [max(amount, 0) for amount in amounts] + [0, 0, 0, 0]

    def greatest(numbers: Tensor, growth: Pair) -> Tensor:
        maps = extended(F.pad(numbers, cut), growth, more[2:4], more[:2])
        return F.pad(maps, [0, 0, 0, 0, *more[4:-4]], value=-math.inf)

    return greatest


def reading(rows: Tensor, columns: Tensor) -> Mixing:
    """Rows (H, H') and columns (W, W') say which place before is read by which one after."""

    def greatest(numbers: Tensor, growth: Pair) -> Tensor:
        down, across = (torch.where(read, 0, -math.inf) for read in (rows, columns))
        numbers = (numbers.unsqueeze(-2) + down.unsqueeze(-1)).amax(-3)
        return (numbers.unsqueeze(-1) + across).amax(-2)

    return greatest


def over(dims: Sequence[int], keepdim: bool = True) -> Mixing:
    """All values along some dimensions are mixed."""
    return lambda numbers, growth: numbers.amax(list(dims), keepdim=keepdim)
