"""What the values of a tensor see of the image, followed through PyTorch's operations (ATen).

Every value carries the first and the last pixel that it sees, down and across the image. An
operation that moves values moves these numbers alike; one that mixes values takes the least and the
greatest. Pixels outside the image count, so that the sizes are those of the published tables.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple  # of height and width
# Gives the greatest of the numbers that are mixed, from the numbers and their jump down and across.
Mixing = Callable[[Tensor, Pair], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """What the values of one tensor see: for height and width, two tensors of its shape.

    `first` and `last` are pixels; `jump` is how far the views of neighbours are apart, as it was
    before a pooling left no neighbours; `source` names the layer that made the values; `gated` says
    that they were scaled by what sees the whole image.
    """

    first: Pair
    last: Pair
    jump: Pair = (Fraction(1), Fraction(1))
    source: str = "input"
    gated: bool = False

    @property
    def field(self) -> Pair:
        """Height and width in pixels of what the value with the widest view sees."""
        pairs = zip(map(thin, self.first), map(thin, self.last), strict=True)
        return tuple(int((last - first).max().clamp(min=-1)) + 1 for first, last in pairs)

    @property
    def blind(self) -> bool:
        """Whether no value sees anything, as in a tensor of zeros."""
        return not bool(self.last[0].isfinite().any())

    def dims(self, side: int) -> list[int]:
        """The dimensions along which one goes down (side 0) or across the image (side 1)."""
        places = thin(self.first[side])
        return [d for d in range(places.dim()) if bool((places.amax(d) != places.amin(d)).any())]

    def side(self, side: int) -> int | None:
        """The dimension that is this side of the maps, None where it is flattened or gone."""
        own = [dim for dim in self.dims(side) if dim not in self.dims(1 - side)]
        return own[-1] if own else None  # channels may hold neighbouring pixels too

    @property
    def sizes(self) -> Pair:
        """Height and width of the maps, 1 where there is none, or none any more."""
        dims = self.side(0), self.side(1)
        numbers = zip(self.first, dims, strict=True)
        return tuple(len(thin(v).unique()) if dim is None else v.shape[dim] for v, dim in numbers)

    @classmethod
    def blank(cls, shape: Sequence[int]) -> "View":
        """The view of a new tensor, whose values see nothing."""
        ends = [tuple(torch.full(shape, end) for _ in range(2)) for end in (math.inf, -math.inf)]
        return cls(*ends)

    def overwrite(self, other: "View", of_more: bool) -> None:
        """Take over another's numbers in place, as tensors that share the memory do.

        Raises ValueError where this is a part of a tensor whose numbers are stored once for many.
        """
        for old, new in zip(self.first + self.last, other.first + other.last, strict=True):
            if not torch.equal(old, new):
                if of_more and thin(old).shape != old.shape:
                    raise ValueError("it writes into a part of the maps")
                old.copy_(new)

    def moved(self, function: Callable[[Tensor], Tensor]) -> "View":
        """The view after an operation that moves values: the numbers move alike."""
        first, last = (tuple(map(function, ends)) for ends in (self.first, self.last))
        return replace(self, first=first, last=last).measured()

    def mixed(self, greatest: Mixing, shape: Sequence[int]) -> "View":
        """The view after an operation that mixes values and leaves a tensor of the shape."""
        jumps = [(float(self.jump[0]), 0.0), (0.0, float(self.jump[1]))]
        less = [(-down, -across) for down, across in jumps]
        pairs = zip(self.first, less, strict=True), zip(self.last, jumps, strict=True)
        first = tuple((-greatest(-thin(v, 2), j)).expand(shape) for v, j in pairs[0])
        last = tuple(greatest(thin(v, 2), j).expand(shape) for v, j in pairs[1])
        return replace(self, first=first, last=last).measured()

    def measured(self) -> "View":
        """The same with its jump measured, where there are neighbours."""
        jumps = list(self.jump)
        for side, places in enumerate(self.first):
            if (dim := self.side(side)) is not None:
                values = thin(places)[thin(places).isfinite()].unique()
                reach = (values[-1] - values[0]).item()
                reach += reach / max(1, len(values) - 1)  # enlarged maps repeat their values
                jumps[side] = Fraction(reach / places.shape[dim]).limit_denominator(16)
        return replace(self, jump=tuple(jumps))


def thin(places: Tensor, keep: int = 0) -> Tensor:
    """The numbers without their repetitions, along all dimensions but the last ones to keep."""
    for dim in range(places.dim() - keep):
        if places.stride(dim) == 0:
            places = places.narrow(dim, 0, 1)
    return places


def gates(views: Sequence[View]) -> list[View]:
    """The views that are the same for all places along a side of the maps that others have."""
    sides = [[view for view in views if view.dims(side)] for side in (0, 1)]
    return [v for v in views if not v.blind and any(live and v not in live for live in sides)]


def joined(views: Sequence[View], shape: Sequence[int]) -> View:
    """The view of a sum or product of tensors; what only gates the others does not count."""
    if len(views) == 1:
        return views[0].moved(lambda places: places.expand(shape))
    main = max(views, key=lambda view: (view not in gates(views), view.field))
    first, last = [], []
    for side in (0, 1):
        live = [view for view in views if view.dims(side)] or views
        first.append(reduce(torch.minimum, (thin(view.first[side]) for view in live)))
        last.append(reduce(torch.maximum, (thin(view.last[side]) for view in live)))
    gated = bool(gates(views)) or any(view.gated for view in views)
    first, last = (tuple(places.expand(shape) for places in ends) for ends in (first, last))
    return replace(main, first=first, last=last, gated=gated)


def extended(places: Tensor, jump: Pair, rows: Pair, columns: Pair) -> Tensor:
    """Maps (..., H, W) that go on beyond their borders, by so many rows and columns."""
    height, width = places.shape[-2:]
    shape = (1,) * (4 - places.dim()) + places.shape
    padded = F.pad(places.view(shape), (*columns, *rows), "replicate").view(
        *places.shape[:-2], height + sum(rows), width + sum(columns)
    )

    def beyond(size: int, ends: Pair) -> Tensor:
        place = torch.arange(-ends[0], size + ends[1])
        return place.clamp(max=0) + (place - size + 1).clamp(min=0)

    down, across = beyond(height, rows)[:, None] * jump[0], beyond(width, columns) * jump[1]
    return padded + down + across


def sliding(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Mixing:
    """A kernel that slides over maps (..., H, W) and leaves maps of the size."""

    def greatest(places: Tensor, jump: Pair) -> Tensor:
        ends = []
        for i, before in enumerate(padding):
            read = (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
            ends.append((before, max(0, read - before - places.shape[i - 2])))
        places = extended(places, jump, *ends)
        out = F.max_pool2d(places, kernel, stride, dilation=dilation)
        return out[..., : size[0], : size[1]]

    return greatest


def spreading(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Mixing:
    """A transposed convolution: each place is spread over a kernel, `stride` from the last one."""

    def greatest(places: Tensor, jump: Pair) -> Tensor:
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        more = [-(-r // s) + 1 for r, s in zip(reach, stride, strict=True)]
        places = extended(places, jump, *((m, m) for m in more))
        sides = [(n - 1) * s + 1 for n, s in zip(places.shape[-2:], stride, strict=True)]
        apart = torch.full((*places.shape[:-2], *sides), -math.inf)
        apart[..., :: stride[0], :: stride[1]] = places
        out = F.max_pool2d(apart, kernel, 1, dilation=dilation)
        start = [p - r + m * s for p, r, m, s in zip(padding, reach, more, stride, strict=True)]
        rows, columns = (slice(a, a + n) for a, n in zip(start, size, strict=True))
        return out[..., rows, columns]

    return greatest


def interpolating(size: Pair, reach: Iterable[int]) -> Mixing:
    """An interpolation to maps of the size, from neighbours as far as `reach` around each place."""

    def greatest(places: Tensor, jump: Pair) -> Tensor:
        for dim, after in zip((-2, -1), size, strict=True):
            before = places.shape[dim]
            place = ((torch.arange(after) + 0.5) * before / after - 0.5).floor().long()
            read = [(place + step).clamp(0, before - 1) for step in reach]
            taken = [places.index_select(dim, neighbours) for neighbours in read]
            places = reduce(torch.maximum, taken)
        return places

    return greatest


def over(dims: Sequence[int]) -> Mixing:
    """All values along some dimensions are mixed."""
    return lambda places, jump: places.amax(list(dims), keepdim=True)
