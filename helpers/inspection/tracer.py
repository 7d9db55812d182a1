"""The layers of a model and their receptive fields, recorded while the model runs.

The tracer follows every PyTorch operation (ATen). Forward hooks on modules take a few lines, but
they miss functional poolings and convolutions, slices and strided views that skip pixels, branches
that meet (the largest field counts), gates, and modules that are used twice.
"""

import traceback
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.module_tracker import ModuleTracker

from helpers.device import copy_model, eval_mode
from helpers.inspection.op_call import OpCall
from helpers.inspection.operations import MATRIX_PRODUCTS, OpResult, apply_rule, count_mult_adds
from helpers.inspection.receptive_field import Pair, ReceptiveField, find_gates

# An average pooling that leaves a single value is global if its window has at least this share of
# the height and of the width, such as 7x7 of 8x8.
MIN_AVERAGED_SIDE = 0.75


@dataclass(frozen=True)
class Layer:
    """A convolution, pooling, linear layer or change of size, as it ran.

    Sizes are (height, width).

    Attributes:
        name: Kind and number, such as "conv3" or "pool1".
        kind: "conv", "depthwise", "pointwise" (a 1x1 convolution of the output of a depthwise
            one), "transposed conv", "max pool", "average pool", "gmp" or "gap" (global maximum or
            average pooling), "fc", "resize", "join" (branches with different fields meet) or
            "reshape".
        module: Path of the module that ran it, such as "block1.0".
        source: Name of the layer that its input comes from; "input" for the image. Of several, it
            is that of the main branch.
        sources: Names of all layers that its inputs come from.
        nin: Size of the input maps.
        nout: Size of the output maps.
        kernel: Size of the kernel.
        stride: Stride.
        padding: Padding.
        dilation: Dilation.
        jump: Distance in pixels between the fields of neighboring outputs.
        field_in: Receptive field of an input value, in pixels.
        field: Receptive field of an output value, in pixels.
        corner: Top and left, in pixels, of the field of the output value at the center.
        gated: Whether a gate came before it, through which it depends on the whole image.
        gate: Whether its output only scales maps, as in squeeze-and-excitation.
        weights: Names of the parameters that it multiplies and adds.
        mult_adds: Multiply-adds for one image.
        separable: Whether it is a depthwise convolution larger than 1x1 with a pointwise one after
            it.
        is_output: Whether the output of the model comes from it; if from several, from the main
            branch.
    """

    name: str
    kind: str
    module: str
    source: str
    sources: frozenset[str]
    nin: Pair
    nout: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    jump: tuple[Fraction, Fraction]
    field_in: Pair
    field: Pair
    corner: tuple[float, float]
    gated: bool
    weights: tuple[str, ...]
    mult_adds: int
    gate: bool = False
    separable: bool = False
    is_output: bool = False

    @property
    def span(self) -> Pair:
        """Size of the kernel with its dilation, d(k-1)+1."""
        height, width = self.kernel
        return self.dilation[0] * (height - 1) + 1, self.dilation[1] * (width - 1) + 1


@dataclass(frozen=True)
class Trace:
    """What one run of a model shows.

    Attributes:
        layers: The layers that the output depends on, in the order of execution.
        parameters: Names of the parameters that were read.
        num_buffer_weights: How many weights of its layers are no parameters, but buffers.
        mult_adds: Multiply-adds for one image, as torchinfo counts them.
        output: What the model returned for two images.
    """

    layers: list[Layer]
    parameters: set[str]
    num_buffer_weights: int
    mult_adds: int
    output: Tensor


class NotUnderstoodError(ValueError):
    """An operation mixes pixels in a way that the tracer does not know."""


def trace_layers(model: nn.Module, image_size: int = 32) -> list[Layer]:
    """Run a model once and return its layers.

    Args:
        model: The model. A copy of it runs on the CPU, in float32 and in evaluation mode.
        image_size: Height and width of the image.

    Returns:
        The layers in the order of execution.

    Raises:
        NotUnderstoodError: If an operation mixes pixels in an unknown way. The message names the
            operation and the line of the model's source.
    """
    return trace(model, image_size).layers


