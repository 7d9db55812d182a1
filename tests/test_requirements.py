"""Each requirement passes if the model or the run meets it, and fails if it does not."""

import copy
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm

from helpers import requirements
from helpers.experiments import EXPERIMENTS, describe_transform
from helpers.models import get_model
from tests.sample_models import SAMPLE_MODELS, ConvNet, cbr, separable

GOOD_RUN = {
    "device": "Tesla T4",
    "device_type": "cuda",
    "test_accuracy": 91.0,
    "test_images": 10_000,
    "dataset": "CIFAR-10",
    "epochs": 10,
}


def passed_by_text(table):
    return dict(zip(table["requirement"], table["passed"], strict=True))


def measured_by_text(table):
    return dict(zip(table["requirement"], table["measured"], strict=True))


def failed_texts(table):
    return set(table["requirement"][~table["passed"]])


def replace_module(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def test_s7_meets_all_requirements_on_the_model():
    table = requirements.check_model("S7", get_model("s7"))
    assert table["passed"].all()
    measured = measured_by_text(table)
    assert measured["receptive field > 44"] == "98 (74 before the global pooling)"
    assert measured["< 1M parameters"] == "439,808"
    assert measured["three max poolings"] == "pool1, pool2, pool3"


def test_s7_dropout_has_two_poolings_and_its_classifier_before_the_pooling():
    failed = failed_texts(requirements.check_model("S7", get_model("s7_dropout")))
    assert failed == {"three max poolings", "FC (or 1x1 convolution) after it"}


@pytest.mark.parametrize(
    ("path", "module", "text"),
    [
        # A 1x1 kernel has nothing to dilate, whatever its dilation says.
        ("block2.1.0", nn.Conv2d(64, 128, 1, dilation=2), "dilated convolution, k > 1 and d > 1"),
        ("block4.0.depthwise", nn.Conv2d(64, 64, 1, groups=64), "depthwise separable"),
        ("block4.0.pointwise", nn.Identity(), "depthwise separable"),
        ("block1.4", nn.Conv2d(64, 64, 2, stride=2), "three max poolings"),
        ("block1.4", nn.Identity(), "three max poolings"),
        ("block3", nn.MaxPool2d(2), "four blocks"),
        ("gap", nn.AdaptiveMaxPool2d(1), "global average pooling"),
        ("gap", nn.MaxPool2d(4), "global average pooling"),
        ("gap", nn.Identity(), "global average pooling"),
        ("block4.3", nn.Conv2d(64, 128, 23, padding=11), "< 1M parameters"),
    ],
)
def test_s7_without_a_required_layer_fails(path, module, text):
    model = get_model("s7")
    replace_module(model, path, module)
    outcomes = passed_by_text(requirements.check_model("S7", model))
    [outcome] = [passed for key, passed in outcomes.items() if text in key]
    assert not outcome


def test_a_small_receptive_field_fails():
    model = get_model("s7")
    model.block4[0] = nn.Conv2d(64, 64, 1)
    for layer in model.modules():
        if isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Conv2d):
            layer[0] = nn.Conv2d(layer[0].in_channels, layer[0].out_channels, 1)
    table = requirements.check_model("S7", model).set_index("requirement")
    row = table.loc["receptive field > 44"]
    assert row["measured"] == "32 (8 before the global pooling)"
    assert not row["passed"]


def test_a_good_s7_run_passes():
    assert requirements.check_run("S7", GOOD_RUN)["passed"].all()


@pytest.mark.parametrize(
    "change",
    [
        {"device_type": "cpu"},
        {"test_accuracy": 79.99},
        {"test_images": 316},
        {"dataset": "CIFAR-10 sample"},
    ],
)
def test_an_s7_run_that_misses_a_requirement_fails(change):
    assert not requirements.check_run("S7", GOOD_RUN | change)["passed"].all()


CUTOUT = {
    "num_holes_range": [1, 1],
    "hole_height_range": [16, 16],
    "hole_width_range": [16, 16],
    "fill": [125.0, 123.0, 114.0],
}
AFFINE = {
    "translate_px": {"x": [-2, 2], "y": [-2, 2]},
    "scale": {"x": [0.9, 1.1], "y": [0.9, 1.1]},
    "rotate": [-10, 10],
}
AUGMENTATION = {
    "channel_means": [0.4914, 0.4822, 0.4465],
    "augmentation": [["HorizontalFlip", {}], ["Affine", AFFINE], ["CoarseDropout", CUTOUT]],
    "params": 99_706,
}


