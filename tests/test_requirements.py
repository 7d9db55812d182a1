"""Each requirement passes if the model or the run meets it, and fails if it does not."""

import copy
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers import requirements
from helpers.experiments import EXPERIMENTS
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
AUGMENTATION = {
    "channel_means": [0.4914, 0.4822, 0.4465],
    "augmentation": [["HorizontalFlip", {}], ["Affine", {}], ["CoarseDropout", CUTOUT]],
    "params": 99_706,
}


def test_compact_meets_the_requirements_of_s9_that_the_submission_misses():
    assert requirements.check_model("S9", get_model("compact"))["passed"].all()
    table = requirements.check_model("S9", get_model("s9")).set_index("requirement")
    assert set(table.index[~table["passed"]]) == {
        "3x3 convolutions of stride 2 (or dilated) in its place",
        "extra points: shrinks by a dilated kernel",
        "depthwise separable convolution, k > 1",
        "bonus: two depthwise separable convolutions",
        "dilated convolution, k > 1 and d > 1",
        "bonus: FC (or 1x1 convolution) after the pooling",
    }
    measured = table.loc["3x3 convolutions of stride 2 (or dilated) in its place", "measured"]
    assert measured == "conv4 (1x1, 32 -> 17), conv7 (1x1, 17 -> 9), conv9 (1x1, 9 -> 6)"
    assert table.loc["C1-C2-C3-C4-O: four blocks, then the output", "passed"]


