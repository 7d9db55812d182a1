"""The requirements of the four assignments, and the checks that decide which are met.

First the checks. Each takes `facts` about a model, or the `metrics` of a run, and returns what was
measured and whether it passes. Then the table REQUIREMENTS, which states what each notebook
requires. Then the functions that apply it to a model or to a finished run.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import nn

from helpers.files import format_error
from helpers.inspection import (
    Layer,
    format_size,
    layer_path,
    receptive_field_of,
)
from helpers.inspection.tracer import trace

MIN_BLOCKS = 4
RECEPTIVE_FIELD_BOUND = 44  # pixels; the receptive field must exceed it
CUTOUT_SIZE = 16  # pixels
IMAGE_SIZE = 32  # pixels
# Names of modules that call themselves blocks, such as c1, block2 or features.stage_3.
BLOCK_NAME = re.compile(
    r"(?P<name>(?P<family>(\w+\.)*?(c|block|stage|layer|conv_?block)_?)\d+)\.", re.IGNORECASE
)

CheckResult = tuple[str, bool]  # what was measured, and whether it passes


@dataclass(frozen=True)
class Requirement:
    """One requirement of an assignment.

    Attributes:
        text: What the assignment requires. metrics.json stores this text.
        check: Takes what the requirement is about (ModelFacts, or the metrics of a run) and returns
            what was measured and whether it passes.
        kind: "required" by the assignment, "bonus" for its extra points, or "claimed" by the
            submission only.
    """

    text: str
    check: Callable[[Any], CheckResult]
    kind: str = "required"


@dataclass(frozen=True)
class NotebookRequirements:
    """The requirements of one notebook, on the model and on the run that trained it."""

    model: list[Requirement]
    run: list[Requirement]


@dataclass(frozen=True)
class ModelFacts:
    """What the checks on a model look at.

    Attributes:
        layers: All layers that the logits depend on, in the order of execution.
        parameter_count: The number of weights: all parameters, and buffers that a layer uses as
            weights.
        used_parameter_count: How many of them were read.
        frozen_parameter_count: How many of them are not trained.
    """

    layers: list[Layer]
    parameter_count: int
    used_parameter_count: int
    frozen_parameter_count: int

    @classmethod
    def of_model(cls, model: nn.Module) -> "ModelFacts":
        """Trace a model and count its parameters."""
        traced = trace(model)
        buffers = traced.num_buffer_weights
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
        return cls(
            layers=traced.layers,
            parameter_count=sum(sizes.values()) + buffers,
            used_parameter_count=sum(sizes[name] for name in traced.parameters) + buffers,
            frozen_parameter_count=sum(sizes[name] for name in frozen) + buffers,
        )

    @cached_property
    def path(self) -> list[Layer]:
        """The main path from the image to the logits, without shortcuts and narrower branches."""
        return layer_path(self.layers)

    @cached_property
    def branches(self) -> list[Layer]:
        """The layers on any path to the logits. Layers of gates are left out."""
        return [layer for layer in self.layers if not layer.gate]

    @cached_property
    def head(self) -> list[Layer]:
        """The layers between the last maps and the logits, with the last global poolings."""
        names = {layer.name for layer in self.layers if layer.is_output}
        head = []
        for layer in reversed(self.branches):
            if layer.name in names:
                head.insert(0, layer)
                if max(layer.nin) == 1 and layer.kind not in ("gap", "gmp"):
                    names |= layer.sources
        return head


# ----------------------------------------------------------------------------- Kinds of layers


def is_max_pool(layer: Layer) -> bool:
    """Return whether the layer is a max pooling over a window, not over the whole feature map."""
    return layer.kind == "max pool"


def is_local_pool(layer: Layer) -> bool:
    """Return whether the layer pools over a window, not over the whole feature map."""
    return layer.kind in ("max pool", "average pool")


def is_global_average_pool(layer: Layer) -> bool:
    """Return whether the layer averages whole feature maps."""
    return layer.kind == "gap"


def is_conv(layer: Layer) -> bool:
    """Return whether the layer is a convolution, but not the 1x1 half of a separable one."""
    return layer.kind in ("conv", "depthwise")


def is_spatial_conv(layer: Layer) -> bool:
    """Return whether the layer is a convolution of maps with a kernel larger than 1x1."""
    return is_conv(layer) and max(layer.kernel) > 1 and max(layer.nin) > 1


def is_dilated(layer: Layer) -> bool:
    """Return whether the layer is a convolution whose dilation enlarges its kernel's extent."""
    return is_conv(layer) and layer.span != layer.kernel


