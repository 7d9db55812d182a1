"""What PyTorch's operations (ATen) do to the views of their inputs, and which are layers."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from helpers.anatomy.views import (
    Mixing,
    Pair,
    View,
    extended,
    gates,
    interpolating,
    joined,
    over,
    sliding,
    spreading,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """An operation that makes a layer: its kind, the view of its output, how its kernel moves."""

    kind: str
    view: View
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


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
    def view(self) -> View:
        """The view of the first input that has one."""
        return next(iter(self.known.values()))

    @property
    def shape(self) -> torch.Size:
        """The first output's."""
        return self.outputs[0].shape

    def pairs(self, *names: str) -> list[Pair]:
        """Arguments of one or two numbers as two."""
        values = [self.given[name] for name in names]
        lists = [[value] if isinstance(value, int) else list(value) for value in values]
        return [(value[0], value[-1]) for value in lists]


# By ATen's names. These give for a pixel what depends on that pixel alone or, in normalisation, on
# statistics, which by convention do not count.
KEEP = {
    "detach", "alias", "to_copy", "contiguous", "lift_fresh", "bernoulli", "native_dropout",
    "softmax", "log_softmax", "prelu_kernel", "masked_fill", "where", "rrelu_with_noise",
    "native_batch_norm", "native_batch_norm_legit", "native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "native_layer_norm", "native_group_norm",
}  # fmt: skip
MOVE = {
    "view", "unsafe_view", "reshape", "reshape_alias", "squeeze", "unsqueeze", "permute", "t",
    "transpose", "expand", "repeat", "slice", "select", "split", "split_with_sizes", "unsafe_split",
    "unbind", "chunk", "cat", "stack", "index", "index_select", "gather", "roll", "flip", "unfold",
    "diagonal", "channel_shuffle", "native_channel_shuffle", "copy", "clone",
}  # fmt: skip
REDUCE = {
    "mean", "sum", "amax", "max", "amin", "min", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "any", "all",
}  # fmt: skip
RESIZE = {"upsample_bilinear2d": (0, 1), "upsample_bicubic2d": (-1, 0, 1, 2)}
RESIZE_BY_MOVING = (
    "upsample_nearest2d", "upsample_nearest_exact2d", "pixel_shuffle", "pixel_unshuffle"
)  # fmt: skip