def test_compact_meets_the_requirements_of_s9_that_the_submission_misses():
    assert not failed_texts(requirements.check_model("S9", get_model("compact")))
    table = requirements.check_model("S9", get_model("s9")).set_index("requirement")
    assert set(table.index[~table["passed"]]) == {
        "three 3x3 layers of stride 2 in its place",
        "bonus: dilated kernels in place of pooling or strides",
        "depthwise separable convolution, k > 1",
        "bonus: two depthwise separable convolutions",
        "dilated convolution, k > 1 and d > 1",
        "bonus: FC (or 1x1 convolution) after the pooling",
    }
    assert table.loc["three 3x3 layers of stride 2 in its place", "measured"] == "none"
    assert table.loc["C1-C2-C3-C4-O: four blocks, then the output", "passed"]


@pytest.mark.parametrize(
    ("path", "module", "text"),
    [
        ("block1", nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.MaxPool2d(1)), "no pooling"),
        ("transition2", nn.Conv2d(64, 64, 3, stride=2, padding=1), "bonus: dilated kernels"),
        ("transition3", nn.Conv2d(64, 96, 1, stride=2), "three 3x3 layers"),
        ("block4", nn.Identity(), "four blocks"),
        ("fc", nn.Identity(), "FC"),
        ("gap", nn.MaxPool2d(4), "global average pooling"),
    ],
)
def test_compact_without_a_required_layer_fails(path, module, text):
    model = get_model("compact")
    replace_module(model, path, module)
    outcomes = passed_by_text(requirements.check_model("S9", model))
    [outcome] = [passed for key, passed in outcomes.items() if text in key]
    assert not outcome


def test_one_separable_convolution_is_not_two():
    model = get_model("compact")
    for i in (2, 3, 4):
        replace_module(model, f"block{i}", nn.Identity())
    model.block1 = nn.Sequential(model.block1[0], model.block1[-1])
    model.block2 = get_model("compact").block2[:1]
    outcomes = passed_by_text(requirements.check_model("S9", model))
    assert outcomes["depthwise separable convolution, k > 1"]
    assert not outcomes["bonus: two depthwise separable convolutions"]


def test_a_good_s9_run_passes():
    assert requirements.check_run("S9", GOOD_RUN | AUGMENTATION)["passed"].all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"test_accuracy": 84.99}, ">= 85 %"),
        ({"test_accuracy": 86.99}, ">= 87 %"),
        ({"params": 100_000}, ">= 87 %"),
        ({"device_type": "cpu"}, "GPU"),
        ({"cutout": {"fill": [0.0, 0.0, 0.0]}}, "Albumentations"),
        ({"cutout": {"fill": 0}}, "Albumentations"),
        ({"cutout": {"fill": "random"}}, "Albumentations"),
        ({"cutout": {"hole_width_range": [8, 16]}}, "Albumentations"),
        ({"cutout": {"num_holes_range": [1, 2]}}, "Albumentations"),
        ({"augmentation": [["HorizontalFlip", {}]]}, "Albumentations"),
        (
            {"augmentation": [*AUGMENTATION["augmentation"], ["CoarseDropout", CUTOUT]]},
            "Albumentations",
        ),
    ],
)
def test_an_s9_run_that_misses_a_requirement_fails(change, text):
    metrics = copy.deepcopy(GOOD_RUN | AUGMENTATION)
    metrics["augmentation"][-1][1] |= change.get("cutout", {})
    failed = failed_texts(requirements.check_run("S9", metrics | change))
    assert any(text in key for key in failed)


@pytest.mark.parametrize(("difference", "passed"), [(0.4, True), (-0.4, True), (0.6, False)])
def test_the_fill_is_the_mean_color_within_half_a_level(difference, passed):
    metrics = copy.deepcopy(GOOD_RUN | AUGMENTATION)
    fill = [255 * mean for mean in metrics["channel_means"]]
    fill[1] += difference
    metrics["augmentation"][-1][1]["fill"] = fill
    assert requirements.check_run("S9", metrics)["passed"].all() == passed


def saved_form(*transforms):
    """Return the transforms as metrics.json stores them."""
    return describe_transform(A.Compose([*transforms]).to_dict()["transform"])


@pytest.mark.parametrize("name", ["S9/s9", "S9/compact", "ResNet18_GradCAM/compact"])
def test_our_own_transforms_pass(name):
    experiment = EXPERIMENTS[name]
    steps = saved_form(*experiment.transform(np.array(AUGMENTATION["channel_means"])))
    metrics = GOOD_RUN | AUGMENTATION | {"augmentation": steps}
    outcomes = passed_by_text(requirements.check_run(experiment.notebook, metrics))
    assert [passed for text, passed in outcomes.items() if "16x16" in text] == [True]