def is_downsampling(layer: Layer) -> bool:
    """Return whether the layer shrinks its feature maps on purpose, but not to a single pixel.

    It does so by a stride, a pooling or a dilated kernel. An unpadded convolution that only loses
    the border does not count.
    """
    on_purpose = max(layer.stride) > 1 or is_local_pool(layer) or is_dilated(layer)
    return on_purpose and layer.nout < layer.nin and max(layer.nout) > 1


def is_strided(layer: Layer) -> bool:
    """Return whether the layer is a convolution larger than 1x1, of stride 2 and not dilated."""
    return is_spatial_conv(layer) and layer.stride == (2, 2) and not is_dilated(layer)


def is_strided_3x3(layer: Layer) -> bool:
    """Return whether the layer is a 3x3 convolution of stride 2."""
    return is_conv(layer) and layer.kernel == (3, 3) and layer.stride == (2, 2)


def is_pointwise(layer: Layer) -> bool:
    """Return whether the layer is a 1x1 convolution of feature maps, not part of a separable one.

    A 1x1 convolution of 1x1 maps acts as a linear layer and does not count.
    """
    return layer.kind == "conv" and layer.kernel == (1, 1) and max(layer.nin) > 1


# ---------------------------------------------------------------------------- Checks on a model


def check_layer_count(
    facts: ModelFacts,
    predicate: Callable[[Layer], bool],
    min_count: int = 1,
    max_count: float = math.inf,
) -> CheckResult:
    """Check that the main path has `min_count` to `max_count` layers that match `predicate`."""
    names = [layer.name for layer in facts.path if predicate(layer)]
    return _list_names(names), min_count <= len(names) <= max_count


def check_no_layer(facts: ModelFacts, predicate: Callable[[Layer], bool]) -> CheckResult:
    """Check that no layer on any path to the logits matches `predicate`; gates do not count."""
    names = [layer.name for layer in facts.layers if predicate(layer) and not layer.gate]
    return _list_names(names), not names


def check_separable(facts: ModelFacts, min_count: int = 1) -> CheckResult:
    """Check that there are `min_count` depthwise separable convolutions larger than 1x1.

    Every path counts.
    """
    names = [layer.name for layer in facts.layers if layer.separable]
    return _list_names(names), len(names) >= min_count


def check_dilated(facts: ModelFacts) -> CheckResult:
    """Check that there is a dilated convolution larger than 1x1. Every path counts."""
    names = [layer.name for layer in facts.branches if is_dilated(layer)]
    return _list_names(names), bool(names)


def check_strided(facts: ModelFacts, predicate: Callable[[Layer], bool], count: int) -> CheckResult:
    """Check that there are `count` layers that match `predicate`, each on maps of another size.

    Every path counts. Layers side by side read maps of the same size and count once.
    """
    by_size = {layer.nin: layer.name for layer in reversed(facts.branches) if predicate(layer)}
    names = [*by_size.values()][::-1]
    return _list_names(names), len(names) >= count


def check_dilated_downsampling(facts: ModelFacts) -> CheckResult:
    """Check that a dilated convolution shrinks the maps in place of a pooling or a stride.

    It has a stride itself, or takes a quarter of the height or more. If nothing in the model has a
    stride or pools over a window, it counts if it takes more than the same kernel undilated. A
    dilated convolution that only lacks some padding replaces nothing.
    """
    others = [layer for layer in facts.branches if is_conv(layer) or is_local_pool(layer)]
    nothing_strides = all(max(layer.stride) == 1 for layer in others)
    names = []
    for layer in filter(is_dilated, facts.branches):
        lost = layer.nin[0] - layer.nout[0]
        replaces = 4 * lost >= layer.nin[0] or (nothing_strides and lost >= layer.kernel[0])
        if layer.nout < layer.nin and (max(layer.stride) > 1 or replaces):
            names.append(layer.name)
    return _list_names(names), bool(names)


