"""The receptive field of a network, and the table of how it grows layer by layer."""

import pandas as pd

from tracing.layers import Layer
from tracing.views import Pair


def shown(pair: Pair) -> int | str:
    """One number for a square, two for a rectangle: 3, or "7x1"."""
    return pair[0] if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def main_path(found: list[Layer]) -> list[Layer]:
    """The layers from the image to the output, where branches meet along the widest view.

    Shortcuts, narrower branches and gates are not among them.
    """
    layers, path = {layer.name: layer for layer in found}, []
    name = next(x.name for x in reversed(found) if not x.gate) if found else None
    while name in layers:
        path.insert(0, layers[name])
        name = layers[name].source
    return path


def receptive_field(found: list[Layer]) -> tuple[Pair, Pair]:
    """What goes into the last global pooling sees, and what the output sees, in pixels.

    A layer that flattens maps counts as such a pooling. What gates see does not count. Where maps
    are enlarged, places may see differently far: the farthest counts, even if it is left out later.
    """
    main = [layer for layer in found if not layer.gate]
    ends = [x for x in main if x.kind in ("gap", "gmp") or (x.kind == "fc" and max(x.nin) > 1)]
    whole = tuple(max(layer.field[side] for layer in main) for side in (0, 1))
    return (ends[-1].reads if ends else whole), whole


def table(found: list[Layer]) -> pd.DataFrame:
    """The published table: layer, Nin, k, p, s, Nout, Jout, Rout; rectangles as 7x1."""
    rows = {"input": [0, 0, 0, 0, shown(found[0].nin), 1, 1]}
    for x in found:
        pairs = x.nin, x.span, x.padding, x.stride, x.nout, x.jump, x.field
        rows[x.name] = [shown(pair) for pair in pairs]
    columns = ["Nin", "k", "p", "s", "Nout", "Jout", "Rout"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("layer")