@pytest.mark.parametrize(
    ("path", "module", "text"),
    [
        ("block1", nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.MaxPool2d(1)), "no pooling"),
        ("transition3", nn.Conv2d(80, 104, 1, stride=2), "3x3 convolutions of stride 2"),
        ("transition2", nn.Conv2d(40, 80, 3, stride=2, padding=1), "shrinks by a dilated kernel"),
        ("block2", nn.Identity(), "four blocks"),
        ("fc", nn.Identity(), "FC"),
        ("gap", nn.MaxPool2d(8), "global average pooling"),
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
    steps = A.Compose([*transforms]).to_dict()["transform"]["transforms"]
    return [[step.pop("__class_fullname__"), step] for step in steps]


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


@pytest.mark.parametrize(
    ("notebook", "transforms", "passed"),
    [
        ("S9", (A.HorizontalFlip(), A.ShiftScaleRotate(), IN_PIXELS), True),
        ("S9", (A.HorizontalFlip(), A.Affine(rotate=9), IN_FRACTIONS), True),
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


def test_compact_meets_the_requirements_of_s10_that_the_submission_misses():
    table = requirements.check_model("S10", get_model("s10")).set_index("requirement")
    assert set(table.index[~table["passed"]]) == {
        "no pooling but the global one",
        "3x3 convolutions of stride 2 (or dilated) in its place",
        "depthwise separable convolution, k > 1",
        "dilated convolution, k > 1 and d > 1",
        "global average pooling",  # its global pooling is a max pooling
        "< 200,000 parameters",
    }
    assert requirements.check_model("S10", get_model("compact"))["passed"].all()


S10_RUN = (
    GOOD_RUN
    | AUGMENTATION
    | {"epochs": 24, "batch_size": 512, "optimizer": "AdamW", "train_images": 50_000}
    | {"steps": 24 * 98, "peak_epoch": 5.0}
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, None),
        ({"optimizer": "Adam"}, None),
        ({"epochs": 25}, "24 epochs"),
        ({"batch_size": 256}, "batch size"),
        ({"optimizer": "SGD"}, "Adam"),
        ({"steps": 24}, "a step a batch"),
        ({"peak_epoch": 4.81}, "epoch 5"),
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
    for change in ({"epochs": 51}, {"augmentation": no_crop}, large, large | {"epochs": 24}):
        assert not requirements.check_run("ResNet18_GradCAM", good | change)["passed"].all()
    table = requirements.check_run("ResNet18_GradCAM", good | large | {"epochs": 24})
    assert table["passed"].sum() == 1


@pytest.mark.parametrize(
    ("params", "epochs", "passed"),
    [
        (99_999, 50, True),
        (99_999, 51, False),
        (100_000, 50, False),
        (100_000, 20, True),
        (100_000, 19, False),
    ],
)
def test_only_a_model_below_100_000_parameters_may_train_for_50_epochs(params, epochs, passed):
    metrics = GOOD_RUN | AUGMENTATION | {"params": params, "epochs": epochs}
    outcomes = passed_by_text(requirements.check_run("ResNet18_GradCAM", metrics))
    assert outcomes["20 epochs, or up to 50 with < 100,000 parameters"] == passed


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
        ("S10", "test accuracy >= 90 % (the other assignment: 85 %)", 90.0),
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
    assert resnet18["no max pooling"]


def test_convolutions_of_3x1_and_1x3_make_blocks():
    layers = [cbr(3, 4, (3, 1), padding="same")]
    for _ in range(3):
        layers += [nn.MaxPool2d(2), cbr(4, 4, (1, 3), padding="same")]
    outcomes = passed_by_text(requirements.check_model("S7", ConvNet(layers, 4)))
    assert outcomes["C1-C2-C3-C4-O: four blocks, then the output"]


@pytest.mark.parametrize(("count", "passed"), [(5, False), (6, True)])
def test_six_separable_convolutions_are_required_and_up_to_four_are_named(count, passed):
    text = "six depthwise separable convolutions"

    def check(count):
        model = ConvNet([separable(3, 3) for _ in range(count)], 3)
        table = requirements.check_model("ResNet18_GradCAM", model).set_index("requirement")
        return table.loc[text]

    row = check(count)
    assert row["measured"] == f"{count}: depthwise to depthwise{count}"
    assert row["passed"] == passed
    assert check(4)["measured"] == "depthwise, depthwise2, depthwise3, depthwise4"


@pytest.mark.parametrize(("kernel", "measured"), [(11, "conv2 (11x11, 30 -> 20)"), (10, "none")])
def test_an_unpadded_kernel_downsamples_if_it_removes_a_third(kernel, measured):
    model = ConvNet([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, kernel)], 4)
    table = requirements.check_model("S9", model).set_index("requirement")
    row = table.loc["3x3 convolutions of stride 2 (or dilated) in its place"]
    assert row["measured"] == measured
    assert row["passed"] == (measured != "none")


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
    table = requirements.check_model("S9", model).set_index("requirement")
    row = table.loc["3x3 convolutions of stride 2 (or dilated) in its place"]
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
    assert passed_by_text(table)["transition 3: a stride of 2"] == passed


def test_a_1x1_convolution_after_the_pooling_is_not_a_transition():
    outcomes = [
        passed_by_text(requirements.check_model("ResNet18_GradCAM", model))
        for model in (
            ConvNet([cbr(3, 4)], 4, head="conv"),
            ConvNet([cbr(3, 4), nn.Conv2d(4, 4, 1)], 4),
        )
    ]
    text = "transition 1: a 1x1 convolution"
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

    expected = "C1 conv1 (32x32), conv2, C2 depthwise (16x16), conv3, C3 conv4 (8x8), conv5, "
    assert blocks("StridedLast") == expected + "C4 conv6 to conv7 (4x4)"
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


def test_frozen_parameters_are_not_counted():
    model = SAMPLE_MODELS["Textbook"].model_class()
    trainable = sum(p.numel() for p in model.parameters()) - model.out.bias.numel()
    model.out.bias.requires_grad_(False)
    assert requirements.check_model("S7", model)["measured"].iloc[-1] == f"{trainable:,}"
    model.unused = nn.Linear(10, 10)
    measured = requirements.check_model("S7", model)["measured"].iloc[-1]
    assert measured == f"{trainable + 110:,} ({trainable:,} of them used)"


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
        ("ResNet18_GradCAM", "no max pooling"),
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
        "✓ passed: pool1, pool2, pool3",
        "✗ failed: pool1, pool2",
    ]
    assert table.loc["< 1M parameters"].to_list() == ["✓ passed: 439,808", "-"]


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
    assert [text[:8] for text in table.loc["test accuracy >= 80 %"]] == ["✓ passed", "✗ failed"]
    pd.testing.assert_frame_equal(table[["s7"]], requirements.table(results[0]))
