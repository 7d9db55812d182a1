"""The layers of a network and what they see, read off the operations that it executes."""

import contextlib
import copy
import random
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from tracing.calls import Call
from tracing.operations import Step, understood
from tracing.views import Pair, View, gates


@dataclass(frozen=True)
class Layer:
    """A convolution, pooling, linear layer or change of size, as it ran; pairs are (height, width).

    `kind` is conv, depthwise, pointwise (a 1x1 convolution that reads a depthwise one), transposed
    conv, max pool, average pool, gmp or gap (these two over the whole map), fc, resize,
    join (branches that see different pixels meet) or reshape. `module` is its path in the network,
    `source` the name of the layer that it reads. `jump` is the distance in input pixels of
    neighbouring outputs; `reads` and `field` are the pixels that one value of its input and of its
    output sees, `corner` top and left of what the output in the middle sees. `gate`: the output
    only scales maps, as in squeeze-and-excitation; `gated`: such a gate came before, through which
    all is seen.
    """

    name: str
    kind: str
    module: str
    source: str
    nin: Pair
    nout: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    jump: tuple[Fraction, Fraction]
    reads: Pair
    field: Pair
    corner: Pair
    gated: bool
    gate: bool = False
    separable: bool = False  # a depthwise convolution over 1x1 that a pointwise one reads

    @property
    def span(self) -> Pair:
        """The pixels that the kernel spans, d(kernel-1)+1."""
        height, width = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return height, width


class NotUnderstoodError(ValueError):
    """An operation mixes pixels in a way that is not known here."""


def layers(model: nn.Module, image_size: int = 32) -> list[Layer]:
    """The layers for an image of 3 x image_size x image_size, in the order of execution.

    Where branches meet, their views are joined. The network is left as it was: a copy is run once,
    on the CPU, in float32 and in evaluation mode. Raises NotUnderstoodError, with the operation and
    the line of the network's source, where pixels are mixed in a way that is not known here.
    """
    return watched(model, image_size)[0]


def watched(model: nn.Module, image_size: int = 32) -> tuple[list[Layer], set[str]]:
    """The layers, and the names of the parameters that took part."""
    # What the values see is noted on the CPU, whatever device trains; the module tracker stumbles
    # over weights that want gradients.
    network = copy.deepcopy(model).cpu().float().requires_grad_(False)
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with at_rest(network), ModuleTracker() as tracker, Watch(images, tracker) as watch:
        network(images)
    return watch.layers, {name for name, p in network.named_parameters() if id(p) in watch.read}


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, without gradients; modes and random states come back."""
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, training in modes.items():
            module.training = training


class Watch(TorchDispatchMode):
    """Follows images (N, 3, H, W) through a network, one of PyTorch's operations at a time."""

    def __init__(self, images: Tensor, tracker: ModuleTracker):
        super().__init__()
        self.layers: list[Layer] = []
        self.read: set[int] = set()  # the identities of all tensors that took part
        self.tracker = tracker
        self.image = tuple(images.shape[2:])
        self.views = {id(images): View.of_image(images.shape)}
        self.kept = [images]  # so that its identity is given to no other tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Execute an operation, and note what its outputs see."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        outputs = [value for value in tree_leaves(made) if isinstance(value, Tensor)]
        call = Call(func, args, kwargs, {}, outputs)
        inputs = [id(value) for value in call.inputs]
        call.known.update({key: self.views[key] for key in inputs if key in self.views})
        self.read.update(inputs)
        self.kept += outputs
        if not inputs or call.name.startswith("new_") or call.name.endswith("_like"):
            blank = (value for value in outputs if value.dim() > 2)
            self.views |= {id(value): View.blank(value, self.image) for value in blank}
        elif call.known and outputs and call.output.dim():
            try:
                self._note(call)
            except (ValueError, RuntimeError) as error:
                raise NotUnderstoodError(f"{call.name} in {self._place()}: {error}") from None
        return made

    def _note(self, call: Call) -> None:
        step = understood(call)
        widest = max(call.views, key=lambda view: view.field)
        most = [max(view.field[side] for view in call.views) for side in (0, 1)]
        if not step.kind and any(map(int.__gt__, step.views[0].field, most)):
            step = replace(step, kind="join" if len(call.views) > 1 else "reshape")
        for gate in gates(call.views):
            self._scales(gate.source)
        views = [self._layer(call.name, widest, step)] if step.kind else step.views
        for output, view in zip(call.outputs, views, strict=False):
            if call.func._schema.is_mutable and id(output) in call.known:
                view = self._written(call.known[id(output)], view)
            self.views[id(output)] = view

    def _scales(self, name: str) -> None:
        """The layers of a gate, back to the one that still had maps, are marked as such."""
        for place, layer in reversed(list(enumerate(self.layers))):
            if layer.name == name and 1 in layer.nout:
                self.layers[place] = replace(layer, gate=True)
                name = layer.source

    def _written(self, old: View, new: View) -> View:
        """What is written into a tensor is seen by all that share its memory."""
        for numbers, others in zip(old.reach, new.reach, strict=True):
            numbers.copy_(others)
        memory = old.reach[0].untyped_storage().data_ptr()
        for key, view in self.views.items():
            if view.reach[0].untyped_storage().data_ptr() == memory:
                self.views[key] = replace(new, reach=view.reach).measured()
        return replace(new, reach=old.reach)

    def _layer(self, name: str, before: View, step: Step) -> View:
        after, kind = step.views[0], step.kind
        source = next((x for x in self.layers if x.name == before.source), None)
        if kind == "pool":
            whole = after.sizes == (1, 1) and all(map(int.__ge__, step.kernel, before.sizes))
            # In the published tables the global one takes one step of one pixel.
            step = replace(step, stride=(1, 1)) if whole else step
            most = "max" in name or "min" in name
            part = "max pool" if most else "average pool"
            kind = ("gmp" if most else "gap") if whole else part
        elif kind == "conv" and step.kernel == (1, 1) and source and source.kind == "depthwise":
            kind = "pointwise"
            if max(source.kernel) > 1:
                self.layers[self.layers.index(source)] = replace(source, separable=True)
        label = kind.split()[-1]
        number = 1 + sum(layer.kind.endswith(label) for layer in self.layers)
        label = f"{label}{number}" if label in ("conv", "pool") or number > 1 else label
        path = max(self.tracker.parents - {"Global"}, key=len, default="").partition(".")[2]
        where = (label, kind, path, before.source, before.sizes, after.sizes)
        numbers = step.kernel, step.stride, step.padding, step.dilation
        fields = before.field, after.field, after.corner, before.gated
        layer = Layer(*where, *numbers, after.jump, *fields)
        if kind in ("gap", "gmp") and source and source.kind == part and 1 in source.nout:
            # Along one side, then along the other.
            self.layers.remove(source)
            same = {name: getattr(source, name) for name in ("source", "nin", "reads")}
            layer = replace(layer, kernel=source.nin, **same)
        self.layers.append(layer)
        return replace(after, source=label)

    def _place(self) -> str:
        """The line of the network's source that is being executed, or else its module."""
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path == Path(__file__) and frame.name == "watched":
                break
            if path != Path(__file__) and not path.is_relative_to(Path(torch.__file__).parent):
                return f"{path.name}:{frame.lineno} ({frame.line})"
        return max(self.tracker.parents, key=len)