def check_global_average_pooling(facts: ModelFacts) -> CheckResult:
    """Check that the last maps are averaged, on any path to the logits."""
    texts = []
    for layer in filter(is_global_average_pool, facts.head):
        kernel, size = (f"{height}x{width}" for height, width in (layer.kernel, layer.nin))
        text = (
            f"{layer.name} (reads {kernel} of {size})" if layer.kernel < layer.nin else layer.name
        )
        texts.append(text)
    return _list_names(texts), bool(texts)


def check_blocks(
    facts: ModelFacts, also_ends_block: Callable[[Layer], bool] | None = None
) -> CheckResult:
    """Check for C1-C2-C3-C4-O: at least four blocks of convolutions larger than 1x1.

    A layer that shrinks the feature maps ends a block. Modules named as four blocks are blocks as
    well. The measured text says which further rule made it four.

    Args:
        facts: The model.
        also_ends_block: Further layers that end a block if there are fewer than four without them.
    """
    parts = split_into_blocks(facts.path, is_downsampling)
    if _count_blocks(parts) < MIN_BLOCKS:
        parts_by_rule = {"": split_into_stages(facts.path)}
        if also_ends_block:
            parts_by_rule["; 1x1 convolutions end blocks, too"] = split_into_blocks(
                facts.path, lambda layer: is_downsampling(layer) or also_ends_block(layer)
            )
        parts_by_rule["; by the names of its modules"] = split_by_names(facts.path)
        for note, more_parts in parts_by_rule.items():
            if _count_blocks(more_parts) >= MIN_BLOCKS:
                return _list_blocks(more_parts) + note, True
    return _list_blocks(parts), _count_blocks(parts) >= MIN_BLOCKS


def split_into_blocks(
    path: list[Layer], ends_block: Callable[[Layer], bool]
) -> list[list[Layer] | Layer]:
    """Split a path into blocks of convolutions larger than 1x1 and the layers between them.

    Args:
        path: The layers from the image to the logits.
        ends_block: Returns whether a layer ends a block.

    Returns:
        A list for each block, and a Layer for each pooling or 1x1 convolution between them. A
        convolution larger than 1x1 that ends a block belongs to it; directly behind a 1x1
        convolution that ended one, it belongs to none.
    """
    parts: list[list[Layer] | Layer] = [[]]
    for layer in path:
        behind = parts[-2] if len(parts) > 1 and parts[-1] == [] else None
        follows_pointwise = isinstance(behind, Layer) and is_pointwise(behind)
        if is_spatial_conv(layer) and not (follows_pointwise and ends_block(layer)):
            parts[-1].append(layer)
        elif ends_block(layer):
            parts.append(layer)
        if ends_block(layer):
            parts.append([])
    return [part for part in parts if part]


def split_into_stages(path: list[Layer]) -> list[list[Layer] | Layer]:
    """Split a path into blocks that begin with the convolution that shrinks the maps.

    If the last block is one such convolution alone, others must be as well. Otherwise it ends the
    block before it, as in a model whose every block ends with a stride.
    """
    parts: list[list[Layer] | Layer] = [[]]
    for layer in path:
        if is_downsampling(layer):
            parts.append([] if is_spatial_conv(layer) else layer)
        if is_spatial_conv(layer):
            if not isinstance(parts[-1], list):
                parts.append([])
            parts[-1].append(layer)
    parts = [part for part in parts if part]
    strided = [part for part in parts if isinstance(part, list) and is_downsampling(part[0])]
    if strided and len(strided[-1]) == 1 and any(len(part) > 1 for part in strided):
        return []
    return parts


def split_by_names(path: list[Layer]) -> list[list[Layer] | Layer]:
    """Split a path into modules with names such as c1 to c4 or block1 to block4.

    Each must have two convolutions or more, one of them larger than 1x1.
    """
    blocks: dict[str, list[Layer]] = {}
    families: dict[str, set[str]] = {}
    for layer in path:
        match = BLOCK_NAME.match(f"{layer.module}.")
        if match and (is_conv(layer) or layer.kind == "pointwise"):
            blocks.setdefault(match["name"], []).append(layer)
            families.setdefault(match["family"], set()).add(match["name"])
    for names in families.values():
        found = [blocks[name] for name in blocks if name in names]
        is_block = [len(block) > 1 and any(map(is_spatial_conv, block)) for block in found]
        if MIN_BLOCKS <= len(found) <= MIN_BLOCKS + 1 and sum(is_block) >= MIN_BLOCKS:
            return list(found)
    return []