ONE_HOLE = {"num_holes_range": (1, 1), "fill": tuple(CUTOUT["fill"]), "p": 0.5}
IN_PIXELS = A.CoarseDropout(hole_height_range=(16, 16), hole_width_range=(16, 16), **ONE_HOLE)
IN_FRACTIONS = A.CoarseDropout(
    hole_height_range=(0.5, 0.5), hole_width_range=(0.5, 0.5), **ONE_HOLE
)


MOVE = A.Affine(translate_px=(-2, 2), rotate=(-9, 9), scale=(0.9, 1.1))


@pytest.mark.parametrize(
    ("notebook", "transforms", "passed"),
    [
        ("S9", (A.HorizontalFlip(), A.ShiftScaleRotate(), IN_PIXELS), True),
        ("S9", (A.HorizontalFlip(), MOVE, IN_FRACTIONS), True),
        ("S9", (A.HorizontalFlip(), A.ShiftScaleRotate(rotate_limit=0), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), A.ShiftScaleRotate(scale_limit=0), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), A.Affine(translate_px=(-4, 4)), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), A.Affine(rotate=9, scale=1.1), IN_PIXELS), False),
        ("S9", (A.Compose([A.HorizontalFlip(), MOVE]), A.Sequential([IN_PIXELS], p=1)), True),
        ("S9", (A.Compose([A.HorizontalFlip(), MOVE], p=0.9), IN_PIXELS), False),
        ("S9", (A.Compose([A.HorizontalFlip(), MOVE, IN_PIXELS], p=0),), False),
        ("S9", (A.OneOf([A.HorizontalFlip(), MOVE], p=1), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), MOVE, A.OneOf([IN_PIXELS], p=1)), False),
        ("S9", (A.HorizontalFlip(), MOVE, IN_PIXELS, A.OneOf([IN_PIXELS])), False),
        ("S9", (A.HorizontalFlip(p=0), A.ShiftScaleRotate(), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), IN_PIXELS), False),
        ("ResNet18_GradCAM", (A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), IN_PIXELS), True),
        ("ResNet18_GradCAM", (A.Pad(4), A.RandomCrop(32, 32), IN_PIXELS), True),
        ("ResNet18_GradCAM", (A.Pad(1), A.RandomCrop(32, 32), IN_PIXELS), False),
        ("ResNet18_GradCAM", (A.PadIfNeeded(36, 36), A.RandomCrop(32, 32), IN_PIXELS), False),
    ],
)
def test_transforms_of_the_same_effect_pass_under_any_name(notebook, transforms, passed):
    metrics = GOOD_RUN | AUGMENTATION | {"augmentation": saved_form(*transforms)}
    outcomes = passed_by_text(requirements.check_run(notebook, metrics))
    [outcome] = [outcome for text, outcome in outcomes.items() if "16x16" in text]
    assert outcome is passed


def test_compact_has_what_the_s10_submission_claims_and_misses():
    table = requirements.check_model("S10", get_model("s10")).set_index("requirement")
    assert set(table["kind"]) == {"claimed"}
    assert set(table.index[~table["passed"]]) == {
        "claimed: no pooling but the global one",
        "claimed: convolutions of stride 2 (or dilated) in its place",
        "claimed: depthwise separable convolution, k > 1",
        "claimed: dilated convolution, k > 1 and d > 1",
        "claimed: global average pooling",  # its global pooling is a max pooling
        "claimed: < 200,000 parameters",
    }
    measured = table.loc["claimed: convolutions of stride 2 (or dilated) in its place", "measured"]
    assert measured == "pool1 (2x2, 32 -> 16), pool2 (2x2, 16 -> 8), pool3 (2x2, 8 -> 4)"
    assert requirements.check_model("S10", get_model("compact"))["passed"].all()


S10_RUN = (
    GOOD_RUN
    | AUGMENTATION
    | {"epochs": 24, "batch_size": 512, "optimizer": "AdamW", "train_images": 50_000}
    | {"steps": 24 * 98, "peak_epoch": 5.0, "max_lr": 0.1, "lr_finder": True}
    | {"first_lr": 0.01, "last_lr": 0.01, "recipe": {"label_smoothing": 0.1}}
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, None),
        ({"optimizer": "Adam"}, None),
        ({"epochs": 25}, "24 epochs"),
        ({"batch_size": 256}, "batch size"),
        ({"optimizer": "SGD"}, "Adam"),
        ({"recipe": {}}, "cross-entropy"),
        ({"steps": 24}, "a step a batch"),
        ({"peak_epoch": 4.81}, "epoch 5"),
        ({"last_lr": 0.009}, "no annihilation"),
        ({"last_lr": None}, "no annihilation"),
        ({"lr_finder": False}, "LR finder"),
        ({"augmentation": [["HorizontalFlip", {}]]}, "claimed: Albumentations"),
        ({"test_accuracy": 89.99}, "90 %"),
    ],
)
def test_an_s10_run_that_misses_a_requirement_fails(change, text):
    failed = failed_texts(requirements.check_run("S10", S10_RUN | change))
    assert any(text in key for key in failed) if text else not failed


