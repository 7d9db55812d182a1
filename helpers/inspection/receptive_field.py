"""Receptive fields of all values of a tensor, and how an operation changes them.

Each value stores the bounds of its receptive field (top, bottom, left, right) in pixels of the
image. An operation that moves values moves their bounds in the same way. An operation that mixes
values takes the maximum of their bounds. Pixels beyond the border of the image count, as they do in
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

Pair = tuple[int, int]  # height and width
Slope = tuple[float, float]  # how a bound grows from one row, and from one column, to the next
# Maps one of the four bounds of an operation's input, and its slope, to that of the output.
BoundsFunction = Callable[[Tensor, Slope], Tensor]


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The receptive fields of the values of one tensor.

    Attributes:
        bounds: Four float tensors of the shape of that tensor: -top, bottom, -left and right, in
            pixels from the first pixel of the image. With top and left negated, a larger number is
            a larger field in all four. A value that depends on no pixel has -inf.
        image_size: Height and width of the image.
        jump: Distance in pixels between the fields of neighboring values, down and across. If only
            one value is left in a direction, the jump is the last one that was known.
        source: Name of the layer that produced the values; that of the main branch if several did.
        sources: Names of all layers that produced the values.
        gated: Whether values that depend on the whole image have scaled these values.
        pooled: Whether a global pooling made the values. Beyond its single value there is nothing.
        unpadded: Sizes of the maps before and after a padding, if the values are padded maps.
        padding: How many rows above and columns on the left were added to them.
    """

    bounds: tuple[Tensor, ...]
    image_size: Pair
    jump: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    source: str = "input"
    sources: frozenset[str] = frozenset()
    gated: bool = False
    pooled: bool = False
    unpadded: tuple[Pair, Pair] | None = None
    padding: Pair = (0, 0)

    @classmethod
    def of_image(cls, shape: Sequence[int]) -> "ReceptiveField":
        """Return the fields of images of `shape` (N, 3, H, W): each pixel sees itself."""
        images, channels, height, width = shape
        rows = torch.arange(float(height))[:, None].repeat(images, channels, 1, width)
        columns = torch.arange(float(width)).repeat(images, channels, height, 1)
        return cls((-rows, rows, -columns, columns), (height, width))

    @classmethod
    def empty(cls, like: Tensor, image_size: Pair) -> "ReceptiveField":
        """Return the fields of a new tensor whose values depend on no pixel.

        Args:
            like: The tensor.
            image_size: Height and width of the images.
        """
        bounds = tuple(copy_layout(torch.tensor(-math.inf), like) for _ in range(4))
        return cls(bounds, image_size)

    @property
    def is_empty(self) -> bool:
        """Whether no value depends on any pixel, as in a tensor of zeros."""
        return not bool(self.bounds[0].isfinite().any())

    @cached_property
    def size(self) -> Pair:
        """Height and width in pixels of the largest field of a value."""
        return self._extent(0), self._extent(1)

    def _extent(self, axis: int) -> int:
        """Return the largest height (axis 0) or width (axis 1) of a field."""
        lower, upper = self.bounds[2 * axis], self.bounds[2 * axis + 1]
        distance = lower + upper
        inside = (lower <= 0) & (upper < self.image_size[axis])
        largest = distance.max().clamp(min=-1)
        # Padding extends the bounds by the jump. If neighbors are not equally far apart, fields
        # that leave the image may then be up to one jump too large: use the others.
        if inside.any() and largest - distance[inside].max() <= float(self.jump[axis]):
            largest = distance[inside].max().clamp(min=-1)
        return int(largest) + 1

    @cached_property
    def spatial_dims(self) -> tuple[list[int], list[int]]:
        """Dimensions of the tensor along which the fields move down, and across, the image."""
        return self._moving_dims(self.bounds[1]), self._moving_dims(self.bounds[3])

    @staticmethod
    def _moving_dims(bound: Tensor) -> list[int]:
        """Return the dimensions along which the bottom or right bound changes."""
        finite_minimum = bound.where(bound.isfinite(), math.inf)
        return [
            dim
            for dim in range(bound.dim())
            if bool((bound.amax(dim) > finite_minimum.amin(dim)).any())
        ]

    def map_dim(self, axis: int) -> int | None:
        """Return the dimension that is the height (axis 0) or width (axis 1) of feature maps.

        It is None if that side is flattened or reduced.
        """
        dims = [dim for dim in self.spatial_dims[axis] if dim not in self.spatial_dims[1 - axis]]
        return dims[-1] if dims else None  # channels come first and may hold neighboring pixels

    @property
    def map_size(self) -> Pair:
        """Height and width of the feature maps; 1 for a side that is reduced."""
        return self._map_length(0), self._map_length(1)

    def _map_length(self, axis: int) -> int:
        """Return the height (axis 0) or width (axis 1) of the feature maps."""
        lower, upper = self.bounds[2 * axis], self.bounds[2 * axis + 1]
        dim = self.map_dim(axis)
        if dim is not None:
            return lower.shape[dim]
        # Count the positions. Use the centers of the fields, as the channels at one position may
        # have fields of different sizes, and round, as branches may be misaligned by a fraction.
        centers = upper - lower
        positions = (centers - centers.min()) / float(2 * self.jump[axis])
        return len(positions.round().unique())

    @property
    def corner(self) -> tuple[float, float]:
        """Top and left, in pixels, of the field of the value at the center of the maps."""
        center: list[int | slice] = [slice(None)] * self.bounds[0].dim()
        for dim in (self.map_dim(0), self.map_dim(1)):
            if dim is not None:
                center[dim] = self.bounds[0].shape[dim] // 2
        index = tuple(center)
        return -self.bounds[0][index].max().item(), -self.bounds[2][index].max().item()

    def apply(self, function: BoundsFunction, output: Tensor) -> "ReceptiveField":
        """Return the fields of the output of an operation that mixes values.

        Args:
            function: Maps each bound of the input to that of the output.
            output: The output of the operation.
        """
        down, across = float(self.jump[0]), float(self.jump[1])
        slopes = ((-down, 0.0), (down, 0.0), (0.0, -across), (0.0, across))
        bounds = tuple(
            copy_layout(function(bound, slope), output)
            for bound, slope in zip(self.bounds, slopes, strict=True)
        )
        return replace(self, bounds=bounds).measure_jump()

    def measure_jump(self) -> "ReceptiveField":
        """Return the same fields with the jump measured from the bounds.

        The jump stays as it was in a direction in which the maps have no neighbors.
        """
        jump = list(self.jump)
        for axis in (0, 1):
            dim = self.map_dim(axis)
            if dim is None:
                continue
            bound = self.bounds[2 * axis + 1]
            other_dims = [d for d in range(bound.dim()) if d != dim]
            positions = bound.amax(other_dims).unique()
            positions = positions[positions.isfinite()]
            distance = (positions[-1] - positions[0]).item()
            # n positions cover n steps. Upsampled maps repeat positions, so divide the covered
            # distance by the length of the maps.
            covered = distance + distance / max(1, len(positions) - 1)
            jump[axis] = Fraction(covered / bound.shape[dim]).limit_denominator(8)
        return replace(self, jump=tuple(jump))

    def merge_views(self, num_images: int) -> "ReceptiveField":
        """Return the same fields; if a batch holds views of an image, with those of the first.

        Test-time augmentation puts mirrored or shifted copies beside the images. They are followed
        as if they were equal to the images; otherwise the batch would count as a side of the maps.
        Patches of an image in a batch are no views: each covers a part of the image only.

        Args:
            num_images: The number of images that the model was given.
        """
        batch = self.bounds[0].shape[0]
        has_copies = self.bounds[0].dim() == 4 and batch > num_images and not batch % num_images
        if not has_copies or 0 not in {*self.spatial_dims[0], *self.spatial_dims[1]}:
            return self
        for axis in (0, 1):
            centers = (self.bounds[2 * axis + 1] - self.bounds[2 * axis]).flatten(1) / 2
            covered = centers.amax(1) - centers.amin(1) + float(self.jump[axis])
            if not bool((covered >= 0.75 * (centers.amax() - centers.amin())).all()):
                return self
        bounds = tuple(copy_layout(bound[:1].expand_as(bound), bound) for bound in self.bounds)
        return replace(self, bounds=bounds).measure_jump()

    def multiply_jump(self, map_size: Pair, stride: Pair) -> "ReceptiveField":
        """Return the same fields with the jump multiplied by a stride that left a single value.

        A single value has no neighbors to measure the jump from. A later layer may pad these maps,
        and its field then grows by that jump.

        Args:
            map_size: Height and width of the output of the strided operation.
            stride: Its stride.
        """
        jump = tuple(
            old * step if length == 1 else old
            for old, length, step in zip(self.jump, map_size, stride, strict=True)
        )
        return replace(self, jump=jump)


