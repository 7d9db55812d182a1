"""The layers of a network and what they see, read off the network itself with torch.fx."""

import copy

import pandas as pd
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

KINDS = {
    nn.Conv2d: "conv", nn.Linear: "fc", nn.MaxPool2d: "max pool", nn.AdaptiveMaxPool2d: "max pool",
    nn.AvgPool2d: "average pool", nn.AdaptiveAvgPool2d: "average pool",
}  # fmt: skip


def layers(model: nn.Module, image_size: int = 32) -> pd.DataFrame:
    """A row for each convolution, pooling and linear layer, in the order of execution.

    Columns: `kind` (conv, depthwise, pointwise, which is a 1x1 convolution that reads a depthwise
    one, max pool, average pool, gmp or gap if that is global, fc); `source`, the layer whose output
    is read; `nin` and `nout`, the sides of the maps; `kernel`, `stride`, `padding`, `dilation`;
    `k`, the pixels that a kernel spans, d(kernel-1)+1; `jump`, the distance in input pixels between
    neighbouring outputs; `field`, the side of the square that one output sees; `separable`, whether
    it is a depthwise convolution over 1x1 that a pointwise one reads.

    Where branches meet, the widest view goes on. Images are (N, 3, image_size, image_size); the
    model is left untouched. Raises ValueError for a kernel, stride, padding or dilation that is not
    square.
    """
    graph = fx.symbolic_trace(copy.deepcopy(model).cpu().eval())
    with torch.no_grad():
        ShapeProp(graph).propagate(torch.zeros(1, 3, image_size, image_size))
    modules, rows = dict(graph.named_modules()), {}
    views: dict[fx.Node, tuple[int, int, str]] = {}  # jump, field and layer at a node
    for node in graph.graph.nodes:
        jump, field, source = max(
            (views[n] for n in node.all_input_nodes), key=lambda v: v[1], default=(1, 1, "input")
        )
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.target is nn.functional.avg_pool2d:
            module = nn.AvgPool2d(*node.args[1:], **node.kwargs)
        if kind := KINDS.get(type(module)):
            nodes = node.all_input_nodes[0], node
            nin, nout = (n.meta["tensor_meta"].shape[-1] if kind != "fc" else 1 for n in nodes)
            if kind.endswith("pool") and nin > nout == 1:
                kind = "gmp" if kind == "max pool" else "gap"
            # The published tables let the global pooling take one step of one pixel.
            whole = kind in ("gmp", "gap")
            kernel = nin if whole else _side(module, "kernel_size", 1)
            stride = 1 if whole else _side(module, "stride", 1)
            if kind == "conv" and module.groups == module.in_channels > 1:
                kind = "depthwise"
            elif kind == "conv" and kernel == 1 and rows.get(source, {}).get("kind") == "depthwise":
                kind = "pointwise"
            k = _side(module, "dilation", 1) * (kernel - 1) + 1
            jump, field = jump * stride, field + (k - 1) * jump
            row = {"kind": kind, "source": source, "nin": nin, "nout": nout, "kernel": kernel}
            row |= {"stride": stride, "padding": _side(module, "padding", 0), "k": k}
            row |= {"dilation": _side(module, "dilation", 1), "jump": jump, "field": field}
            label = kind.split()[-1]
            number = 1 + sum(other["kind"].endswith(label) for other in rows.values())
            source = f"{label}{number}" if label in ("conv", "pool") or number > 1 else label
            rows[source] = row
        views[node] = jump, field, source
    found = pd.DataFrame.from_dict(rows, orient="index")
    read = found.index.isin(found.query("kind == 'pointwise'")["source"])
    return found.assign(separable=read & (found["kernel"] > 1))


def _side(module: nn.Module, attribute: str, default: int) -> int:
    value = getattr(module, attribute, default)
    sides = set(value) if isinstance(value, tuple) else {value}
    if len(sides) > 1 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"{attribute}={value} of {module}: only squares are understood")
    return sides.pop()


def receptive_field(found: pd.DataFrame) -> tuple[int, int]:
    """The receptive field in pixels of what goes into the global pooling, and of the output."""
    whole, pooling = int(found["field"].max()), found.query("kind in ('gap', 'gmp')")
    before = pooling.eval("field - (k - 1) * jump").to_list()
    return before[0] if before else whole, whole


def table(found: pd.DataFrame) -> pd.DataFrame:
    """The published table: layer, Nin, k, p, s, Nout, Jout, Rout."""
    columns = {"nin": "Nin", "k": "k", "padding": "p", "stride": "s", "nout": "Nout"}
    columns |= {"jump": "Jout", "field": "Rout"}
    image = pd.DataFrame([[0, 0, 0, 0, found["nin"].iloc[0], 1, 1]], ["input"], [*columns])
    return pd.concat([image, found[[*columns]]]).rename(columns=columns).rename_axis("layer")