def test_compact_has_the_transitions_that_the_resnet18_notebook_requires():
    assert requirements.check_model("ResNet18_GradCAM", get_model("compact"))["passed"].all()
    table = requirements.check_model("ResNet18_GradCAM", get_model("resnet18")).set_index(
        "requirement"
    )
    assert table["passed"].sum() < 4
    assert not table.loc["< 100,000 parameters", "passed"]


def test_a_resnet18_run_that_misses_a_requirement_fails():
    crop = [["Pad", {"padding": 4}], ["RandomCrop", {"height": 32, "width": 32}]]
    augmentation = crop + AUGMENTATION["augmentation"]
    good = GOOD_RUN | AUGMENTATION | {"epochs": 20, "augmentation": augmentation}
    assert requirements.check_run("ResNet18_GradCAM", good)["passed"].all()
    no_crop, large = AUGMENTATION["augmentation"], {"params": 11_173_962}
    for change in ({"augmentation": no_crop}, large, large | {"epochs": 24}):
        assert not requirements.check_run("ResNet18_GradCAM", good | change)["passed"].all()
    table = requirements.check_run("ResNet18_GradCAM", good | large | {"epochs": 24})
    assert list(table["kind"][table["passed"]]) == ["required", "claimed"]
    table = requirements.check_run("ResNet18_GradCAM", good | {"augmentation": []})
    assert failed_texts(table) == {
        "RandomCrop(32, padding=4), CutOut 16x16",
        "claimed: augmentation by Albumentations",
    }


@pytest.mark.parametrize(
    ("params", "epochs", "passed"),
    [(99_999, 200, True), (100_000, 50, False), (100_000, 20, True), (100_000, 19, False)],
)
def test_only_a_model_below_100_000_parameters_may_train_for_any_time(params, epochs, passed):
    metrics = GOOD_RUN | AUGMENTATION | {"params": params, "epochs": epochs}
    outcomes = passed_by_text(requirements.check_run("ResNet18_GradCAM", metrics))
    assert outcomes["20 epochs, or any number with < 100,000 parameters"] == passed


@pytest.mark.parametrize(
    ("notebook", "model_name", "limit"),
    [
        ("ResNet18_GradCAM", "compact", 100_000),
        ("S9", "compact", 200_000),
        ("S10", "compact", 200_000),
        ("S7", "s7", 1_000_000),
    ],
)
@pytest.mark.parametrize("below", [0, 1])
def test_exactly_as_many_parameters_as_the_limit_fail(notebook, model_name, limit, below):
    model = get_model(model_name)
    used = sum(p.numel() for p in model.parameters())
    model.unused = nn.Parameter(torch.zeros(limit - below - used))
    table = requirements.check_model(notebook, model)
    [row] = [row for row in table.itertuples() if row.requirement.endswith(" parameters")]
    assert row.measured.startswith(f"{limit - below:,} (")
    assert row.passed == bool(below)


@pytest.mark.parametrize(("size", "passed"), [(13, False), (14, True)])
def test_a_receptive_field_of_exactly_44_fails(size, passed):
    """The global pooling of 32x32 adds 31 pixels to the kernel's size."""
    model = ConvNet([nn.Conv2d(3, 4, size, padding="same")], 4)
    table = requirements.check_model("S7", model).set_index("requirement")
    row = table.loc["receptive field > 44"]
    assert row["measured"].startswith(f"{size + 31} ({size} before the global pooling")
    assert ("which alone brings it over 44" in row["measured"]) == passed
    assert row["passed"] == passed


@pytest.mark.parametrize(("size", "only_by_pooling"), [(44, True), (45, False)])
def test_the_receptive_field_before_the_pooling_must_be_over_44_too(size, only_by_pooling):
    model = ConvNet([nn.Conv2d(3, 4, size, padding="same")], 4)
    measured = measured_by_text(requirements.check_model("S7", model))
    text = measured["receptive field > 44"]
    assert ("which alone brings it over 44" in text) == only_by_pooling