def find_gates(fields: Sequence[ReceptiveField], are_added: bool = False) -> list[ReceptiveField]:
    """Return the inputs of an operation that only scale or shift whole maps of another input.

    Such an input has one value for all positions along a side that the other has.

    Args:
        fields: The fields of the inputs.
        are_added: Whether the operation adds them. A sum with values that differ from position to
            position, as in the mixing of tokens, is no gate.
    """

    def is_gate(field: ReceptiveField, other: ReceptiveField, axis: int) -> bool:
        if field.spatial_dims[axis] or not other.spatial_dims[axis]:
            return False
        shape, rank = field.bounds[0].shape, other.bounds[0].dim()
        sides = [dim - rank for dim in other.spatial_dims[axis]]
        return not are_added or all(-side > len(shape) or shape[side] == 1 for side in sides)

    return [
        field
        for field in fields
        if not field.is_empty
        and any(is_gate(field, other, axis) for other in fields for axis in (0, 1))
    ]


def copy_layout(values: Tensor, like: Tensor) -> Tensor:
    """Return float32 values with the shape and the strides in memory of the tensor `like`.

    A view of that tensor then has a matching view of these values, and a write through one view
    can be repeated through the other.
    """
    return torch.empty_like(like, dtype=torch.float32).copy_(values)