def trace(model: nn.Module, image_size: int = 32) -> Trace:
    """Run a model once and return its layers and costs.

    Args:
        model: The model. A copy of it runs on the CPU, in float32 and in evaluation mode.
        image_size: Height and width of the image.

    Raises:
        NotUnderstoodError: If an operation mixes pixels in an unknown way.
    """
    model = copy_model(model).cpu().float()
    for parameter in model.parameters():  # ModuleTracker fails on those that require gradients
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, image_size, image_size, generator=generator)
    with eval_mode(model), ModuleTracker() as tracker:
        mode = ReceptiveFieldMode(images, tracker, dict(model.named_parameters()))
        with mode, CircularPaddingMode():
            returned = model(images)
    output = next(value for value in tree_leaves(returned) if isinstance(value, Tensor))
    used = {name for name, value in model.named_parameters() if id(value) in mode.read_ids}
    return Trace(
        layers=mode.layers_of(output),
        parameters=used,
        num_buffer_weights=sum(mode.buffer_weights.values()),
        mult_adds=mode.mult_adds // len(images),
        output=output,
    )


class CircularPaddingMode(TorchFunctionMode):
    """Repeat the border in place of circular padding, which pads with pixels of the other side.

    As with any other padding, what lies beyond the border then counts as if the image went on.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        """Execute a function."""
        arguments = (args, kwargs or {})
        if func is F.pad:
            arguments = tree_map(_replace_circular, arguments)
        args, kwargs = arguments
        return func(*args, **kwargs)


class ReceptiveFieldMode(TorchDispatchMode):
    """Follow images through a model, operation by operation.

    Args:
        images: The images (N, 3, H, W) that the model will be given.
        tracker: Tells which module is running.
        parameters: The parameters of the model by name.

    Attributes:
        layers: The layers so far.
        mult_adds: The multiply-adds so far, for all images.
        buffer_weights: How many weights come from tensors that are no parameters, by the `id`s of
            these tensors.
        read_ids: The `id` of every tensor that an operation has read.
        fields: The receptive fields of all tensors that depend on the images, by `id`.
    """

    def __init__(
        self, images: Tensor, tracker: ModuleTracker, parameters: dict[str, Tensor]
    ) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.mult_adds = 0
        self.buffer_weights: dict[frozenset[int], int] = {}
        self.read_ids: set[int] = set()
        self.fields = {id(images): ReceptiveField.of_image(images.shape)}
        self._tracker = tracker
        self._num_images = len(images)
        self._image_size = (images.shape[2], images.shape[3])
        self._parameter_names = {id(value): name for name, value in parameters.items()}
        # Of tensors without receptive fields, by `id`: the tensors that they were computed from,
        # and that no operation made.
        self._origins: dict[int, dict[int, Tensor]] = {}
        self._keep_alive = [images]  # so that no later tensor gets the id of an earlier one

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        """Execute an operation and record the receptive fields of its outputs."""
        kwargs = kwargs or {}
        returned = func(*args, **kwargs)
        outputs = [value for value in tree_leaves(returned) if isinstance(value, Tensor)]
        call = OpCall(func, args, kwargs, {}, outputs, self._num_images)
        input_ids = [id(value) for value in call.inputs]
        call.input_fields.update({key: self.fields[key] for key in input_ids if key in self.fields})
        self.read_ids.update(input_ids)
        self._keep_alive += outputs
        if not call.input_fields:
            origins = self._find_origins(call.inputs)
            for output in outputs:
                if id(output) not in input_ids:
                    self._origins[id(output)] = origins
        creates_tensor = (
            not input_ids or call.name.startswith("new_") or call.name.endswith("_like")
        )
        if creates_tensor:
            for output in outputs:
                if output.dim() > 2:  # maps, into which the model may write later
                    self.fields[id(output)] = ReceptiveField.empty(output, self._image_size)
        elif call.input_fields and outputs and call.output.dim() > 0:
            try:
                self._record(call)
            except (ValueError, RuntimeError) as error:
                line = self._source_line()
                raise NotUnderstoodError(f"{call.name} in {line}: {error}") from None
        return returned

    def _record(self, call: OpCall) -> None:
        """Store the receptive fields of an operation's outputs, and the layer if it is one."""
        result = apply_rule(call)
        self.mult_adds += self._count_mult_adds(call)
        largest = (
            max(field.size[0] for field in call.fields),
            max(field.size[1] for field in call.fields),
        )
        height, width = result.fields[0].size
        if not result.kind and (height > largest[0] or width > largest[1]):
            kind = "join" if len(call.fields) > 1 else "reshape"
            result = replace(result, kind=kind)
        for gate in find_gates(call.fields, call.adds):
            self._mark_gate(gate.source)
        fields = result.fields
        if result.kind:
            fields = [self._add_layer(call, result)]
        if len(fields) < len(call.outputs):  # such as a maximum and its index
            shape = call.output.shape
            fields = [*fields, *(fields[0] for x in call.outputs[1:] if x.shape == shape)]
        writes_in_place = call.func._schema.is_mutable
        for output, field in zip(call.outputs, fields, strict=False):
            if writes_in_place and id(output) in call.input_fields:
                field = self._write_in_place(call.input_fields[id(output)], field)
            self.fields[id(output)] = field

    def _find_origins(self, tensors: list[Tensor]) -> dict[int, Tensor]:
        """Return the tensors that the given ones were computed from and that no operation made."""
        origins = {}
        for tensor in tensors:
            origins |= self._origins.get(id(tensor), {id(tensor): tensor})
        return origins

    def _count_mult_adds(self, call: OpCall) -> int:
        """Return the multiply-adds of an operation, and remember weights that are buffers."""
        weights = [value for value in call.inputs if id(value) not in call.input_fields]
        if call.name != "convolution" and call.name not in MATRIX_PRODUCTS:
            names = self._parameter_names.keys()
            trained = [value for value in weights if names & self._find_origins([value])]
            return self._num_images * sum(value.numel() for value in trained)
        if weights:
            weight = max(weights, key=Tensor.numel)  # not the bias
            origins = self._find_origins([weight])
            buffers = {k: v for k, v in origins.items() if k not in self._parameter_names}
            in_parameters = sum(v.numel() for k, v in origins.items() if k not in buffers)
            in_buffers = sum(value.numel() for value in buffers.values())
            number = min(weight.numel() - in_parameters, in_buffers)
            if number > 0:
                self.buffer_weights[frozenset(buffers)] = number
        return count_mult_adds(call)

    def layers_of(self, output: Tensor) -> list[Layer]:
        """Return the layers that an output depends on, in the order of execution."""
        field = self.fields.get(id(output))
        if field is None:
            return self.layers
        by_name = {layer.name: layer for layer in self.layers}
        found: set[str] = set()
        names = set(field.sources)
        while names:
            found |= names
            names = {s for name in names if name in by_name for s in by_name[name].sources} - found
        layers = [layer for layer in self.layers if layer.name in found]
        ends = [x for x in layers if x.name in field.sources and not x.gate]
        # Of several with the same field, the last: it may read the others.
        end = max(reversed(ends), key=lambda layer: layer.field, default=None)
        return [replace(layer, is_output=layer is end) for layer in layers]

    def _mark_gate(self, name: str) -> None:
        """Mark a layer and those before it as a gate, back to the one that still reads maps."""
        for index, layer in reversed(list(enumerate(self.layers))):
            if layer.name == name and 1 in layer.nout:
                self.layers[index] = replace(layer, gate=True)
                name = layer.source

    def _write_in_place(self, old: ReceptiveField, new: ReceptiveField) -> ReceptiveField:
        """Write new bounds into a tensor's bounds, and update all tensors that share its memory."""
        for old_bound, new_bound in zip(old.bounds, new.bounds, strict=True):
            old_bound.copy_(new_bound)
        memory = old.bounds[0].untyped_storage().data_ptr()
        new = replace(new, sources=old.sources | new.sources)
        for key, field in self.fields.items():
            if field.bounds[0].untyped_storage().data_ptr() == memory:
                self.fields[key] = replace(new, bounds=field.bounds).measure_jump()
        return replace(new, bounds=old.bounds)

    def _add_layer(self, call: OpCall, result: OpResult) -> ReceptiveField:
        """Append a layer, and return the receptive fields of its output with it as their source."""
        field_in = max(call.fields, key=lambda field: field.size)
        sources = frozenset().union(*(field.sources for field in call.fields))
        weights = self._find_origins([x for x in call.inputs if id(x) not in call.input_fields])
        nin, padding = field_in.map_size, result.padding
        if field_in.unpadded and field_in.unpadded[1] == nin and result.kernel != (1, 1):
            nin = field_in.unpadded[0]
            padding = (padding[0] + field_in.padding[0], padding[1] + field_in.padding[1])
        field_out = result.fields[0]
        source = next((layer for layer in self.layers if layer.name == field_in.source), None)
        kind = self._refine_kind(call.name, field_in, result, source)
        stride = result.stride
        if kind in ("gap", "gmp"):
            stride = (1, 1)  # as the published tables have it
        if result.kind == "conv" and result.kernel == (1, 1):
            self._mark_separable(sources)
        layer = Layer(
            name=self._next_name(kind),
            kind=kind,
            module=self._module_path(),
            source=field_in.source,
            sources=sources,
            nin=nin,
            nout=field_out.map_size,
            kernel=result.kernel,
            stride=stride,
            padding=padding,
            dilation=result.dilation,
            jump=field_out.jump,
            field_in=field_in.size,
            field=field_out.size,
            corner=field_out.corner,
            gated=field_in.gated,
            weights=tuple(self._parameter_names[k] for k in weights if k in self._parameter_names),
            mult_adds=self._count_mult_adds(call) // self._num_images,
        )
        if source and _is_second_half(layer, source):
            self.layers.remove(source)
            layer = replace(
                layer,
                kernel=source.nin,
                source=source.source,
                sources=source.sources,
                nin=source.nin,
                field_in=source.field_in,
            )
        self.layers.append(layer)
        return replace(
            field_out,
            source=layer.name,
            sources=frozenset([layer.name]),
            pooled=kind in ("gap", "gmp") and field_out.jump == field_in.jump,
            unpadded=None,
        )

    def _mark_separable(self, names: frozenset[str]) -> None:
        """Mark the depthwise convolutions larger than 1x1 among layers that a 1x1 one reads."""
        for index, layer in enumerate(self.layers):
            if layer.name in names and layer.kind == "depthwise" and max(layer.kernel) > 1:
                self.layers[index] = replace(layer, separable=True)

    def _refine_kind(
        self, op: str, field_in: ReceptiveField, result: OpResult, source: Layer | None
    ) -> str:
        """Return the kind of a layer: which pooling it is, and whether a 1x1 is pointwise."""
        if result.kind == "pool":
            is_maximum = "max" in op or "min" in op
            height, width = field_in.map_size
            share = 1 if is_maximum else MIN_AVERAGED_SIDE
            covers_maps = result.kernel[0] >= share * height and result.kernel[1] >= share * width
            if covers_maps and result.fields[0].map_size == (1, 1):
                return "gmp" if is_maximum else "gap"
            return "max pool" if is_maximum else "average pool"
        after_depthwise = source is not None and source.kind == "depthwise"
        if result.kind == "conv" and result.kernel == (1, 1) and after_depthwise:
            return "pointwise"
        return result.kind

    def _next_name(self, kind: str) -> str:
        """Return the name of the next layer of a kind: "conv1", "pool2"; "gap", then "gap2"."""
        word = kind.split()[-1]
        number = 1 + sum(layer.kind.endswith(word) for layer in self.layers)
        return f"{word}{number}" if word in ("conv", "pool") or number > 1 else word

    def _module_path(self) -> str:
        """Return the path of the innermost module that is running, such as "block1.0"."""
        names = self._tracker.parents - {"Global"}
        innermost = max(names, key=len, default="")
        return innermost.partition(".")[2]  # without the class of the model

    def _source_line(self) -> str:
        """Return the line of the model's source that is running, or else its module."""
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path == Path(__file__):
                if frame.name == trace.__name__:
                    break
            elif not path.is_relative_to(Path(torch.__file__).parent):
                return f"{path.name}:{frame.lineno} ({frame.line})"
        return max(self._tracker.parents, key=len)


def _replace_circular(value: Any) -> Any:
    """Return "replicate" in place of "circular"."""
    return "replicate" if isinstance(value, str) and value == "circular" else value


def _is_second_half(layer: Layer, source: Layer) -> bool:
    """Tell whether a layer completes a global pooling that works along one side at a time."""
    halves = {"gap": "average pool", "gmp": "max pool"}
    return source.kind == halves.get(layer.kind) and 1 in source.nout