@pytest.mark.parametrize(
    ("notebook", "text", "accuracy"),
    [
        ("S7", "test accuracy >= 80 %", 80.0),
        ("S9", "test accuracy >= 85 %", 85.0),
        ("S9", "bonus: >= 87 % with < 100,000 parameters", 87.0),
        ("S10", "test accuracy >= 90 %", 90.0),
        ("S10", "claimed: test accuracy >= 85 %", 85.0),
        ("ResNet18_GradCAM", ">= 87 % with < 100,000 parameters", 87.0),
    ],
)
def test_exactly_the_required_accuracy_passes(notebook, text, accuracy):
    def outcome(**change):
        table = requirements.check_run(notebook, S10_RUN | {"test_accuracy": accuracy} | change)
        return passed_by_text(table)[text]

    assert outcome()
    assert outcome(params=99_999)
    assert not outcome(test_accuracy=accuracy - 0.01)
    assert not outcome(test_images=9_999)
    assert not outcome(dataset="sample")
    assert outcome(params=100_000) == ("100,000" not in text)


@pytest.mark.parametrize(("count", "passed"), [(2, False), (3, True), (4, False)])
def test_there_are_exactly_three_max_poolings(count, passed):
    layers = [cbr(3, 4)]
    for _ in range(count):
        layers += [nn.MaxPool2d(2), cbr(4, 4)]
    outcomes = passed_by_text(requirements.check_model("S7", ConvNet(layers, 4)))
    assert outcomes["three max poolings"] == passed


def test_average_poolings_are_not_max_poolings():
    layers = [cbr(3, 4)]
    for _ in range(3):
        layers += [nn.AvgPool2d(2), cbr(4, 4)]
    model = ConvNet(layers, 4)
    s7 = passed_by_text(requirements.check_model("S7", model))
    assert not s7["three max poolings"]
    assert s7["C1-C2-C3-C4-O: four blocks, then the output"]
    resnet18 = passed_by_text(requirements.check_model("ResNet18_GradCAM", model))
    assert resnet18["claimed: no max pooling"]


def test_convolutions_of_3x1_and_1x3_make_blocks():
    layers = [cbr(3, 4, (3, 1), padding="same")]
    for _ in range(3):
        layers += [nn.MaxPool2d(2), cbr(4, 4, (1, 3), padding="same")]
    outcomes = passed_by_text(requirements.check_model("S7", ConvNet(layers, 4)))
    assert outcomes["C1-C2-C3-C4-O: four blocks, then the output"]


@pytest.mark.parametrize(("count", "passed"), [(5, False), (6, True)])
def test_six_separable_convolutions_are_required_and_up_to_four_are_named(count, passed):
    text = "claimed: six depthwise separable convolutions"

    def check(count):
        model = ConvNet([separable(3, 3) for _ in range(count)], 3)
        table = requirements.check_model("ResNet18_GradCAM", model).set_index("requirement")
        return table.loc[text]

    row = check(count)
    assert row["measured"] == f"{count}: depthwise to depthwise{count}"
    assert row["passed"] == passed
    assert check(4)["measured"] == "depthwise, depthwise2, depthwise3, depthwise4"


def test_a_kernel_without_padding_does_not_downsample():
    model = ConvNet([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 11)], 4)
    table = requirements.check_model("S10", model).set_index("requirement")
    row = table.loc["claimed: convolutions of stride 2 (or dilated) in its place"]
    assert row["measured"] == "none"
    assert not row["passed"]


@pytest.mark.parametrize(
    ("layers", "measured", "passed"),
    [
        ([cbr(3, 3, stride=2) for _ in range(2)], "conv1, conv2", False),
        ([cbr(3, 3, stride=2) for _ in range(3)], "conv1, conv2, conv3", True),
        ([separable(3, 3, stride=2) for _ in range(3)], "", True),
        ([cbr(3, 3, 5, stride=2) for _ in range(3)], "none", False),
        ([cbr(3, 3, stride=(2, 1)) for _ in range(3)], "none", False),
        ([cbr(3, 3, dilation=2, stride=2) for _ in range(3)], "conv1, conv2, conv3", True),
    ],
)
def test_three_3x3_layers_of_stride_2_are_counted(layers, measured, passed):
    table = requirements.check_model("S9", ConvNet(layers, 3)).set_index("requirement")
    row = table.loc["three 3x3 layers of stride 2 in its place"]
    assert measured in row["measured"]
    assert row["passed"] == passed