def _count_blocks(parts: list[list[Layer] | Layer]) -> int:
    """Return the number of blocks among the parts of a path."""
    return sum(isinstance(part, list) for part in parts)


def _list_blocks(parts: list[list[Layer] | Layer]) -> str:
    """Return the blocks with the size of their first maps, and the layers between them."""
    texts = []
    for part in parts:
        if isinstance(part, Layer):
            texts.append(part.name)
            continue
        number = 1 + sum(text.startswith("C") for text in texts)
        first, last = part[0], part[-1]
        names = first.name if len(part) == 1 else f"{first.name} to {last.name}"
        texts.append(f"C{number} {names} ({first.nin[0]}x{first.nin[1]})")
    return ", ".join(texts) or "none"


def check_downsampling(facts: ModelFacts) -> CheckResult:
    """Check that only strided or dilated convolutions of 3x3 or larger shrink the feature maps.

    Only the main path counts.
    """
    layers = [layer for layer in facts.path if is_downsampling(layer)]
    texts = []
    for layer in layers:
        sizes = f"{format_size(layer.nin)} -> {format_size(layer.nout)}"
        texts.append(f"{layer.name} ({layer.kernel[0]}x{layer.kernel[1]}, {sizes})")
    only_large_convs = all(is_conv(layer) and min(layer.kernel) >= 3 for layer in layers)
    return ", ".join(texts) or "none", bool(layers) and only_large_convs


def check_fc_after_pooling(facts: ModelFacts) -> CheckResult:
    """Check that a linear layer or 1x1 convolution follows a global pooling, on any path."""
    after_pooling: set[str] = set()
    names = []
    for layer in facts.head:
        is_after = bool(layer.sources & after_pooling)
        if is_after and layer.kernel == (1, 1) and layer.kind in ("fc", "conv", "pointwise"):
            names.append(layer.name)
        if is_after or layer.kind in ("gap", "gmp"):
            after_pooling.add(layer.name)
    return _list_names(names), bool(names)


def check_receptive_field(facts: ModelFacts) -> CheckResult:
    """Check that the receptive field is over 44 pixels, including the global pooling.

    The measured text also gives the field before the global pooling.
    """
    before_pooling, including_pooling = receptive_field_of(facts.layers)
    text = f"{format_size(including_pooling)} ({format_size(before_pooling)} before the global"
    text += " pooling"
    if min(before_pooling) <= RECEPTIVE_FIELD_BOUND < min(including_pooling):
        text += f", which alone brings it over {RECEPTIVE_FIELD_BOUND}"
    text += ")"
    if any(layer.gated for layer in facts.layers):
        text += "; through its gates the whole image"
    return text, min(including_pooling) > RECEPTIVE_FIELD_BOUND


def check_parameters(facts: ModelFacts, limit: int) -> CheckResult:
    """Check that there are fewer than `limit` weights; frozen and unused ones count as well."""
    text = f"{facts.parameter_count:,}"
    notes = []
    if facts.used_parameter_count < facts.parameter_count:
        notes.append(f"{facts.used_parameter_count:,} of them used")
    if facts.frozen_parameter_count:
        notes.append(f"{facts.frozen_parameter_count:,} of them frozen")
    text += f" ({', '.join(notes)})" if notes else ""
    return text, facts.parameter_count < limit


def _list_names(names: list[str]) -> str:
    """Return up to four names, or the number of names with the first and the last."""
    if len(names) > 4:
        return f"{len(names)}: {names[0]} to {names[-1]}"
    return ", ".join(names) or "none"


# ------------------------------------------------------------------------------ Checks on a run


def check_gpu(metrics: dict) -> CheckResult:
    """Check that the run used an accelerator."""
    return metrics["device"], metrics["device_type"] != "cpu"


def check_metric(metrics: dict, name: str, allowed: object) -> CheckResult:
    """Check that the value saved as `name` is the one allowed."""
    return f"{metrics[name]}", metrics[name] == allowed