def merge_branches(
    fields: Sequence[ReceptiveField], output: Tensor, are_added: bool = False
) -> ReceptiveField:
    """Return the fields of a sum or product of tensors. Gates do not widen the fields.

    Args:
        fields: The fields of the inputs.
        output: The output of the operation.
        are_added: Whether the operation adds the tensors.
    """
    gates = find_gates(fields, are_added)
    bounds = []
    for axis in (0, 1):
        spatial = [f for f in fields if f.spatial_dims[axis] or f not in gates] or fields
        for side in (2 * axis, 2 * axis + 1):
            merged = reduce(torch.maximum, (field.bounds[side] for field in spatial))
            bounds.append(copy_layout(merged, output))
    return join(fields, tuple(bounds), gates)


def join(
    fields: Sequence[ReceptiveField],
    bounds: tuple[Tensor, ...],
    gates: Sequence[ReceptiveField] | None = None,
) -> ReceptiveField:
    """Return fields with the given bounds, all sources, and the source of the main branch.

    The main branch is the one with the largest field that is no gate.

    Args:
        fields: The fields of the inputs.
        bounds: The bounds of the output.
        gates: The gates among the fields. None finds them.
    """
    gates = find_gates(fields) if gates is None else gates
    main = max(fields, key=lambda field: (field not in gates, field.size))
    gated = bool(gates) or any(field.gated for field in fields)
    sources = frozenset().union(*(field.sources for field in fields))
    return replace(main, bounds=bounds, gated=gated, sources=sources).measure_jump()


def slide_window(
    output_size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> BoundsFunction:
    """Return the function for a kernel that slides over maps (..., H, W).

    Args:
        output_size: Height and width of the output.
        kernel: Height and width of the kernel.
        stride: Its stride.
        padding: Padding above and on the left. As much as is needed is added at the other ends.
        dilation: Its dilation.
    """

    def slide(bound: Tensor, slope: Slope) -> Tensor:
        margins = []
        for axis in (0, 1):
            span = dilation[axis] * (kernel[axis] - 1) + 1
            length_read = (output_size[axis] - 1) * stride[axis] + span
            after = max(0, length_read - padding[axis] - bound.shape[axis - 2])
            margins.append((padding[axis], after))
        extended = _extend(bound, slope, *margins)
        maps = F.max_pool2d(extended, kernel, stride, dilation=dilation)
        return maps[..., : output_size[0], : output_size[1]]

    return slide


def pad_bounds(amounts: Sequence[int]) -> BoundsFunction:
    """Return the function for padding; negative amounts cut off.

    Args:
        amounts: Values added before and after, from the last dimension on, as in `F.pad`.
    """
    cut = [min(amount, 0) for amount in amounts]
    added = [max(amount, 0) for amount in amounts] + [0, 0, 0, 0]
    columns, rows, others = added[:2], added[2:4], added[4:-4]

    def pad(bound: Tensor, slope: Slope) -> Tensor:
        maps = _extend(F.pad(bound, cut), slope, rows, columns)
        # A padded channel or image depends on no pixel.
        return F.pad(maps, [0, 0, 0, 0, *others], value=-math.inf)

    return pad


def select_bounds(rows: Tensor, columns: Tensor) -> BoundsFunction:
    """Return the function for an operation that reads given rows and columns.

    Args:
        rows: Boolean (H, H'): whether output row j depends on input row i.
        columns: Boolean (W, W'): the same for columns.
    """

    def select(bound: Tensor, slope: Slope) -> Tensor:
        row_mask = torch.where(rows, 0, -math.inf)
        column_mask = torch.where(columns, 0, -math.inf)
        bound = (bound.unsqueeze(-2) + row_mask.unsqueeze(-1)).amax(-3)
        return (bound.unsqueeze(-1) + column_mask).amax(-2)

    return select


def reduce_dims(dims: Sequence[int], keepdim: bool = True) -> BoundsFunction:
    """Return the function for an operation that mixes all values along `dims`.

    Args:
        dims: The dimensions.
        keepdim: Whether they stay, with one value each.
    """
    return lambda bound, slope: bound.amax(list(dims), keepdim=keepdim)


def _extend(bound: Tensor, slope: Slope, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Extend maps (..., H, W) beyond their borders with the slope.

    Args:
        bound: The maps.
        slope: How the bound grows per row and per column.
        rows: Number of rows to add above and below.
        columns: Number of columns to add on the left and on the right.
    """
    height, width = bound.shape[-2:]
    maps = F.pad(bound.reshape(-1, 1, height, width), (*columns, *rows), "replicate")
    maps = maps.view(*bound.shape[:-2], *maps.shape[2:])
    rows_beyond = _distance_beyond(height, rows)
    columns_beyond = _distance_beyond(width, columns)
    return maps + rows_beyond[:, None] * slope[0] + columns_beyond * slope[1]


def _distance_beyond(length: int, margins: Sequence[int]) -> Tensor:
    """Return how far each position lies beyond a side: negative before it, 0 inside."""
    position = torch.arange(-margins[0], length + margins[1])
    return position - position.clamp(0, length - 1)