@pytest.mark.parametrize(
    ("layer", "measured", "passed"),
    [
        (nn.Conv2d(3, 4, 3, stride=(1, 2), padding=1), "conv1 (3x3, 32 -> 32x16)", True),
        (nn.Conv2d(3, 4, 3, dilation=2), "conv1 (3x3, 32 -> 28)", True),
        (nn.MaxPool2d(3, stride=1), "pool1 (3x3, 32 -> 30)", False),
        (nn.Conv2d(3, 4, 2, stride=2), "conv1 (2x2, 32 -> 16)", False),
    ],
)
def test_strides_dilated_kernels_and_poolings_downsample(layer, measured, passed):
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(2, 3, 32, 32))  # gives the lazy layer its weights
    table = requirements.check_model("S10", model).set_index("requirement")
    row = table.loc["claimed: convolutions of stride 2 (or dilated) in its place"]
    assert row["measured"] == measured
    assert row["passed"] == passed


@pytest.mark.parametrize(
    ("layer", "passed"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), True),
        (nn.Conv2d(3, 4, 3, stride=3), False),
        (nn.Conv2d(3, 4, 3, stride=(2, 1)), False),
        (nn.Conv2d(3, 4, 3, stride=2, dilation=2), False),
        (nn.Conv2d(3, 4, 1, stride=2), False),
    ],
)
def test_transition_3_is_a_large_convolution_of_stride_2(layer, passed):
    table = requirements.check_model("ResNet18_GradCAM", ConvNet([layer], 4))
    assert passed_by_text(table)["claimed: transition 3: a stride of 2"] == passed


def test_a_1x1_convolution_after_the_pooling_is_not_a_transition():
    outcomes = [
        passed_by_text(requirements.check_model("ResNet18_GradCAM", model))
        for model in (
            ConvNet([cbr(3, 4)], 4, head="conv"),
            ConvNet([cbr(3, 4), nn.Conv2d(4, 4, 1)], 4),
        )
    ]
    text = "claimed: transition 1: a 1x1 convolution"
    assert [outcome[text] for outcome in outcomes] == [False, True]


@pytest.mark.parametrize("name", SAMPLE_MODELS)
def test_the_outcomes_are_those_that_a_teacher_expects(name):
    notebook, model_class, passed = SAMPLE_MODELS[name]
    table = requirements.check_model(notebook, model_class())
    expected = dict(zip(table["requirement"], passed, strict=True))
    assert passed_by_text(table) == expected, table.to_string()


def test_blocks_are_listed_with_their_layers_and_the_rule_that_ended_them():
    def blocks(name):
        table = requirements.check_model("S9", SAMPLE_MODELS[name].model_class())
        return table["measured"].iloc[0]

    expected = "C1 conv1 to conv2 (32x32), C2 depthwise to conv3 (16x16), C3 conv4 to conv5 (8x8)"
    assert blocks("StridedLast") == expected + ", C4 conv6 to conv7 (4x4)"
    assert blocks("PointwiseEndsBlock").endswith("; 1x1 convolutions end blocks, too")
    assert "1x1 convolutions" not in blocks("TwoStrides"), "they do not make it four blocks"


def test_the_receptive_field_is_shown_with_the_effect_of_the_pooling_and_of_gates():
    def measured(name):
        table = requirements.check_model("S7", SAMPLE_MODELS[name].model_class())
        return measured_by_text(table)["receptive field > 44"]

    expected = "54 (26 before the global pooling, which alone brings it over 44)"
    assert measured("TwoPoolings") == expected
    assert measured("SqueezeExcitationNet").endswith("; through its gates the whole image")


def test_parameters_that_do_not_affect_the_logits_are_shown():
    model = SAMPLE_MODELS["Textbook"].model_class()
    used = sum(p.numel() for p in model.parameters())
    model.unused = nn.Linear(10, 10)
    table = requirements.check_model("S7", model)
    assert table["measured"].iloc[-1] == f"{used + 110:,} ({used:,} of them used)"


def test_frozen_parameters_are_counted_and_named():
    model = SAMPLE_MODELS["Textbook"].model_class()
    used = sum(p.numel() for p in model.parameters())
    model.out.bias.requires_grad_(False)
    measured = requirements.check_model("S7", model)["measured"].iloc[-1]
    assert measured == f"{used:,} (10 of them frozen)"
    model.requires_grad_(False)
    model.unused = nn.Linear(10, 10)
    measured = requirements.check_model("S7", model)["measured"].iloc[-1]
    assert measured == f"{used + 110:,} ({used:,} of them used, {used:,} of them frozen)"


