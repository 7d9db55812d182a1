"""The requirements of the four assignments, and the checks that decide which are met.

First the checks. Each takes `facts` about a model, or the `metrics` of a run, and returns what was
measured and whether it passes. Then the table REQUIREMENTS, which states what each notebook
requires. Then the functions that apply it to a model or to a finished run.
"""

import math
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
    count_parameters,
    format_size,
    layer_path,
    receptive_field_of,
)
from helpers.inspection.tracer import trace

MIN_BLOCKS = 4
RECEPTIVE_FIELD_BOUND = 44  # pixels; the receptive field must exceed it
CUTOUT_SIZE = 16  # pixels
IMAGE_SIZE = 32  # pixels

CheckResult = tuple[str, bool]  # what was measured, and whether it passes


@dataclass(frozen=True)
class Requirement:
    """One requirement of an assignment.

    Attributes:
        text: What the assignment requires. metrics.json stores this text.
        check: Takes what the requirement is about (ModelFacts, or the metrics of a run) and returns
            what was measured and whether it passes.
    """

    text: str
    check: Callable[[Any], CheckResult]


@dataclass(frozen=True)
class NotebookRequirements:
    """The requirements of one notebook, on the model and on the run that trained it."""

    model: list[Requirement]
    run: list[Requirement]


@dataclass(frozen=True)
class ModelFacts:
    """What the checks on a model look at.

    Attributes:
        layers: All layers, in the order of execution.
        parameter_count: The number of trainable parameters.
        used_parameter_count: How many of them affect the logits.
    """

    layers: list[Layer]
    parameter_count: int
    used_parameter_count: int

    @classmethod
    def of_model(cls, model: nn.Module) -> "ModelFacts":
        """Trace a model and count its parameters."""
        layers, used_names = trace(model)
        used = 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name in used_names:
                used += parameter.numel()
        return cls(layers, count_parameters(model), used)

    @cached_property
    def path(self) -> list[Layer]:
        """The main path from the image to the logits, without shortcuts and narrower branches."""
        return layer_path(self.layers)


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
    """Return whether the layer is a convolution with a kernel larger than 1x1."""
    return is_conv(layer) and max(layer.kernel) > 1


def is_dilated(layer: Layer) -> bool:
    """Return whether the layer is a convolution whose dilation enlarges its kernel's extent."""
    return is_conv(layer) and layer.span != layer.kernel


def is_downsampling(layer: Layer) -> bool:
    """Return whether the layer shrinks its feature maps on purpose, but not to a single pixel.

    It does so by a stride, a pooling, a dilated kernel, or by a third of the height or more. An
    unpadded convolution that only loses the border does not count.
    """
    on_purpose = (
        max(layer.stride) > 1
        or is_local_pool(layer)
        or is_dilated(layer)
        or 3 * layer.nout[0] <= 2 * layer.nin[0]
    )
    return on_purpose and layer.nout < layer.nin and max(layer.nout) > 1


def is_dilated_downsampling(layer: Layer) -> bool:
    """Return whether the layer is a dilated convolution that shrinks its feature maps."""
    return is_dilated(layer) and layer.nout < layer.nin


def is_strided(layer: Layer) -> bool:
    """Return whether the layer is a convolution larger than 1x1, of stride 2 and not dilated."""
    return is_spatial_conv(layer) and layer.stride == (2, 2) and not is_dilated(layer)


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


def check_blocks(
    facts: ModelFacts, also_ends_block: Callable[[Layer], bool] | None = None
) -> CheckResult:
    """Check for C1-C2-C3-C4-O: at least four blocks of convolutions larger than 1x1.

    A layer that shrinks the feature maps ends a block.

    Args:
        facts: The model.
        also_ends_block: Further layers that end a block if there are fewer than four without them.
            The measured text then says so.
    """
    parts = split_into_blocks(facts.path, is_downsampling)
    note = ""
    if _count_blocks(parts) < MIN_BLOCKS and also_ends_block:
        more_parts = split_into_blocks(
            facts.path, lambda layer: is_downsampling(layer) or also_ends_block(layer)
        )
        if _count_blocks(more_parts) >= MIN_BLOCKS:
            parts = more_parts
            note = "; 1x1 convolutions end blocks, too"

    texts = []
    number = 0
    for part in parts:
        if isinstance(part, Layer):
            texts.append(part.name)
            continue
        number += 1
        first, last = part[0], part[-1]
        names = first.name if len(part) == 1 else f"{first.name} to {last.name}"
        texts.append(f"C{number} {names} ({first.nin[0]}x{first.nin[1]})")
    return (", ".join(texts) or "none") + note, number >= MIN_BLOCKS