def check_adam(metrics: dict) -> CheckResult:
    """Check that the optimizer is Adam or AdamW."""
    names = {"Adam": "Adam", "AdamW": "AdamW: Adam with decoupled weight decay"}
    optimizer = metrics["optimizer"]
    return names.get(optimizer, optimizer), optimizer in names


def check_cross_entropy(metrics: dict) -> CheckResult:
    """Check that the loss is cross-entropy, which `fit` uses with some label smoothing."""
    smoothing = metrics["recipe"].get("label_smoothing")
    if smoothing is None:
        return "not recorded", False
    return f"cross-entropy, label smoothing {smoothing}", smoothing < 1


def check_no_annihilation(metrics: dict) -> CheckResult:
    """Check that the learning rate does not end below the one that it started with."""
    first, last = metrics.get("first_lr"), metrics.get("last_lr")
    if first is None or last is None:
        return "not recorded", False
    return f"first {first:.2g}, last {last:.2g}", last >= first


def check_lr_finder(metrics: dict) -> CheckResult:
    """Check that the learning rate finder chose the maximum of the learning rate."""
    found = metrics.get("lr_finder", False)
    return f"{metrics['max_lr']:.2g}, {'found' if found else 'not from the LR finder'}", found


def check_epochs(metrics: dict) -> CheckResult:
    """Check for 20 epochs; a model with fewer than 100,000 parameters may have any number."""
    epochs = metrics["epochs"]
    return f"{epochs}", epochs == 20 or metrics["params"] < 100_000


def check_scheduler_steps(metrics: dict) -> CheckResult:
    """Check that the scheduler took one step for each batch."""
    batches = math.ceil(metrics["train_images"] / metrics["batch_size"])
    text = f"{metrics['steps']:,} steps, {metrics['epochs']} x {batches} batches"
    return text, metrics["steps"] == metrics["epochs"] * batches


def check_augmentation(
    metrics: dict, required: list[dict[str, Callable[[dict], bool]]]
) -> CheckResult:
    """Check that the required transforms and one CutOut of 16x16 filled with the mean were used.

    A transform in a container that does not always run all of its transforms, such as OneOf or a
    Compose with p < 1, is not the required one.

    Args:
        metrics: The metrics of a run; "augmentation" lists Albumentations' transforms as pairs of
            name and options, "channel_means" has the means of the training images in [0, 1].
        required: A dictionary for each required transform. It maps the name of each transform that
            is accepted to a check of its options.
    """
    # FastAffine and FastCoarseDropout (`transforms`) do what Albumentations' own classes do.
    steps = [(name.removeprefix("Fast"), options) for name, options in metrics["augmentation"]]
    cutout = dict(steps).get("CoarseDropout", {})
    fill = np.array(cutout.get("fill", [])).tolist()  # a number, one for each channel, or a word
    names = _list_transforms(steps)
    text = f"{', '.join(names)}; hole filled with {fill}"
    passed = (
        all(_has_transform(steps, accepted) for accepted in required)
        and sum(name.count("CoarseDropout") for name in names) == 1
        and _is_one_square(cutout)
        and _is_mean(fill, metrics["channel_means"])
    )
    return text, passed


def check_albumentations(metrics: dict) -> CheckResult:
    """Check that Albumentations changes the images."""
    names = _list_transforms(metrics["augmentation"])
    return ", ".join(names) or "none", bool(names)


def _list_transforms(steps: list) -> list[str]:
    """Return the names of transforms; a container has those in it and its probability."""
    names = []
    for name, options in steps:
        if "transforms" in options:
            inner = ", ".join(_list_transforms(options["transforms"]))
            name += f" ({inner}) of p={options.get('p', 1)}"
        names.append(name)
    return names


def _has_transform(steps: list, accepted: dict[str, Callable[[dict], bool]]) -> bool:
    """Return whether one of the accepted transforms is ever applied, with the options required."""
    for name, options in steps:
        is_applied = options.get("p", 1) > 0
        if is_applied and name in accepted and accepted[name](options):
            return True
    return False