class FixedWeights(nn.Module):
    """A network whose first layer's weights are no parameters: `make` returns them."""

    def __init__(self, make):
        super().__init__()
        self.make, self.fc = make, nn.Linear(8, 10)
        self.register_buffer("fixed", torch.randn(8, 3, 3, 3))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.fc(F.conv2d(x, self.make(self)).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "fixed"),
    [
        (lambda model: model.fixed, 216),
        (lambda model: (2 * model.fixed).flip(0), 216),
        (lambda model: model.scale * model.fixed, 215),  # its scale supplies one
        (lambda model: model.scale.expand(8, 3, 3, 3), 0),
        (lambda model: torch.ones(8, 3, 3, 3), 0),
    ],
)
def test_buffers_used_as_weights_are_parameters(make, fixed):
    facts = requirements.ModelFacts.of_model(FixedWeights(make))
    assert facts.parameter_count == 91 + fixed
    assert facts.frozen_parameter_count == fixed


@pytest.mark.parametrize(
    "wrap",
    [
        weight_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda conv: prune.random_unstructured(conv, "weight", amount=0.5),
    ],
)
def test_weights_that_are_computed_from_parameters_are_counted_once(wrap):
    model = ConvNet([wrap(nn.Conv2d(3, 8, 3))], 8)
    facts = requirements.ModelFacts.of_model(model)
    assert facts.parameter_count == sum(p.numel() for p in model.parameters())
    assert facts.used_parameter_count == facts.parameter_count


def test_a_pooling_in_a_branch_beside_a_convolution_counts():
    class ConvAndPool(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 7, 5, stride=2, padding=2)
            self.fc = nn.Linear(10, 10)

        def forward(self, x):
            x = torch.cat([self.conv(x), nn.functional.max_pool2d(x, 2)], dim=1)
            return self.fc(x.mean(dim=(2, 3)))

    for notebook, text in (
        ("S9", "no pooling but the global one"),
        ("ResNet18_GradCAM", "claimed: no max pooling"),
    ):
        table = requirements.check_model(notebook, ConvAndPool()).set_index("requirement")
        assert table.loc[text, "measured"] == "pool1"
        assert not table.loc[text, "passed"]
    table = requirements.check_model("S9", ConvAndPool()).set_index("requirement")
    assert table.loc["global average pooling", "measured"] == "gap", "over both branches"


def test_a_pooling_in_a_gate_does_not_count():
    class StripPoolingGate(nn.Module):
        """Scales each row by a gate, which averages the row."""

        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 1)

        def forward(self, x):
            x = self.conv(x)
            x = x * self.gate(x.mean(3, keepdim=True)).sigmoid()
            return x.mean((2, 3))

    table = requirements.check_model("S9", StripPoolingGate()).set_index("requirement")
    assert table.loc["no pooling but the global one", "passed"]


def test_a_separable_convolution_in_a_narrower_branch_counts():
    class TwoKernels(nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.separable = nn.Conv2d(3, 10, 7, padding=3), separable(3, 10)

        def forward(self, x):
            return (self.large(x) + self.separable(x)).mean((2, 3))

    table = requirements.check_model("S9", TwoKernels()).set_index("requirement")
    assert table.loc["depthwise separable convolution, k > 1", "passed"]


class Branched(nn.Module):
    """Branches that are concatenated and classified."""

    def __init__(self, *branches):
        super().__init__()
        self.branches, self.fc = nn.ModuleList(branches), nn.LazyLinear(10)
        self(torch.zeros(2, 3, 32, 32))  # gives the lazy layer its weights

    def forward(self, x):
        return self.fc(torch.cat([branch(x) for branch in self.branches], 1).mean((2, 3)))


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize(
    ("branch", "text"),
    [
        (lambda: cbr(3, 4, dilation=2), "dilated convolution, k > 1 and d > 1"),
        (lambda: cbr(3, 4, dilation=3, stride=1, padding=3), "dilated convolution, k > 1"),
        (lambda: separable(3, 4), "depthwise separable convolution, k > 1"),
    ],
)
def test_what_stands_in_any_branch_counts_in_any_order(branch, text, is_first):
    plain = nn.Sequential(cbr(3, 4), cbr(4, 4), cbr(4, 4))
    branches = [branch(), plain] if is_first else [plain, branch()]
    outcomes = passed_by_text(requirements.check_model("S9", Branched(*branches)))
    assert [passed for key, passed in outcomes.items() if text in key] == [True]


def test_the_average_beside_a_maximum_is_a_global_average_pooling():
    class BothPoolings(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(16, 10)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))

    measured = measured_by_text(requirements.check_model("S9", BothPoolings()))
    assert measured["global average pooling"] == "gap"
    assert measured["bonus: FC (or 1x1 convolution) after the pooling"] == "fc"


def test_a_global_pooling_that_is_not_at_the_end_is_none():
    class ImagePooling(nn.Module):
        """The average of the maps is added to the maps again."""

        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(16 * 30 * 30, 10)

        def forward(self, x):
            x = self.conv(x)
            average = x.mean((2, 3), keepdim=True).expand_as(x)
            return self.fc(torch.cat([x, average], 1).flatten(1))

    outcomes = passed_by_text(requirements.check_model("S9", ImagePooling()))
    assert not outcomes["global average pooling"]