def split_into_blocks(
    path: list[Layer], ends_block: Callable[[Layer], bool]
) -> list[list[Layer] | Layer]:
    """Split a path into blocks of convolutions larger than 1x1 and the layers that end them.

    Args:
        path: The layers from the image to the logits.
        ends_block: Returns whether a layer ends a block.

    Returns:
        A list for each block and a Layer for each end of one, in order. A convolution larger than
        1x1 that ends a block and is directly followed by the next end, or by nothing, is a block.
    """
    path = [layer for layer in path if ends_block(layer) or is_spatial_conv(layer)]
    parts: list[list[Layer] | Layer] = []
    for index, layer in enumerate(path):
        if ends_block(layer):
            next_is_in_a_block = index + 1 < len(path) and not ends_block(path[index + 1])
            if is_spatial_conv(layer) and not next_is_in_a_block:
                parts.append([layer])
            else:
                parts.append(layer)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return parts


def _count_blocks(parts: list[list[Layer] | Layer]) -> int:
    """Return the number of blocks among the parts of a path."""
    return sum(isinstance(part, list) for part in parts)


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
    """Check that a linear layer or 1x1 convolution follows the last global pooling."""
    after_pooling: list[Layer] = []
    for index, layer in enumerate(facts.path):
        if layer.kind in ("gap", "gmp"):
            after_pooling = facts.path[index + 1 :]
    names = [x.name for x in after_pooling if x.nin == (1, 1) and x.kind in ("fc", "conv")]
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
    """Check that there are fewer than `limit` trainable parameters; unused ones count as well."""
    text = f"{facts.parameter_count:,}"
    if facts.used_parameter_count < facts.parameter_count:
        text += f" ({facts.used_parameter_count:,} of them used)"
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


def check_metric(metrics: dict, name: str, *allowed: object) -> CheckResult:
    """Check that the value saved as `name` is one of those allowed."""
    return f"{metrics[name]}", metrics[name] in allowed


def check_epochs(metrics: dict) -> CheckResult:
    """Check for 20 epochs, or at most 50 if the model has fewer than 100,000 parameters."""
    epochs = metrics["epochs"]
    passed = epochs <= 50 if metrics["params"] < 100_000 else epochs == 20
    return f"{epochs}", passed


def check_scheduler_steps(metrics: dict) -> CheckResult:
    """Check that the scheduler took one step for each batch."""
    batches = math.ceil(metrics["train_images"] / metrics["batch_size"])
    text = f"{metrics['steps']:,} steps, {metrics['epochs']} x {batches} batches"
    return text, metrics["steps"] == metrics["epochs"] * batches


def check_augmentation(metrics: dict, required: list[dict[str, dict]]) -> CheckResult:
    """Check that the required transforms and one CutOut of 16x16 filled with the mean were used.

    Args:
        metrics: The metrics of a run; "augmentation" lists Albumentations' transforms as pairs of
            name and options, "channel_means" has the means of the training images in [0, 1].
        required: A dictionary for each required transform. It maps the name of each transform that
            is accepted to the options that it must have.
    """
    # FastAffine and FastCoarseDropout (`transforms`) do what Albumentations' own classes do.
    steps = [(name.removeprefix("Fast"), options) for name, options in metrics["augmentation"]]
    names = [name for name, _ in steps]
    cutout = dict(steps).get("CoarseDropout", {})
    fill = np.array(cutout.get("fill", [])).tolist()  # a number, one for each channel, or a word
    text = f"{', '.join(names)}; hole filled with {fill}"
    passed = (
        all(_has_transform(steps, accepted) for accepted in required)
        and names.count("CoarseDropout") == 1
        and _is_one_square(cutout)
        and _is_mean(fill, metrics["channel_means"])
    )
    return text, passed