def _shifts_scales_and_rotates(options: dict) -> bool:
    """Return whether the options of ShiftScaleRotate or Affine have a range for each of the three.

    A scale of always 1 or an angle of always 0 changes nothing.
    """
    shift = ("shift_limit_x", "shift_limit_y", "translate_px", "translate_percent")
    names = (shift, ("scale_limit", "scale"), ("rotate_limit", "rotate"))
    return all(any(_is_range(options.get(name)) for name in group) for group in names)


def _is_range(value: Any) -> bool:
    """Return whether a value is a range with different ends, or has one for an axis."""
    if isinstance(value, dict):
        return any(_is_range(side) for side in value.values())
    return isinstance(value, list | tuple) and value[0] != value[-1]


def _is_one_square(cutout: dict) -> bool:
    """Return whether CoarseDropout's options give one hole of exactly 16x16 pixels."""
    sizes = [*cutout.get("hole_height_range", ()), *cutout.get("hole_width_range", ())]
    # Integers are pixels, floats are fractions of the image's side.
    pixels = [IMAGE_SIZE * size if isinstance(size, float) else size for size in sizes]
    one_hole = [*cutout.get("num_holes_range", ())] == [1, 1] and cutout.get("p", 1) > 0
    return one_hole and pixels == [CUTOUT_SIZE] * 4


def _is_mean(fill: Any, channel_means: list[float]) -> bool:
    """Return whether CoarseDropout's fill (0 to 255) is the mean color, within half a level."""
    if isinstance(fill, str):  # such as "random"
        return False
    if not fill:
        fill = 0
    return np.allclose(fill, np.multiply(channel_means, 255), atol=0.5)


def check_accuracy(
    metrics: dict, min_accuracy: float, parameter_limit: int | None = None
) -> CheckResult:
    """Check the accuracy on all 10,000 test images of CIFAR-10 after the last epoch.

    Args:
        metrics: The metrics of a run.
        min_accuracy: The lowest accuracy that passes, in %.
        parameter_limit: The model must have fewer parameters. None sets no limit.
    """
    accuracy, images = metrics["test_accuracy"], metrics["test_images"]
    text = f"{accuracy:.2f} % of {images:,} ({metrics['dataset']}), epoch {metrics['epochs']}"
    is_full_test_set = metrics["dataset"] == "CIFAR-10" and images == 10_000
    passed = accuracy >= min_accuracy and is_full_test_set
    if parameter_limit is not None:
        text += f"; {metrics['params']:,} parameters"
        passed = passed and metrics["params"] < parameter_limit
    return text, passed


# ---------------------------------------------------------------------- What a notebook requires


def _has_options(**expected: object) -> Callable[[dict], bool]:
    """Return a check that a transform's options have these values."""
    return lambda options: expected.items() <= options.items()


FLIP_SHIFT_SCALE_ROTATE = [
    {"HorizontalFlip": _has_options()},
    {"ShiftScaleRotate": _shifts_scales_and_rotates, "Affine": _shifts_scales_and_rotates},
]
PAD_AND_CROP = [
    {"Pad": _has_options(padding=4), "PadIfNeeded": _has_options(min_height=40, min_width=40)},
    {"RandomCrop": _has_options(height=32, width=32)},
]

BLOCKS = Requirement(
    "C1-C2-C3-C4-O: four blocks, then the output",
    lambda facts: check_blocks(facts, also_ends_block=is_pointwise),
)
NO_LOCAL_POOLING = Requirement(
    "no pooling but the global one", lambda facts: check_no_layer(facts, is_local_pool)
)
COMMON_REQUIREMENTS = [
    Requirement("receptive field > 44", check_receptive_field),
    Requirement("depthwise separable convolution, k > 1", check_separable),
    Requirement("dilated convolution, k > 1 and d > 1", check_dilated),
    Requirement("global average pooling", check_global_average_pooling),
]
UNDER_200_000 = Requirement("< 200,000 parameters", lambda facts: check_parameters(facts, 200_000))
ALBUMENTATIONS = Requirement(
    "Albumentations: flip, shift-scale-rotate, one 16x16 hole in the mean",
    lambda metrics: check_augmentation(metrics, FLIP_SHIFT_SCALE_ROTATE),
)
GPU = Requirement("runs on the GPU", check_gpu)


