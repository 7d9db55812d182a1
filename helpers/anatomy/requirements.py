"""What the assignments demand, judged on the network itself and on what its run measured."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from torch import nn

from helpers.anatomy.receptive_field import layers, receptive_field
from helpers.anatomy.summary import parameter_count

# What is asked of a run's metrics, or of a network's "layers" (a table) and "params": it gives what
# was measured, and whether that passes.
Check = Callable[[dict], tuple[str, bool]]


def having(condition: str, least: int = 1, most: float = math.inf) -> Check:
    """As many layers as said fulfil the condition on `receptive_field.layers`; they are named."""

    def check(net: dict) -> tuple[str, bool]:
        found = net["layers"].query(condition).index
        many = f"{len(found)}: {found[0]} to {found[-1]}" if len(found) > 4 else None
        return many or ", ".join(found) or "none", least <= len(found) <= most

    return check


def blocks(sizes: int = 1) -> Check:
    """C1-C2-C3-C4-O: four blocks of convolutions over 1x1, on maps of so many sizes or more.

    What shrinks the maps, or a 1x1 convolution that is no part of a separable one, ends a block.
    """

    def check(net: dict) -> tuple[str, bool]:
        found, ended = [], True
        for x in net["layers"].itertuples():
            if x.kind in ("conv", "depthwise") and x.kernel > 1 and (ended or x.nout < x.nin):
                found.append(x.nout)
                ended = False
            elif x.nout < x.nin or (x.kind == "conv" and x.kernel == 1):
                ended = True
        text = " -> ".join(f"{size}x{size}" for size in found)
        return text, len(found) == 4 and len(set(found)) >= sizes

    return check


def strided_or_dilated(net: dict) -> tuple[str, bool]:
    """Maps shrink by convolutions whose kernel spans more than a pixel, and by nothing else."""
    found = list(net["layers"].query("nout < nin and kind not in ('gap', 'gmp')").itertuples())
    text = ", ".join(f"{x.Index} ({x.kernel}x{x.kernel}, {x.nin} -> {x.nout})" for x in found)
    over = [x.kernel > 1 and x.kind in ("conv", "depthwise") for x in found]
    return text, bool(found) and all(over)


def field_over_44(net: dict) -> tuple[str, bool]:
    """A receptive field over 44, the global pooling counted; both are shown."""
    before, including = receptive_field(net["layers"])
    return f"{including} ({before} before the global pooling)", including > 44


def params_below(limit: int) -> Check:
    """Fewer parameters than the limit."""
    return lambda net: (f"{net['params']:,}", net["params"] < limit)


def on_gpu(metrics: dict) -> tuple[str, bool]:
    """Trained on a GPU."""
    return metrics["device"], metrics["device_type"] == "cuda"


def given(name: str, *allowed: object) -> Check:
    """A figure of the run that is what was asked for."""
    return lambda metrics: (f"{metrics[name]}", metrics[name] in allowed)


def twenty_epochs(metrics: dict) -> tuple[str, bool]:
    """What ResNet18 is given, and the small network beside it."""
    epochs, small = metrics["epochs"], metrics["params"] < 100_000
    return f"{epochs}", epochs <= 50 if small else epochs == 20


def a_step_a_batch(metrics: dict) -> tuple[str, bool]:
    """As many steps of the learning rate as batches."""
    batches = -(-metrics["train_images"] // metrics["batch_size"])
    text = f"{metrics['steps']:,} steps, {metrics['epochs']} x {batches} batches"
    return text, metrics["steps"] == metrics["epochs"] * batches


def augmented(*asked: str) -> Check:
    """Albumentations' transforms of these names, and one 16x16 hole in the data's mean."""

    def check(metrics: dict) -> tuple[str, bool]:
        steps, mean = metrics["augmentation"], np.multiply(metrics["channel_means"], 255)
        hole = steps.get("CoarseDropout", {})
        sizes = [*hole.get("hole_height_range", ()), *hole.get("hole_width_range", ())]
        one = [*hole.get("num_holes_range", ())] == [1, 1] and sizes == [16] * 4
        filled = np.allclose(hole.get("fill", 0), mean, atol=0.5)
        text = f"{', '.join(steps)}; hole filled with {list(hole.get('fill', []))}"
        return text, steps.keys() >= set(asked) and one and filled

    return check


def accuracy(percent: float, params: int | None = None) -> Check:
    """At least so many % of CIFAR-10's 10,000 test images right after the last epoch.

    `params`, where given, is the number that the network's parameters must stay below.
    """

    def check(metrics: dict) -> tuple[str, bool]:
        reached, images = metrics["test_accuracy"], metrics["test_images"]
        whole = metrics["dataset"] == "CIFAR-10" and images == 10_000
        small = params is None or metrics["params"] < params
        text = f"{reached:.2f} % of {images:,} ({metrics['dataset']}), epoch {metrics['epochs']}"
        text += "" if params is None else f"; {metrics['params']:,} parameters"
        return text, reached >= percent and whole and small

    return check


FC = having("nin == 1 and kind in ('fc', 'conv')")  # both do the same to 1x1 maps
PARTS = {
    "receptive field > 44": field_over_44,
    "depthwise separable convolution, k > 1": having("separable"),
    "dilated convolution, k > 1 and d > 1": having("kernel > 1 and dilation > 1"),
    "global average pooling": having("kind == 'gap'"),
}
WITHOUT_POOLING = {
    "C1-C2-C3-C4-O: four blocks, then the output": blocks(),
    "no pooling but the global one": having("kind in ('max pool', 'average pool')", 0, 0),
    "3x3 convolutions of stride 2 (or dilated) in its place": strided_or_dilated,
    **PARTS,
    "< 200,000 parameters": params_below(200_000),
}
DILATED_DOWNSAMPLING = having("kernel > 1 and dilation > 1 and nout < nin")
FLIP = "Albumentations: flip, shift-scale-rotate, one 16x16 hole in the mean"

# For each notebook: the demands on the network, and those on the run.
DEMANDS = {
    "S7": (
        {
            "C1-C2-C3-C4-O: four blocks, then the output": blocks(sizes=4),
            "three max poolings": having("kind == 'max pool'", 3, 3),
            **PARTS,
            "FC (or 1x1 convolution) after it": FC,
            "< 1M parameters": params_below(1_000_000),
        },
        {"runs on the GPU": on_gpu, "test accuracy >= 80 %": accuracy(80)},
    ),
    "S9": (
        {
            **WITHOUT_POOLING,
            "extra points: shrinks by a dilated kernel": DILATED_DOWNSAMPLING,
            "bonus: two depthwise separable convolutions": having("separable", 2),
            "bonus: FC (or 1x1 convolution) after the pooling": FC,
        },
        {
            "runs on the GPU": on_gpu,
            FLIP: augmented("HorizontalFlip", "Affine"),
            "test accuracy >= 85 %": accuracy(85),
            "bonus: >= 87 % with < 100,000 parameters": accuracy(87, params=100_000),
        },
    ),
    "S10": (
        {**WITHOUT_POOLING, "FC (or 1x1 convolution) after the pooling": FC},
        {
            "24 epochs": given("epochs", 24),
            "batch size 512": given("batch_size", 512),
            "Adam": given("optimizer", "Adam", "AdamW"),
            "one-cycle, a step a batch": a_step_a_batch,
            "its maximum at the end of epoch 5": given("peak_epoch", 5),
            FLIP: augmented("HorizontalFlip", "Affine"),
            "test accuracy >= 90 % (second list: 85 %)": accuracy(90),
        },
    ),
    "ResNet18_GradCAM": (
        {
            "no max pooling": having("kind == 'max pool'", 0, 0),
            "transition 1: a 1x1 convolution": having("kind == 'conv' and kernel == 1 and nin > 1"),
            "transition 2: dilated, shrinks the maps": DILATED_DOWNSAMPLING,
            "transition 3: a stride of 2": having("kernel > 1 and stride == 2 and dilation == 1"),
            "six depthwise separable convolutions": having("separable", 6),
            "< 100,000 parameters": params_below(100_000),
        },
        {
            "RandomCrop(32, padding=4), CutOut 16x16": augmented("Pad", "RandomCrop"),
            "20 epochs, or up to 50 with < 100,000 parameters": twenty_epochs,
            ">= 87 % with < 100,000 parameters": accuracy(87, params=100_000),
        },
    ),
}


def of_network(notebook: str, model: nn.Module) -> pd.DataFrame:
    """The notebook's demands on the network: demand, measured, passed."""
    network = {"layers": layers(model), "params": parameter_count(model)}
    return _judge(DEMANDS[notebook][0], network)


def of_run(notebook: str, metrics: dict) -> pd.DataFrame:
    """The notebook's demands on the run whose `metrics.json` this is."""
    return _judge(DEMANDS[notebook][1], metrics)


def _judge(demands: dict[str, Check], subject: dict) -> pd.DataFrame:
    rows = [(demand, *check(subject)) for demand, check in demands.items()]
    return pd.DataFrame(rows, columns=["demand", "measured", "passed"])