def _has_transform(steps: list, accepted: dict[str, dict]) -> bool:
    """Return whether one of the accepted transforms is ever applied, with the options required."""
    for name, options in steps:
        is_applied = options.get("p", 1) > 0
        if is_applied and name in accepted and accepted[name].items() <= options.items():
            return True
    return False


def _is_one_square(cutout: dict) -> bool:
    """Return whether CoarseDropout's options give one hole of exactly 16x16 pixels."""
    sizes = [*cutout.get("hole_height_range", ()), *cutout.get("hole_width_range", ())]
    # Integers are pixels, floats are fractions of the image's side.
    pixels = [IMAGE_SIZE * size if isinstance(size, float) else size for size in sizes]
    one_hole = [*cutout.get("num_holes_range", ())] == [1, 1]
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

FLIP_SHIFT_SCALE_ROTATE = [{"HorizontalFlip": {}}, {"ShiftScaleRotate": {}, "Affine": {}}]
PAD_AND_CROP = [
    {"Pad": {"padding": 4}, "PadIfNeeded": {"min_height": 40, "min_width": 40}},
    {"RandomCrop": {"height": 32, "width": 32}},
]

COMMON_REQUIREMENTS = [
    Requirement("receptive field > 44", check_receptive_field),
    Requirement("depthwise separable convolution, k > 1", check_separable),
    Requirement(
        "dilated convolution, k > 1 and d > 1", lambda facts: check_layer_count(facts, is_dilated)
    ),
    Requirement(
        "global average pooling", lambda facts: check_layer_count(facts, is_global_average_pool)
    ),
]
REQUIREMENTS_WITHOUT_POOLING = [
    Requirement(
        "C1-C2-C3-C4-O: four blocks, then the output",
        lambda facts: check_blocks(facts, also_ends_block=is_pointwise),
    ),
    Requirement(
        "no pooling but the global one", lambda facts: check_no_layer(facts, is_local_pool)
    ),
    Requirement("3x3 convolutions of stride 2 (or dilated) in its place", check_downsampling),
    *COMMON_REQUIREMENTS,
    Requirement("< 200,000 parameters", lambda facts: check_parameters(facts, 200_000)),
]
AUGMENTATION_REQUIREMENT = Requirement(
    "Albumentations: flip, shift-scale-rotate, one 16x16 hole in the mean",
    lambda metrics: check_augmentation(metrics, FLIP_SHIFT_SCALE_ROTATE),
)

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
        run=[
            Requirement("runs on the GPU", check_gpu),
            Requirement("test accuracy >= 80 %", lambda metrics: check_accuracy(metrics, 80)),
        ],
    ),
    "S9": NotebookRequirements(
        model=[
            *REQUIREMENTS_WITHOUT_POOLING,
            Requirement(
                "extra points: shrinks by a dilated kernel",
                lambda facts: check_layer_count(facts, is_dilated_downsampling),
            ),
            Requirement(
                "bonus: two depthwise separable convolutions",
                lambda facts: check_separable(facts, 2),
            ),
            Requirement("bonus: FC (or 1x1 convolution) after the pooling", check_fc_after_pooling),
        ],
        run=[
            Requirement("runs on the GPU", check_gpu),
            AUGMENTATION_REQUIREMENT,
            Requirement("test accuracy >= 85 %", lambda metrics: check_accuracy(metrics, 85)),
            Requirement(
                "bonus: >= 87 % with < 100,000 parameters",
                lambda metrics: check_accuracy(metrics, 87, 100_000),
            ),
        ],
    ),
    "S10": NotebookRequirements(
        model=[
            *REQUIREMENTS_WITHOUT_POOLING,
            Requirement("FC (or 1x1 convolution) after the pooling", check_fc_after_pooling),
        ],
        run=[
            Requirement("24 epochs", lambda metrics: check_metric(metrics, "epochs", 24)),
            Requirement("batch size 512", lambda metrics: check_metric(metrics, "batch_size", 512)),
            Requirement(
                "Adam", lambda metrics: check_metric(metrics, "optimizer", "Adam", "AdamW")
            ),
            Requirement("one-cycle, a step a batch", check_scheduler_steps),
            Requirement(
                "its maximum at the end of epoch 5",
                lambda metrics: check_metric(metrics, "peak_epoch", 5),
            ),
            AUGMENTATION_REQUIREMENT,
            Requirement(
                "test accuracy >= 90 % (the other assignment: 85 %)",
                lambda metrics: check_accuracy(metrics, 90),
            ),
        ],
    ),
    "ResNet18_GradCAM": NotebookRequirements(
        model=[
            Requirement("no max pooling", lambda facts: check_no_layer(facts, is_max_pool)),
            Requirement(
                "transition 1: a 1x1 convolution",
                lambda facts: check_layer_count(facts, is_pointwise),
            ),
            Requirement(
                "transition 2: dilated, shrinks the maps",
                lambda facts: check_layer_count(facts, is_dilated_downsampling),
            ),
            Requirement(
                "transition 3: a stride of 2", lambda facts: check_layer_count(facts, is_strided)
            ),
            Requirement(
                "six depthwise separable convolutions", lambda facts: check_separable(facts, 6)
            ),
            Requirement("< 100,000 parameters", lambda facts: check_parameters(facts, 100_000)),
        ],
        run=[
            Requirement(
                "RandomCrop(32, padding=4), CutOut 16x16",
                lambda metrics: check_augmentation(metrics, PAD_AND_CROP),
            ),
            Requirement("20 epochs, or up to 50 with < 100,000 parameters", check_epochs),
            Requirement(
                ">= 87 % with < 100,000 parameters",
                lambda metrics: check_accuracy(metrics, 87, 100_000),
            ),
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
        A row for each requirement, with the columns requirement, measured (a text) and passed.

    Raises:
        NotUnderstoodError: If tracing finds an operation whose receptive field is not known.
    """
    return _apply(REQUIREMENTS[notebook].model, ModelFacts.of_model(model))


def check_run(notebook: str, metrics: dict) -> pd.DataFrame:
    """Check the metrics of a run, as in metrics.json, against the requirements of a notebook.

    Returns:
        A row for each requirement, with the columns requirement, measured (a text) and passed.
    """
    return _apply(REQUIREMENTS[notebook].run, metrics)


def _apply(requirements: list[Requirement], subject: ModelFacts | dict) -> pd.DataFrame:
    """Return a table with the outcome of each requirement."""
    rows = [(requirement.text, *requirement.check(subject)) for requirement in requirements]
    return pd.DataFrame(rows, columns=["requirement", "measured", "passed"])


def check_result(model: nn.Module, metrics: dict) -> list[dict]:
    """Check a trained model and its metrics against the requirements of their notebook.

    If the model cannot be traced, print the reason and check the metrics alone.

    Args:
        model: The trained model.
        metrics: The content of metrics.json; metrics["notebook"] is the notebook.

    Returns:
        A dictionary for each requirement, with the keys requirement, measured and passed.
    """
    notebook = metrics["notebook"]
    tables = [check_run(notebook, metrics)]
    try:
        tables.insert(0, check_model(notebook, model))
    except Exception as error:  # a model of the user's may fail to be traced in any way
        print(f"The requirements on the model are left out: {format_error(error)}")
    return pd.concat(tables).to_dict("records")


def compare(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return checked requirements in rows, with a column for each table.

    Args:
        tables: Tables as `check_model` and `check_run` return them, by the name of the column.

    Returns:
        Texts such as "✓ passed: 439,808", or "-" if a table does not have the requirement.
    """
    columns = {}
    for name, checked in tables.items():
        columns[name] = {
            row.requirement: f"{'✓ passed' if row.passed else '✗ failed'}: {row.measured}"
            for row in checked.itertuples()
        }
    return pd.DataFrame(columns).rename_axis("requirement").fillna("-")


def table(*results: CheckableResult) -> pd.DataFrame:
    """Check results against the requirements of their notebooks, with a column for each model."""
    tables = {}
    for result in results:
        tables[result.metrics["net"]] = pd.DataFrame(check_result(result.model, result.metrics))
    return compare(tables)
