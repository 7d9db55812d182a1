"""How a demand is judged: on the layers of a network as they ran, or on what its run measured.

A judge is given a network or a run's metrics, then what its demand asks for; it says what was
measured, and whether that passes.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from helpers.anatomy.receptive_field import main_path, receptive_field, shown
from tracing.layers import Layer

Verdict = tuple[str, bool]


@dataclass(frozen=True)
class Network:
    """What is judged of a network: its layers, its trainable parameters, and how many take part."""

    layers: list[Layer]
    params: int
    params_used: int


def pooled(x: Layer) -> bool:
    """A pooling of a part of the map."""
    return x.kind in ("max pool", "average pool")


def wide(x: Layer) -> bool:
    """A convolution over 1x1."""
    return x.kind in ("conv", "depthwise") and max(x.kernel) > 1


def dilated(x: Layer) -> bool:
    """A convolution whose dilation widens what it spans."""
    return x.kind in ("conv", "depthwise") and x.span != x.kernel


def shrinks(x: Layer) -> bool:
    """The maps shrink by a stride, a pooling or a dilated kernel, not for want of padding."""
    by_design = max(x.stride) > 1 or pooled(x) or dilated(x) or 3 * x.nout[0] <= 2 * x.nin[0]
    return x.nout < x.nin and max(x.nout) > 1 and by_design


def shrinks_dilated(x: Layer) -> bool:
    """A dilated convolution that leaves smaller maps."""
    return dilated(x) and x.nout < x.nin


def strided(x: Layer) -> bool:
    """A convolution over 1x1 with a stride of 2, not dilated."""
    return wide(x) and x.stride == (2, 2) and not dilated(x)


def squeezes(x: Layer) -> bool:
    """A 1x1 convolution of maps that is no part of a separable one."""
    return x.kind == "conv" and x.kernel == (1, 1) and max(x.nin) > 1


def having(
    net: Network, condition: Callable[[Layer], bool], least: int = 1, most: float = math.inf
) -> Verdict:
    """As many layers as said fulfil the condition; they are named.

    On the main path, but what is forbidden (`most` is 0) on any path to the logits.
    """
    path = main_path(net.layers) if most else [x for x in net.layers if not x.gate]
    found = [x.name for x in path if condition(x)]
    return _named(found), least <= len(found) <= most


def separable(net: Network, least: int) -> Verdict:
    """As many depthwise separable convolutions over 1x1, on any path."""
    found = [x.name for x in net.layers if x.separable]
    return _named(found), len(found) >= least


def _named(found: list[str]) -> str:
    many = f"{len(found)}: {found[0]} to {found[-1]}" if len(found) > 4 else None
    return many or ", ".join(found) or "none"


def stages(net: Network, ends: Callable[[Layer], bool]) -> list[list[Layer] | Layer]:
    """The main path's blocks of convolutions over 1x1, and what ends them.

    A convolution that ends one, with none between it and the next that ends one, is a block itself.
    """
    path, parts = [x for x in main_path(net.layers) if ends(x) or wide(x)], []
    for x, following in itertools.zip_longest(path, path[1:]):
        if ends(x):
            alone = wide(x) and (following is None or ends(following))
            parts.append([x] if alone else x)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(x)
        else:
            parts.append([x])
    return parts


def blocks(net: Network, also: Callable[[Layer], bool] | None = None) -> Verdict:
    """C1-C2-C3-C4-O: at least four blocks of convolutions over 1x1, and what stands between them.

    What shrinks the maps ends a block. Where that makes fewer than four, a 1x1 convolution, which
    `also` picks out, does so, too, and the text says that this reading was taken.
    """
    found, reading = stages(net, shrinks), ""
    more = stages(net, lambda x: shrinks(x) or also(x)) if also else []
    if _number(found) < 4 <= _number(more):
        found, reading = more, "; 1x1 convolutions end blocks, too"
    named = []
    for place, part in enumerate(found):
        if isinstance(part, Layer):
            named.append(part.name)
        else:
            ends = " to ".join(dict.fromkeys((part[0].name, part[-1].name)))
            size = "x".join(map(str, part[0].nin))
            named.append(f"C{_number(found[: place + 1])} {ends} ({size})")
    return ", ".join(named) + reading or "none", _number(found) >= 4


def _number(parts: list[list[Layer] | Layer]) -> int:
    return sum(isinstance(part, list) for part in parts)


def strided_or_dilated(net: Network) -> Verdict:
    """The main path's maps shrink by strided or dilated convolutions of 3x3 and nothing else."""
    found = [x for x in main_path(net.layers) if shrinks(x)]
    texts = (
        f"{x.name} ({x.kernel[0]}x{x.kernel[1]}, {shown(x.nin)} -> {shown(x.nout)})" for x in found
    )
    good = [x.kind in ("conv", "depthwise") and min(x.kernel) >= 3 for x in found]
    return ", ".join(texts) or "none", bool(found) and all(good)