def _require_accuracy(minimum: int) -> Requirement:
    """Return the requirement of an accuracy in %."""
    return Requirement(
        f"test accuracy >= {minimum} %", lambda metrics: check_accuracy(metrics, minimum)
    )


def _bonus(text: str, check: Callable[[Any], CheckResult]) -> Requirement:
    """Return a requirement that gives extra points."""
    return Requirement(f"bonus: {text}", check, "bonus")


def _claim(text: str, check: Callable[[Any], CheckResult]) -> Requirement:
    """Return what a submission claims, though its assignment does not require it."""
    return Requirement(f"claimed: {text}", check, "claimed")


REQUIREMENTS = {
    "S7": NotebookRequirements(
        model=[
            Requirement("C1-C2-C3-C4-O: four blocks, then the output", check_blocks),
            Requirement(
                "three max poolings", lambda facts: check_layer_count(facts, is_max_pool, 3, 3)
            ),
            *COMMON_REQUIREMENTS,
            Requirement("FC (or 1x1 convolution) after it", check_fc_after_pooling),
            Requirement("< 1M parameters", lambda facts: check_parameters(facts, 1_000_000)),
        ],
        run=[GPU, _require_accuracy(80)],
    ),
    "S9": NotebookRequirements(
        model=[
            BLOCKS,
            NO_LOCAL_POOLING,
            Requirement(
                "three 3x3 layers of stride 2 in its place",
                lambda facts: check_strided(facts, is_strided_3x3, 3),
            ),
            *COMMON_REQUIREMENTS,
            UNDER_200_000,
            _bonus("dilated kernels in place of pooling or strides", check_dilated_downsampling),
            _bonus("two depthwise separable convolutions", lambda facts: check_separable(facts, 2)),
            _bonus("FC (or 1x1 convolution) after the pooling", check_fc_after_pooling),
        ],
        run=[
            GPU,
            ALBUMENTATIONS,
            _require_accuracy(85),
            _bonus(
                ">= 87 % with < 100,000 parameters",
                lambda metrics: check_accuracy(metrics, 87, 100_000),
            ),
        ],
    ),
    # The claims are a second list in the document, which an early version of the submission ticked.
    "S10": NotebookRequirements(
        model=[
            _claim(BLOCKS.text, BLOCKS.check),
            _claim(NO_LOCAL_POOLING.text, NO_LOCAL_POOLING.check),
            _claim("convolutions of stride 2 (or dilated) in its place", check_downsampling),
            *(_claim(requirement.text, requirement.check) for requirement in COMMON_REQUIREMENTS),
            _claim(UNDER_200_000.text, UNDER_200_000.check),
            _claim("FC (or 1x1 convolution) after the pooling", check_fc_after_pooling),
        ],
        run=[
            Requirement("24 epochs", lambda metrics: check_metric(metrics, "epochs", 24)),
            Requirement("batch size 512", lambda metrics: check_metric(metrics, "batch_size", 512)),
            Requirement("Adam", check_adam),
            Requirement("cross-entropy", check_cross_entropy),
            Requirement("one-cycle, a step a batch", check_scheduler_steps),
            Requirement("no annihilation", check_no_annihilation),
            Requirement(
                "its maximum at the end of epoch 5",
                lambda metrics: check_metric(metrics, "peak_epoch", 5),
            ),
            Requirement("maximum from the LR finder", check_lr_finder),
            _require_accuracy(90),
            _claim(ALBUMENTATIONS.text, ALBUMENTATIONS.check),
            _claim("test accuracy >= 85 %", lambda metrics: check_accuracy(metrics, 85)),
        ],
    ),
    # The claims are the document's "Enhancements Added".
    "ResNet18_GradCAM": NotebookRequirements(
        model=[
            _claim("no max pooling", lambda facts: check_no_layer(facts, is_max_pool)),
            _claim(
                "transition 1: a 1x1 convolution",
                lambda facts: check_layer_count(facts, is_pointwise),
            ),
            _claim("transition 2: dilated, shrinks the maps", check_dilated_downsampling),
            _claim(
                "transition 3: a stride of 2", lambda facts: check_strided(facts, is_strided, 1)
            ),
            _claim("six depthwise separable convolutions", lambda facts: check_separable(facts, 6)),
            Requirement("< 100,000 parameters", lambda facts: check_parameters(facts, 100_000)),
        ],
        run=[
            Requirement(
                "RandomCrop(32, padding=4), CutOut 16x16",
                lambda metrics: check_augmentation(metrics, PAD_AND_CROP),
            ),
            Requirement("20 epochs, or any number with < 100,000 parameters", check_epochs),
            Requirement(
                ">= 87 % with < 100,000 parameters",
                lambda metrics: check_accuracy(metrics, 87, 100_000),
            ),
            _claim("augmentation by Albumentations", check_albumentations),
        ],
    ),
}