def test_an_average_of_most_of_the_maps_says_what_it_reads():
    for window, measured in ((7, "gap (reads 7x7 of 8x8)"), (8, "gap"), (5, "none")):
        model = ConvNet([cbr(3, 4, stride=4), nn.AvgPool2d(window)], 4)
        model.forward = lambda x, model=model: model.out(model.features(x).flatten(1))
        table = requirements.check_model("S9", model).set_index("requirement")
        assert table.loc["global average pooling", "measured"] == measured


def test_a_side_output_is_not_the_output():
    class KeepsProjection(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = cbr(3, 8, dilation=2, stride=2), nn.Linear(8, 10)
            self.side = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            logits = self.fc(self.conv(x).mean((2, 3)))
            self.kept = nn.functional.max_pool2d(self.side(x), 2)
            return logits

    outcomes = passed_by_text(requirements.check_model("S9", KeepsProjection()))
    expected = ("global average", "dilated", "FC (or", "no pooling")
    assert all(any(text in key and passed for key, passed in outcomes.items()) for text in expected)


@pytest.mark.parametrize("notebook", requirements.REQUIREMENTS)
def test_no_two_requirements_of_a_notebook_have_the_same_text(notebook):
    required = requirements.REQUIREMENTS[notebook]
    texts = [requirement.text for requirement in required.model + required.run]
    assert len(texts) == len(set(texts))


def test_a_result_is_checked_on_its_model_and_its_run():
    rows = requirements.check_result(get_model("s7"), GOOD_RUN | {"notebook": "S7"})
    required = requirements.REQUIREMENTS["S7"]
    assert [row["requirement"] for row in rows] == [
        requirement.text for requirement in required.model + required.run
    ]
    assert {type(row["passed"]) for row in rows} == {bool}
    assert rows[-1] == {
        "requirement": "test accuracy >= 80 %",
        "kind": "required",
        "measured": "91.00 % of 10,000 (CIFAR-10), epoch 10",
        "passed": True,
    }


def test_a_model_that_cannot_be_traced_leaves_the_requirements_on_the_run(capsys):
    class Softmax(nn.Module):
        def forward(self, x):
            return x.flatten(2).softmax(-1)[:, :1, :10].flatten(1)

    rows = requirements.check_result(Softmax(), GOOD_RUN | {"notebook": "S7"})
    assert [row["requirement"] for row in rows] == ["runs on the GPU", "test accuracy >= 80 %"]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("The requirements on the model are left out: NotUnderstoodError: ")


def test_tables_are_compared_with_a_mark_and_a_word():
    tables = {
        "s7": requirements.check_model("S7", get_model("s7")),
        "s7_dropout": requirements.check_model("S7", get_model("s7_dropout")).iloc[:-1],
    }
    table = requirements.compare(tables)
    assert table.index.name == "requirement"
    assert list(table.index) == list(tables["s7"]["requirement"])
    assert table.loc["three max poolings"].to_list() == [
        "✅ passed: pool1, pool2, pool3",
        "❌ failed: pool1, pool2",
    ]
    assert table.loc["< 1M parameters"].to_list() == ["✅ passed: 439,808", "-"]


def test_tables_are_filtered_by_kind():
    tables = {"s9": requirements.check_model("S9", get_model("s9"))}
    sizes = {kind: len(requirements.compare(tables, kind)) for kind in ("required", "bonus", None)}
    assert sizes == {"required": 8, "bonus": 3, None: 11}
    assert requirements.compare(tables, "claimed").empty
    result = SimpleNamespace(model=get_model("s10"), metrics=S10_RUN | {"notebook": "S10"})
    result.metrics["net"] = "s10"
    assert requirements.table(result, kind="required").index[0] == "24 epochs"
    assert requirements.table(result, kind="claimed").index.str.startswith("claimed: ").all()


def test_results_are_compared_by_the_names_of_their_models():
    results = [
        SimpleNamespace(
            model=get_model(name),
            metrics=GOOD_RUN | {"notebook": "S7", "net": name, "test_accuracy": accuracy},
        )
        for name, accuracy in (("s7", 80.0), ("s7_dropout", 79.0))
    ]
    table = requirements.table(*results)
    assert list(table.columns) == ["s7", "s7_dropout"]
    assert [text[:8] for text in table.loc["test accuracy >= 80 %"]] == ["✅ passed", "❌ failed"]
    pd.testing.assert_frame_equal(table[["s7"]], requirements.table(results[0]))