def fc_after_pooling(net: Network) -> Verdict:
    """A linear layer or 1x1 convolution of what the global pooling gives."""
    path = main_path(net.layers)
    last = max((i for i, x in enumerate(path) if x.kind in ("gap", "gmp")), default=len(path))
    found = [x.name for x in path[last:] if x.nin == (1, 1) and x.kind in ("fc", "conv")]
    return _named(found), bool(found)


def field_over_44(net: Network) -> Verdict:
    """A receptive field over 44, the global pooling counted; both are shown."""
    before, including = receptive_field(net.layers)
    alone = ", which alone brings it over 44" if min(before) <= 44 < min(including) else ""
    gates = "; through its gates the whole image" if any(x.gated for x in net.layers) else ""
    text = f"{shown(including)} ({shown(before)} before the global pooling{alone}){gates}"
    return text, min(including) > 44


def params_below(net: Network, limit: int) -> Verdict:
    """Fewer parameters than the limit; those that take no part count as well, and are said."""
    idle = f" ({net.params_used:,} of them used)" if net.params_used < net.params else ""
    return f"{net.params:,}{idle}", net.params < limit


def on_gpu(metrics: dict) -> Verdict:
    """Trained on a GPU."""
    return metrics["device"], metrics["device_type"] != "cpu"


def given(metrics: dict, name: str, *allowed: object) -> Verdict:
    """A figure of the run that is what was asked for."""
    return f"{metrics[name]}", metrics[name] in allowed


def twenty_epochs(metrics: dict) -> Verdict:
    """What ResNet18 is given, and the small network beside it."""
    epochs, small = metrics["epochs"], metrics["params"] < 100_000
    return f"{epochs}", epochs <= 50 if small else epochs == 20


def a_step_a_batch(metrics: dict) -> Verdict:
    """As many steps of the learning rate as batches."""
    batches = -(-metrics["train_images"] // metrics["batch_size"])
    text = f"{metrics['steps']:,} steps, {metrics['epochs']} x {batches} batches"
    return text, metrics["steps"] == metrics["epochs"] * batches


def augmented(metrics: dict, *asked: dict[str, dict]) -> Verdict:
    """Albumentations' transforms that were asked for, and one 16x16 hole in the data's mean.

    Of each that is asked, one will do: name and options of those that do the same.
    """
    steps, mean = metrics["augmentation"], np.multiply(metrics["channel_means"], 255)
    names, hole = [name for name, _ in steps], dict(steps).get("CoarseDropout", {})
    sizes = [*hole.get("hole_height_range", ()), *hole.get("hole_width_range", ())]
    sizes = [32 * size if isinstance(size, float) else size for size in sizes]  # shares of a side
    one = names.count("CoarseDropout") == 1 and [*hole.get("num_holes_range", ())] == [1, 1]
    fill = np.array(hole.get("fill", [])).tolist()  # may be one number, or the name of a way
    filled = not isinstance(fill, str) and np.allclose(fill or 0, mean, atol=0.5)
    text = f"{', '.join(names)}; hole filled with {fill}"
    used = [(name, options) for name, options in steps if options.get("p", 1) > 0]
    done = (any(n in a and a[n].items() <= options.items() for n, options in used) for a in asked)
    return text, all(done) and one and sizes == [16] * 4 and filled


def accuracy(metrics: dict, percent: float, params: int | None = None) -> Verdict:
    """At least so many % of CIFAR-10's 10,000 test images right after the last epoch.

    `params`, where given, is the number that the network's parameters must stay below.
    """
    reached, images = metrics["test_accuracy"], metrics["test_images"]
    whole = metrics["dataset"] == "CIFAR-10" and images == 10_000
    small = params is None or metrics["params"] < params
    text = f"{reached:.2f} % of {images:,} ({metrics['dataset']}), epoch {metrics['epochs']}"
    text += "" if params is None else f"; {metrics['params']:,} parameters"
    return text, reached >= percent and whole and small