# ------------------------------------------------------------------------- Apply the requirements


class CheckableResult(Protocol):
    """A results.Result, as far as `table` uses it; `results` imports this module."""

    model: nn.Module
    metrics: dict


def check_model(notebook: str, model: nn.Module) -> pd.DataFrame:
    """Check a model against the requirements of a notebook.

    Args:
        notebook: A key of REQUIREMENTS.
        model: Maps images (N, 3, 32, 32) to logits (N, 10).

    Returns:
        A row for each requirement, with the columns requirement, kind ("required", "bonus" or
        "claimed"), measured (a text) and passed.

    Raises:
        NotUnderstoodError: If tracing finds an operation whose receptive field is not known.
    """
    return check_facts(notebook, ModelFacts.of_model(model))


def check_facts(notebook: str, facts: ModelFacts) -> pd.DataFrame:
    """Check what is known of a model, as `check_model` does."""
    return _apply(REQUIREMENTS[notebook].model, facts)


def check_run(notebook: str, metrics: dict) -> pd.DataFrame:
    """Check the metrics of a run, as in metrics.json, against the requirements of a notebook.

    Returns:
        A row for each requirement, with the columns requirement, kind ("required", "bonus" or
        "claimed"), measured (a text) and passed.
    """
    return _apply(REQUIREMENTS[notebook].run, metrics)


def _apply(requirements: list[Requirement], subject: ModelFacts | dict) -> pd.DataFrame:
    """Return a table with the outcome of each requirement."""
    rows = [(each.text, each.kind, *each.check(subject)) for each in requirements]
    return pd.DataFrame(rows, columns=["requirement", "kind", "measured", "passed"])


def check_result(model: nn.Module, metrics: dict) -> list[dict]:
    """Check a trained model and its metrics against the requirements of their notebook.

    If the model cannot be traced, print the reason and check the metrics alone.

    Args:
        model: The trained model.
        metrics: The content of metrics.json; metrics["notebook"] is the notebook.

    Returns:
        A dictionary for each requirement, with the keys requirement, kind, measured and
        passed.
    """
    notebook = metrics["notebook"]
    tables = [check_run(notebook, metrics)]
    try:
        tables.insert(0, check_model(notebook, model))
    except Exception as error:  # a model of the user's may fail to be traced in any way
        print(f"The requirements on the model are left out: {format_error(error)}")
    return pd.concat(tables).to_dict("records")


def compare(tables: dict[str, pd.DataFrame], kind: str | None = None) -> pd.DataFrame:
    """Return checked requirements in rows, with a column for each table.

    Args:
        tables: Tables as `check_model` and `check_run` return them, by the name of the column.
        kind: Only rows of this kind: "required", "bonus" or "claimed". None takes all.

    Returns:
        Texts such as "✅ passed: 439,808", or "-" if a table does not have the requirement.
    """
    columns = {}
    for name, checked in tables.items():
        columns[name] = {
            row.requirement: f"{'✅ passed' if row.passed else '❌ failed'}: {row.measured}"
            for row in checked.itertuples()
            if kind in (None, row.kind)
        }
    return pd.DataFrame(columns).rename_axis("requirement").fillna("-")


def table(*results: CheckableResult, kind: str | None = None) -> pd.DataFrame:
    """Check results against the requirements of their notebooks, with a column for each model.

    Args:
        results: The results.
        kind: Only rows of this kind: "required", "bonus" or "claimed". None takes all.
    """
    tables = {}
    for result in results:
        tables[result.metrics["net"]] = pd.DataFrame(check_result(result.model, result.metrics))
    return compare(tables, kind)