def understood(call: Call) -> Step | list[View]:
    """The layer that an operation is, or the views of its outputs.

    Raises ValueError where it may mix pixels and it is not known which.
    """
    name, size = call.name, tuple(call.shape[-2:])
    if torch.Tag.pointwise in call.func.tags or name in KEEP:
        return [joined(list(call.known.values()), call.shape)]
    if name in MOVE:
        return moved(call)
    if name in RESIZE_BY_MOVING:
        return Step("resize", moved(call)[0])
    if name in RESIZE:
        return Step("resize", call.view.mixed(interpolating(size, RESIZE[name]), call.shape))
    if name in REDUCE:
        return reduction(call)
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        return product(call)
    if name == "convolution":
        return convolution(call)
    if "adaptive" in name and "pool2d" in name:
        sides = zip(call.given["self"].shape[-2:], size, strict=True)
        kernel = tuple(-(-before // after) for before, after in sides)
        pooled = call.view.mixed(lambda v, jump: F.adaptive_max_pool2d(v, size), call.shape)
        return Step("pool", pooled, kernel, kernel)
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, padding = call.pairs("kernel_size", "padding")
        stride = call.pairs("stride")[0] if call.given["stride"] else kernel
        [dilation] = call.pairs("dilation") if "dilation" in call.given else [(1, 1)]
        numbers = kernel, stride, padding, dilation
        return Step("pool", call.view.mixed(sliding(size, *numbers), call.shape), *numbers)
    if name.endswith(("pad_nd", "pad2d", "pad1d")):
        return [
            call.view.mixed(padding_of(call.given.get("pad") or call.given["padding"]), call.shape)
        ]
    return along(call)


def moved(call: Call) -> list[View]:
    """The numbers of all inputs, through the operation itself."""

    def through(end: str, side: int, nothing: float) -> list[Tensor]:
        def numbers(value: object) -> object:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            view = call.known.get(id(value))
            places = getattr(view, end)[side] if view else torch.full(value.shape, nothing)
            return places if call.name == "copy" else places.contiguous()

        return tree_leaves(
            call.func(*tree_map(numbers, call.args), **tree_map(numbers, call.kwargs))
        )

    ends = [
        through(end, side, inf)
        for end, inf in (("first", math.inf), ("last", -math.inf))
        for side in (0, 1)
    ]
    main = max(call.known.values(), key=lambda view: view.field)
    views = list(call.known.values())
    gated = bool(gates(views)) or any(view.gated for view in views)
    views = (replace(main, first=n[:2], last=n[2:], gated=gated) for n in zip(*ends, strict=True))
    return [view.measured() for view in views]


def convolution(call: Call) -> Step:
    """A convolution along one or two dimensions, transposed or not."""
    if len(call.shape) > 4:
        raise ValueError("a convolution along three dimensions")
    flat = len(call.shape) == 3  # along one dimension, which is taken for a row
    kernel = tuple(call.given["weight"].shape[2:])
    numbers = [((1,) if flat else ()) + kernel]
    for (down, across), neutral in zip(
        call.pairs("stride", "padding", "dilation"), (1, 0, 1), strict=True
    ):
        numbers.append((neutral if flat else down, across))
    size = (1, call.shape[2]) if flat else tuple(call.shape[2:])
    slide = (spreading if call.given["transposed"] else sliding)(size, *numbers)

    def greatest(places: Tensor, jump: Pair) -> Tensor:
        places = places.amax(1, keepdim=True)
        out = slide(places.unsqueeze(2) if flat else places, jump)
        return out.reshape(len(out), 1, *call.shape[2:])

    each = call.given["groups"] == call.given["input"].shape[1] > 1
    kind = "transposed conv" if call.given["transposed"] else "depthwise" if each else "conv"
    return Step(kind, call.view.mixed(greatest, call.shape), *numbers)


def reduction(call: Call) -> Step | list[View]:
    """A mean, sum or maximum along whole dimensions: a pooling where these are sides of maps."""
    view, rank = call.view, call.given["self"].dim()
    dims = call.given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(rank)
    dims, keep = {dim % rank for dim in dims}, call.given.get("keepdim", False)
    after = view.mixed(lambda v, jump: v.amax(sorted(dims), keepdim=keep), call.shape)
    kernel = tuple(n if dims & set(view.dims(i)) else 1 for i, n in enumerate(view.sizes))
    maps_of_one_pixel = rank == 4 and dims == {2, 3}
    return Step("pool", after, kernel) if max(kernel) > 1 or maps_of_one_pixel else [after]


def product(call: Call) -> Step | list[View]:
    """A product of matrices: a linear layer, or what attention makes of two tensors."""
    factors = [value for value in call.args if isinstance(value, Tensor)][-2:]
    found, kernel = [], (1, 1)
    for factor, dim in zip(factors, (-1, -2), strict=True):
        if view := call.known.get(id(factor)):
            summed = dim % factor.dim()
            sides = enumerate(view.sizes)
            kernel = tuple(
                max(kernel[i], n) if summed in view.dims(i) else kernel[i] for i, n in sides
            )
            found.append(view.mixed(over([summed]), call.shape))
    after = joined(found, call.shape)
    if len(found) == 2:
        return Step("attention", after) if max(kernel) > 1 else [after]
    at_every_pixel = max(kernel) == 1 and max(after.sizes) > 1
    return Step("conv" if at_every_pixel else "fc", after, kernel)


def padding_of(pad: list[int]) -> Mixing:
    """Places before and after, as F.pad names them: from the last dimension on."""
    cut, more = ([min(p, 0) for p in pad], [max(p, 0) for p in pad] + [0, 0, 0, 0])

    def greatest(places: Tensor, jump: Pair) -> Tensor:
        places = extended(F.pad(places, cut), jump, more[2:4], more[:2])
        return F.pad(places, [0, 0, 0, 0, *more[4:-4]], value=-math.inf)

    return greatest


def along(call: Call) -> list[View]:
    """Any other operation, if there are no maps any more or it works along no side of theirs."""
    views = list(call.known.values())
    view = views[0] if len(views) == 1 else joined(views, call.shape)
    live = {dim for side in (0, 1) for dim in view.dims(side)}
    dims = call.given.get("dim", call.given.get("dims"))
    dims = [dims] if isinstance(dims, int) else dims
    if live and (not dims or live & {dim % len(call.shape) for dim in dims}):
        raise ValueError("it is not known which pixels it mixes")
    everything = range(view.first[0].dim())
    if not live:
        shape = (1,) * len(call.shape)
        return [view.moved(lambda p: p.amax(list(everything)).reshape(shape).expand(call.shape))]
    return [view.mixed(over(dims), call.shape)]
