"""The effect of each PyTorch operation (ATen) on receptive fields, and whether it is a layer.

Every rule takes a `call`, the operation as it ran, and returns its effect.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from helpers.inspection.op_call import OpCall
from helpers.inspection.receptive_field import (
    Pair,
    ReceptiveField,
    Slope,
    join,
    merge_branches,
    pad_bounds,
    reduce_dims,
    select_bounds,
    slide_window,
)


@dataclass(frozen=True)
class OpResult:
    """The effect of an operation.

    Attributes:
        fields: The receptive fields of its outputs.
        kind: The kind of layer that it is; "" if it is none.
        kernel: Height and width of its kernel.
        stride: Stride of the kernel, down and across.
        padding: Padding above and on the left.
        dilation: Dilation of the kernel, down and across.
    """

    fields: list[ReceptiveField]
    kind: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


# ATen's names. An output of these depends on the input at the same position only. Normalization
# also depends on statistics of all positions, which by convention do not count.
ELEMENTWISE = {
    "detach", "alias", "to_copy", "contiguous", "lift_fresh", "bernoulli", "native_dropout",
    "prelu_kernel", "masked_fill", "where", "rrelu_with_noise", "native_batch_norm",
    "native_batch_norm_legit", "native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "native_layer_norm", "native_group_norm",
}  # fmt: skip
# These move values without mixing them.
MOVEMENTS = {
    "view", "unsafe_view", "reshape", "reshape_alias", "squeeze", "unsqueeze", "permute", "t",
    "transpose", "expand", "repeat", "slice", "select", "split", "split_with_sizes", "unsafe_split",
    "unbind", "chunk", "cat", "stack", "index", "index_select", "gather", "roll", "flip", "unfold",
    "diagonal", "channel_shuffle", "native_channel_shuffle", "copy", "clone",
}  # fmt: skip
# These move values as well, and count as layers.
RESIZES = {"pixel_shuffle", "pixel_unshuffle", "upsample_nearest2d", "upsample_nearest_exact2d"}
MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
# These mix all values along some dimensions.
REDUCTIONS = {
    "mean", "sum", "amax", "max", "amin", "min", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "any", "all",
}  # fmt: skip


SMALLEST_GLOBAL_WINDOW = 4  # a smaller pooling window that covers its maps is a step like others


def apply_rule(call: OpCall) -> OpResult:
    """Return the effect of an executed operation.

    Raises:
        ValueError: If it is unknown which pixels the operation mixes.
    """
    name = call.name
    if torch.Tag.pointwise in call.func.tags or name in ELEMENTWISE:
        return OpResult([merge_branches(call.fields, call.output, call.adds)])
    if name == "gather" and id(call.arguments["index"]) in call.input_fields:
        return gather_rule(call)
    if name in MOVEMENTS or name in RESIZES:
        return permute_rule(call)
    if name in REDUCTIONS:
        return reduce_rule(call)
    if name in MATRIX_PRODUCTS:
        return matmul_rule(call)
    if name == "convolution" and call.output.dim() == 4:
        return convolution_rule(call)
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        return pooling_rule(call)
    if name.endswith(("pad_nd", "pad2d")):
        return padding_rule(call)
    return fallback_rule(call)


def count_mult_adds(call: OpCall) -> int:
    """Return the multiply-adds of an operation for all images, as torchinfo counts them.

    A convolution or linear layer multiplies each weight, and adds each bias, once for every output
    position. Other operations, such as normalization, count once for each parameter that they read.
    """
    if call.name == "convolution":
        weight = call.arguments["weight"]
        maps = call.inputs[0] if call.arguments["transposed"] else call.output
        bias = call.output.numel() if call.arguments["bias"] is not None else 0
        return maps.numel() * weight[0].numel() + bias
    if call.name in MATRIX_PRODUCTS:
        first = call.inputs[-2]
        return call.output.numel() * (first.shape[-1] + len(call.inputs) - 2)
    return 0


def padding_rule(call: OpCall) -> OpResult:
    """Return the effect of padding, which the layer that reads the padded maps has as its own."""
    amounts = call.arguments.get("pad") or call.arguments["padding"]
    field = call.fields[0]
    output = field.apply(pad_bounds(amounts), call.output)
    sides = [*amounts[:4], 0, 0, 0, 0][:4]  # left, right, above, below
    if any(sides) and min(sides) >= 0:
        sizes = (field.map_size, output.map_size)
        output = replace(output, unpadded=sizes, padding=(sides[2], sides[0]))
    return OpResult([output])


def gather_rule(call: OpCall) -> OpResult:
    """Return the effect of picking values by an index that is computed from the image.

    Raises:
        ValueError: If it picks positions of the maps, not channels.
    """
    values = call.input_fields.get(id(call.inputs[0]))
    fields = [call.input_fields[id(call.arguments["index"])]]
    if values:
        if call.dims & {*values.spatial_dims[0], *values.spatial_dims[1]}:
            raise ValueError(
                "its index depends on the image: it is not known which pixels it reads"
            )
        fields.append(values.apply(reduce_dims(call.dims), call.output))
    return OpResult([merge_branches(fields, call.output)])


def permute_rule(call: OpCall) -> OpResult:
    """Return the effect of moving values: the operation moves the bounds in the same way."""
    image_size = call.fields[0].image_size
    fields = {
        id(value): ReceptiveField.empty(value, image_size)
        for value in call.inputs
        if value.is_floating_point()
    }
    fields.update(call.input_fields)
    # For each of the four bounds, a tensor for each output.
    moved = [
        call.rerun({key: field.bounds[side] for key, field in fields.items()}) for side in range(4)
    ]
    outputs = [
        join(call.fields, bounds).merge_views(call.num_images)
        for bounds in zip(*moved, strict=True)
    ]
    return OpResult(outputs, "resize" if call.name in RESIZES else "")


def convolution_rule(call: OpCall) -> OpResult:
    """Return the effect of a convolution of maps, transposed or not."""
    field = call.fields[0]
    jump = field.jump
    if field.pooled and field.map_size == (1, 1):  # what pads a single value is no pixel
        field = replace(field, jump=(Fraction(0), Fraction(0)))
    output_size = tuple(call.output.shape[2:])
    kernel = tuple(call.arguments["weight"].shape[2:])
    stride = call.as_pair("stride")
    padding = call.as_pair("padding")
    dilation = call.as_pair("dilation")
    transposed = call.arguments["transposed"]
    if transposed:
        kind = "transposed conv"
        along_maps = select_bounds(*call.probe_dependencies(call.inputs[0]))
    else:
        is_depthwise = call.arguments["groups"] == call.inputs[0].shape[1] > 1
        kind = "depthwise" if is_depthwise else "conv"
        along_maps = slide_window(output_size, kernel, stride, padding, dilation)
    over_channels = reduce_dims([1])

    def convolve(bound: torch.Tensor, slope: Slope) -> torch.Tensor:
        return along_maps(over_channels(bound, slope), slope)

    output = replace(field.apply(convolve, call.output), jump=jump)
    output = output.measure_jump()
    if not transposed:
        output = output.multiply_jump(output_size, stride)
    return OpResult([output], kind, kernel, stride, padding, dilation)


def pooling_rule(call: OpCall) -> OpResult:
    """Return the effect of a pooling with a sliding kernel."""
    input_size = tuple(call.inputs[0].shape[-2:])
    output_size = tuple(call.output.shape[-2:])
    kernel = call.as_pair("kernel_size")
    stride = call.as_pair("stride") if call.arguments["stride"] else kernel
    padding = call.as_pair("padding")
    dilation = call.as_pair("dilation") if "dilation" in call.arguments else (1, 1)
    window = slide_window(output_size, kernel, stride, padding, dilation)
    output = call.fields[0].apply(window, call.output)
    covers_maps = input_size[0] <= kernel[0] and input_size[1] <= kernel[1]
    # A small window halves the maps even where they are no larger than it.
    if not covers_maps or max(kernel) < SMALLEST_GLOBAL_WINDOW:
        output = output.multiply_jump(output_size, stride)
    return OpResult([output], "pool", kernel, stride, padding, dilation)


def reduce_rule(call: OpCall) -> OpResult:
    """Return the effect of a mean, sum or maximum. It is a pooling if it reduces sides of maps."""
    field = call.fields[0]
    output = field.apply(reduce_dims(call.dims, call.arguments.get("keepdim", False)), call.output)
    kernel = _reduced_size(field, call.dims)
    pools_single_pixels = call.inputs[0].dim() == 4 and call.dims == {2, 3}
    is_pooling = max(kernel) > 1 or pools_single_pixels
    return OpResult([output], "pool" if is_pooling else "", kernel)


def matmul_rule(call: OpCall) -> OpResult:
    """Return the effect of a matrix product: a linear layer, or a product of two activations."""
    fields = []
    kernel = (1, 1)
    for factor, summed_dim in zip(call.inputs[-2:], (-1, -2), strict=True):
        field = call.input_fields.get(id(factor))
        if field:
            kernel = _reduced_size(field, {summed_dim % factor.dim()})
            fields.append(field.apply(reduce_dims([summed_dim]), call.output))
    output = merge_branches(fields, call.output)
    if len(fields) == 2:  # as in attention
        return OpResult([output])
    is_pointwise = max(kernel) == 1 and max(output.map_size) > 1
    return OpResult([output], "conv" if is_pointwise else "fc", kernel)


def fallback_rule(call: OpCall) -> OpResult:
    """Return the effect of any other operation, if its dependencies can be told.

    They can if the input has no spatial dimension left, if the operation works along other
    dimensions, or if probing shows how it maps one input (N, C, H, W) to maps.

    Raises:
        ValueError: If it is unknown which pixels the operation mixes.
    """
    fields = call.fields
    field = fields[0] if len(fields) == 1 else merge_branches(fields, call.output)
    spatial_dims = {*field.spatial_dims[0], *field.spatial_dims[1]}
    if not spatial_dims:
        reduce_all = reduce_dims(range(field.bounds[0].dim()), keepdim=False)
        return OpResult([field.apply(reduce_all, call.output)])
    if "dim" in call.arguments and not spatial_dims & call.dims:
        return OpResult([field.apply(reduce_dims(call.dims), call.output)])

    maps = call.inputs[0]
    is_only_input = list(call.input_fields) == [id(maps)]
    if not is_only_input or maps.dim() != 4 or call.output.dim() != 4:
        raise ValueError("it is not known which pixels it mixes")
    output = field.apply(select_bounds(*call.probe_dependencies(maps)), call.output)
    input_size = tuple(maps.shape[2:])
    output_size = tuple(call.output.shape[2:])
    if "pool" in call.name:
        kernel = tuple(math.ceil(n / m) for n, m in zip(input_size, output_size, strict=True))
        return OpResult([output], "pool", kernel, kernel)
    return OpResult([output], "resize" if output_size != input_size else "")


def _reduced_size(field: ReceptiveField, dims: set[int]) -> Pair:
    """Return height and width of the maps, with 1 for a side that the dimensions do not reduce."""
    height, width = field.map_size
    return (
        height if dims & set(field.spatial_dims[0]) else 1,
        width if dims & set(field.spatial_dims[1]) else 1,
    )
