"""The layers of a network and what they see, read off the network itself with torch.fx."""

import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
KINDS = {nn.Conv2d: "conv", nn.Linear: "fc", **dict.fromkeys(POOLINGS, "pool")}


@dataclass(frozen=True)
class Layer:
    """A convolution, pooling or linear layer; `source` is the layer whose output it reads.

    `k` counts the pixels that a kernel spans, d(kernel-1)+1; `jump` is the distance in input
    pixels between neighbouring outputs, `field` the side of the square that one output sees.
    """

    name: str
    kind: str  # "conv", "pool", "global pool" or "fc"
    module: nn.Module
    source: "Layer | None"
    nin: int
    nout: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    jump: int
    field: int

    @property
    def k(self) -> int:
        """Pixels that the kernel spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def shrinks(self) -> bool:
        """Its output is a smaller map than its input."""
        return self.nout < self.nin

    @property
    def is_depthwise(self) -> bool:
        """A convolution of every channel by itself."""
        return self.kind == "conv" and self.module.groups == self.module.in_channels > 1

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution of all channels."""
        return self.kind == "conv" and self.kernel == 1 and self.module.groups == 1

    @property
    def is_separable(self) -> bool:
        """The pointwise half of a depthwise separable convolution whose kernel is over 1x1."""
        return self.is_pointwise and bool(
            self.source and self.source.is_depthwise and self.source.kernel > 1
        )

    @property
    def is_dilated(self) -> bool:
        """A dilated convolution over 1x1: a kernel of one pixel has nothing to dilate."""
        return self.kind == "conv" and self.kernel > 1 and self.dilation > 1


def _side(module: nn.Module, attribute: str, default: int) -> int:
    value = getattr(module, attribute, default)
    sides = set(value) if isinstance(value, tuple) else {value}
    if len(sides) > 1 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"{attribute}={value} of {module}: only squares are understood")
    return sides.pop()


def layers(model: nn.Module, image_size: int = 32) -> list[Layer]:
    """The layers in the order of execution, for images (N, 3, image_size, image_size).

    Where branches meet, the widest view goes on. The model is left untouched. Raises ValueError
    for a kernel, stride, padding or dilation that is not square.
    """
    graph = fx.symbolic_trace(copy.deepcopy(model).cpu().eval())
    with torch.no_grad():
        ShapeProp(graph).propagate(torch.zeros(1, 3, image_size, image_size))
    modules, found = dict(graph.named_modules()), []
    views: dict[fx.Node, tuple[int, int, Layer | None]] = {}  # jump, field and layer at a node
    for node in graph.graph.nodes:
        jump, field, source = max(
            (views[n] for n in node.all_input_nodes), key=lambda v: v[1], default=(1, 1, None)
        )
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.target is F.avg_pool2d:
            module = nn.AvgPool2d(*node.args[1:], **node.kwargs)
        if kind := KINDS.get(type(module)):
            nin, nout = (
                n.meta["tensor_meta"].shape[-1] if kind != "fc" else 1
                for n in (node.all_input_nodes[0], node)
            )
            if kind == "pool" and nin > 1 and nout == 1:
                kind = "global pool"
            kernel = nin if kind == "global pool" else _side(module, "kernel_size", 1)
            # The published tables let the global pooling take one step of one pixel.
            stride = 1 if kind == "global pool" else _side(module, "stride", 1)
            dilation = _side(module, "dilation", 1)
            name = _name(kind, module, kernel, found)
            layer = Layer(
                name=name, kind=kind, module=module, source=source, nin=nin, nout=nout,
                kernel=kernel, stride=stride, padding=_side(module, "padding", 0),
                dilation=dilation, jump=jump * stride,
                field=field + dilation * (kernel - 1) * jump,
            )  # fmt: skip
            found.append(layer)
            jump, field, source = layer.jump, layer.field, layer
        views[node] = (jump, field, source)
    return found


def _name(kind: str, module: nn.Module, kernel: int, found: list[Layer]) -> str:
    groups = getattr(module, "groups", 1)
    name = kind
    if kind == "global pool":
        name = "gmp" if isinstance(module, nn.MaxPool2d | nn.AdaptiveMaxPool2d) else "gap"
    elif kind == "conv" and groups == module.in_channels > 1:
        name = "depthwise"
    elif kind == "conv" and kernel == groups == 1 and found and found[-1].is_depthwise:
        name = "pointwise"
    number = 1 + sum(layer.name.rstrip("0123456789") == name for layer in found)
    return f"{name}{number}" if name in ("conv", "pool") or number > 1 else name


def receptive_field(found: list[Layer]) -> tuple[int, int]:
    """The receptive field in pixels of what goes into the global pooling, and of the output."""
    whole = max(layer.field for layer in found)
    pooling = next((layer for layer in found if layer.kind == "global pool"), None)
    return pooling.field - (pooling.k - 1) * pooling.jump if pooling else whole, whole


def table(found: list[Layer]) -> pd.DataFrame:
    """The published table: layer, Nin, k, p, s, Nout, Jout, Rout."""
    rows: list[tuple[Any, ...]] = [("input", 0, 0, 0, 0, found[0].nin, 1, 1)]
    rows += [(x.name, x.nin, x.k, x.padding, x.stride, x.nout, x.jump, x.field) for x in found]
    columns = ["layer", "Nin", "k", "p", "s", "Nout", "Jout", "Rout"]
    return pd.DataFrame(rows, columns=columns).set_index("layer")
