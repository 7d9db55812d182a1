"""What PyTorch's operations (ATen) do to the views of their inputs, and which are layers."""

from dataclasses import dataclass

import torch

from tracing.calls import Call
from tracing.views import Pair, View, joined, met, over, padding, reading, sliding


@dataclass(frozen=True)
class Step:
    """What an operation does: the views of its outputs; what kind of layer it is, "" for none.

    As a layer it has a kernel, and how that moves.
    """

    views: list[View]
    kind: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


# By ATen's names. These give for a pixel what depends on that pixel alone or, in normalisation, on
# statistics, which by convention do not count.
KEEP = {
    "detach", "alias", "to_copy", "contiguous", "lift_fresh", "bernoulli", "native_dropout",
    "prelu_kernel", "masked_fill", "where", "rrelu_with_noise", "native_batch_norm",
    "native_batch_norm_legit", "native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "native_layer_norm", "native_group_norm",
}  # fmt: skip
MOVE = {
    "view", "unsafe_view", "reshape", "reshape_alias", "squeeze", "unsqueeze", "permute", "t",
    "transpose", "expand", "repeat", "slice", "select", "split", "split_with_sizes", "unsafe_split",
    "unbind", "chunk", "cat", "stack", "index", "index_select", "gather", "roll", "flip", "unfold",
    "diagonal", "channel_shuffle", "native_channel_shuffle", "copy", "clone",
}  # fmt: skip
RESIZE = {"pixel_shuffle", "pixel_unshuffle", "upsample_nearest2d", "upsample_nearest_exact2d"}
REDUCE = {
    "mean", "sum", "amax", "max", "amin", "min", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "any", "all",
}  # fmt: skip


def understood(call: Call) -> Step:
    """What an operation does. Raises ValueError where it is not known which pixels it mixes."""
    name = call.name
    if torch.Tag.pointwise in call.func.tags or name in KEEP:
        return Step([joined(call.views, call.output)])
    if name in MOVE or name in RESIZE:
        return moving(call)
    if name in REDUCE:
        return reduction(call)
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        return product(call)
    if name == "convolution" and call.output.dim() == 4:
        return convolution(call)
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        return pooling(call)
    if name.endswith(("pad_nd", "pad2d")):
        amounts = call.given.get("pad") or call.given["padding"]
        return Step([call.views[0].mixed(padding(amounts), call.output)])
    return other(call)


def moving(call: Call) -> Step:
    """Values change their places: the numbers of all inputs go through the operation itself."""
    image, inputs = call.views[0].image, call.inputs
    views = {id(v): View.blank(v, image) for v in inputs if v.is_floating_point()} | call.known
    ends = (call.again({key: view.reach[i] for key, view in views.items()}) for i in range(4))
    after = [met(call.views, reach) for reach in zip(*ends, strict=True)]
    return Step(after, "resize" if call.name in RESIZE else "")


def convolution(call: Call) -> Step:
    """A convolution of maps, transposed or not."""
    kernel = tuple(call.given["weight"].shape[2:])
    numbers = [kernel, *map(call.pair, ("stride", "padding", "dilation"))]
    if call.given["transposed"]:
        kind, slide = "transposed conv", reading(*call.probed(call.inputs[0]))
    else:
        slide = sliding(tuple(call.output.shape[2:]), *numbers)
        each = call.given["groups"] == call.inputs[0].shape[1] > 1
        kind = "depthwise" if each else "conv"
    channels = over([1])
    after = call.views[0].mixed(lambda v, growth: slide(channels(v, growth), growth), call.output)
    if not call.given["transposed"]:
        after = after.strided(call.output.shape[2:], numbers[1])
    return Step([after], kind, *numbers)


def pooling(call: Call) -> Step:
    """A pooling with a kernel that slides."""
    kernel, edge = call.pair("kernel_size"), call.pair("padding")
    stride = call.pair("stride") if call.given["stride"] else kernel
    dilation = call.pair("dilation") if "dilation" in call.given else (1, 1)
    numbers = kernel, stride, edge, dilation
    after = call.views[0].mixed(sliding(call.output.shape[-2:], *numbers), call.output)
    if any(n > k for n, k in zip(call.inputs[0].shape[-2:], kernel, strict=True)):  # not global
        after = after.strided(call.output.shape[-2:], stride)
    return Step([after], "pool", *numbers)


def reduction(call: Call) -> Step:
    """A mean, sum or maximum along whole dimensions: a pooling where these are sides of maps."""
    view = call.views[0]
    after = view.mixed(over(call.dims, call.given.get("keepdim", False)), call.output)
    kernel = tuple(n if call.dims & set(view.dims[i]) else 1 for i, n in enumerate(view.sizes))
    maps_of_one_pixel = call.inputs[0].dim() == 4 and call.dims == {2, 3}
    return Step([after], "pool" if max(kernel) > 1 or maps_of_one_pixel else "", kernel)


def product(call: Call) -> Step:
    """A product of matrices: a linear layer, or of two tensors that both see, as in attention."""
    found, kernel = [], (1, 1)
    for factor, dim in zip(call.inputs[-2:], (-1, -2), strict=True):
        if view := call.known.get(id(factor)):
            summed = [dim % factor.dim() in view.dims[side] for side in (0, 1)]
            kernel = tuple(n if all_ else 1 for n, all_ in zip(view.sizes, summed, strict=True))
            found.append(view.mixed(over([dim]), call.output))
    after = joined(found, call.output)
    if len(found) == 2:
        return Step([after])
    at_every_pixel = max(kernel) == 1 and max(after.sizes) > 1
    return Step([after], "conv" if at_every_pixel else "fc", kernel)


def other(call: Call) -> Step:
    """Any other operation: on what is no map any more, along no side of maps, or of maps alone."""
    view = call.views[0] if len(call.views) == 1 else joined(call.views, call.output)
    live = {dim for side in (0, 1) for dim in view.dims[side]}
    if not live:
        return Step([view.mixed(over(range(view.reach[0].dim()), keepdim=False), call.output)])
    if "dim" in call.given and not live & call.dims:
        return Step([view.mixed(over(call.dims), call.output)])
    maps = call.inputs[0]
    if list(call.known) != [id(maps)] or maps.dim() != 4 or call.output.dim() != 4:
        raise ValueError("it is not known which pixels it mixes")
    before, after = maps.shape[2:], call.output.shape[2:]
    seen = [view.mixed(reading(*call.probed(maps)), call.output)]
    if "pool" in call.name:
        kernel = tuple(-(-b // a) for b, a in zip(before, after, strict=True))
        return Step(seen, "pool", kernel, kernel)
    return Step(seen, "resize" if after != before else "")
