"""The requirement rows follow from the network, and fail where the network fails them."""

import copy

import albumentations as A
import pytest
import torch
from torch import nn

from helpers.anatomy import requirements
from helpers.models import build
from tests.students import STUDENTS

GOOD = {
    "device": "Tesla T4",
    "device_type": "cuda",
    "test_accuracy": 91.0,
    "test_images": 10_000,
    "dataset": "CIFAR-10",
    "epochs": 10,
}


def verdicts(table):
    return dict(zip(table["demand"], table["passed"], strict=True))


def test_s7_has_all_that_is_asked_of_the_network():
    table = requirements.of_network("S7", build("s7"))
    assert table["passed"].all()
    measured = dict(zip(table["demand"], table["measured"], strict=True))
    assert measured["receptive field > 44"] == "98 (74 before the global pooling)"
    assert measured["< 1M parameters"] == "439,808"
    assert measured["three max poolings"] == "pool1, pool2, pool3"


def test_s7_dropout_has_two_poolings_and_its_classifier_before_the_pooling():
    table = requirements.of_network("S7", build("s7_dropout"))
    failed = {demand for demand, passed in verdicts(table).items() if not passed}
    assert failed == {"three max poolings", "FC (or 1x1 convolution) after it"}


def sub(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@pytest.mark.parametrize(
    ("path", "module", "demand"),
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
def test_a_network_without_the_part_fails_its_row(path, module, demand):
    model = build("s7")
    sub(model, path, module)
    rows = verdicts(requirements.of_network("S7", model))
    [row] = [row for row in rows if demand in row]
    assert not rows[row]


def test_a_narrow_view_fails():
    model = build("s7")
    model.block4[0] = nn.Conv2d(64, 64, 1)
    for layer in model.modules():
        if isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Conv2d):
            layer[0] = nn.Conv2d(layer[0].in_channels, layer[0].out_channels, 1)
    table = requirements.of_network("S7", model).set_index("demand")
    row = table.loc["receptive field > 44"]
    assert row["measured"] == "32 (8 before the global pooling)"
    assert not row["passed"]


def test_a_good_run_passes():
    assert requirements.of_run("S7", GOOD)["passed"].all()


@pytest.mark.parametrize(
    "change",
    [
        {"device_type": "cpu"},
        {"test_accuracy": 79.99},
        {"test_images": 316},
        {"dataset": "scikit-learn's digits, not CIFAR-10"},
    ],
)
def test_a_run_that_falls_short_fails(change):
    assert not requirements.of_run("S7", GOOD | change)["passed"].all()


HOLE = {
    "num_holes_range": [1, 1],
    "hole_height_range": [16, 16],
    "hole_width_range": [16, 16],
    "fill": [125.0, 123.0, 114.0],
}
AUGMENTED = {
    "channel_means": [0.4914, 0.4822, 0.4465],
    "augmentation": [["HorizontalFlip", {}], ["Affine", {}], ["CoarseDropout", HOLE]],
    "params": 99_706,
}


def test_compact_has_all_that_s9_asks_for_and_the_hand_in_has_not():
    assert requirements.of_network("S9", build("compact"))["passed"].all()
    table = requirements.of_network("S9", build("s9")).set_index("demand")
    assert set(table.index[~table["passed"]]) == {
        "3x3 convolutions of stride 2 (or dilated) in its place",
        "extra points: shrinks by a dilated kernel",
        "depthwise separable convolution, k > 1",
        "bonus: two depthwise separable convolutions",
        "dilated convolution, k > 1 and d > 1",
        "bonus: FC (or 1x1 convolution) after the pooling",
    }
    shrinking = table.loc["3x3 convolutions of stride 2 (or dilated) in its place", "measured"]
    assert shrinking == "conv4 (1x1, 32 -> 17), conv7 (1x1, 17 -> 9), conv9 (1x1, 9 -> 6)"
    assert table.loc["C1-C2-C3-C4-O: four blocks, then the output", "passed"]


@pytest.mark.parametrize(
    ("path", "module", "demand"),
    [
        ("block1", nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.MaxPool2d(1)), "no pooling"),
        ("transition3", nn.Conv2d(80, 104, 1, stride=2), "3x3 convolutions of stride 2"),
        ("transition2", nn.Conv2d(40, 80, 3, stride=2, padding=1), "shrinks by a dilated kernel"),
        ("block2", nn.Identity(), "four blocks"),
        ("fc", nn.Identity(), "FC"),
        ("gap", nn.MaxPool2d(8), "global average pooling"),
    ],
)
def test_compact_without_the_part_fails_its_row(path, module, demand):
    model = build("compact")
    sub(model, path, module)
    rows = verdicts(requirements.of_network("S9", model))
    [row] = [row for row in rows if demand in row]
    assert not rows[row]


def test_one_separable_convolution_is_not_two():
    model = build("compact")
    for i in (2, 3, 4):
        sub(model, f"block{i}", nn.Identity())
    model.block2 = build("compact").block2[:1]
    rows = verdicts(requirements.of_network("S9", model))
    assert rows["depthwise separable convolution, k > 1"]
    assert not rows["bonus: two depthwise separable convolutions"]


def test_a_good_s9_run_passes():
    assert requirements.of_run("S9", GOOD | AUGMENTED)["passed"].all()


@pytest.mark.parametrize(
    ("change", "demand"),
    [
        ({"test_accuracy": 84.99}, ">= 85 %"),
        ({"test_accuracy": 86.99}, ">= 87 %"),
        ({"params": 100_000}, ">= 87 %"),
        ({"device_type": "cpu"}, "GPU"),
        ({"hole": {"fill": [0.0, 0.0, 0.0]}}, "Albumentations"),
        ({"hole": {"fill": 0}}, "Albumentations"),
        ({"hole": {"fill": "random"}}, "Albumentations"),
        ({"hole": {"hole_width_range": [8, 16]}}, "Albumentations"),
        ({"hole": {"num_holes_range": [1, 2]}}, "Albumentations"),
        ({"augmentation": [["HorizontalFlip", {}]]}, "Albumentations"),
        ({"augmentation": [*AUGMENTED["augmentation"], ["CoarseDropout", HOLE]]}, "Albumentations"),
    ],
)
def test_an_s9_run_that_falls_short_fails_its_row(change, demand):
    metrics = copy.deepcopy(GOOD | AUGMENTED)
    metrics["augmentation"][-1][1] |= change.get("hole", {})
    rows = verdicts(requirements.of_run("S9", metrics | change))
    failed = [row for row, passed in rows.items() if not passed]
    assert len(failed) >= 1
    assert any(demand in row for row in failed)


def recorded(*steps):
    steps = A.Compose([*steps]).to_dict()["transform"]["transforms"]
    return [[step.pop("__class_fullname__"), step] for step in steps]


SQUARE = {"num_holes_range": (1, 1), "fill": tuple(HOLE["fill"]), "p": 0.5}
IN_PIXELS = A.CoarseDropout(hole_height_range=(16, 16), hole_width_range=(16, 16), **SQUARE)
IN_SHARES = A.CoarseDropout(hole_height_range=(0.5, 0.5), hole_width_range=(0.5, 0.5), **SQUARE)


@pytest.mark.parametrize(
    ("notebook", "steps", "passed"),
    [
        ("S9", (A.HorizontalFlip(), A.ShiftScaleRotate(), IN_PIXELS), True),
        ("S9", (A.HorizontalFlip(), A.Affine(rotate=9), IN_SHARES), True),
        ("S9", (A.HorizontalFlip(p=0), A.ShiftScaleRotate(), IN_PIXELS), False),
        ("S9", (A.HorizontalFlip(), IN_PIXELS), False),
        ("ResNet18_GradCAM", (A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), IN_PIXELS), True),
        ("ResNet18_GradCAM", (A.Pad(4), A.RandomCrop(32, 32), IN_PIXELS), True),
        ("ResNet18_GradCAM", (A.Pad(1), A.RandomCrop(32, 32), IN_PIXELS), False),
        ("ResNet18_GradCAM", (A.PadIfNeeded(36, 36), A.RandomCrop(32, 32), IN_PIXELS), False),
    ],
)
def test_augmentation_is_judged_by_what_it_does_under_any_of_its_names(notebook, steps, passed):
    metrics = GOOD | AUGMENTED | {"augmentation": recorded(*steps)}
    rows = verdicts(requirements.of_run(notebook, metrics))
    [judged] = [passed for row, passed in rows.items() if "16x16" in row]
    assert judged is passed


def test_what_s10_lacks_compact_has():
    table = requirements.of_network("S10", build("s10")).set_index("demand")
    assert set(table.index[~table["passed"]]) == {
        "no pooling but the global one",
        "3x3 convolutions of stride 2 (or dilated) in its place",
        "depthwise separable convolution, k > 1",
        "dilated convolution, k > 1 and d > 1",
        "global average pooling",  # its global pooling takes the maximum
        "< 200,000 parameters",
    }
    assert requirements.of_network("S10", build("compact"))["passed"].all()


S10_RUN = (
    GOOD
    | AUGMENTED
    | {"epochs": 24, "batch_size": 512, "optimizer": "AdamW", "train_images": 50_000}
    | {"steps": 24 * 98, "peak_epoch": 5.0}
)


@pytest.mark.parametrize(
    ("change", "demand"),
    [
        ({}, None),
        ({"epochs": 25}, "24 epochs"),
        ({"batch_size": 256}, "batch size"),
        ({"optimizer": "SGD"}, "Adam"),
        ({"steps": 24}, "a step a batch"),
        ({"peak_epoch": 4.81}, "epoch 5"),
        ({"test_accuracy": 89.99}, "90 %"),
    ],
)
def test_s10_rows_follow_the_run(change, demand):
    rows = verdicts(requirements.of_run("S10", S10_RUN | change))
    failed = [row for row, passed in rows.items() if not passed]
    assert any(demand in row for row in failed) if demand else not failed


def test_compact_has_the_transitions_that_are_asked_beside_resnet18():
    assert requirements.of_network("ResNet18_GradCAM", build("compact"))["passed"].all()
    table = requirements.of_network("ResNet18_GradCAM", build("resnet18")).set_index("demand")
    assert table["passed"].sum() < 4
    assert not table.loc["< 100,000 parameters", "passed"]


def test_resnet18_rows_follow_the_run():
    cropped = [["Pad", {"padding": 4}], ["RandomCrop", {"height": 32, "width": 32}]]
    cropped += AUGMENTED["augmentation"]
    good = GOOD | AUGMENTED | {"epochs": 20, "augmentation": cropped}
    assert requirements.of_run("ResNet18_GradCAM", good)["passed"].all()
    uncropped, large = AUGMENTED["augmentation"], {"params": 11_173_962}
    for change in ({"epochs": 51}, {"augmentation": uncropped}, large, large | {"epochs": 24}):
        assert not requirements.of_run("ResNet18_GradCAM", good | change)["passed"].all()
    failed = requirements.of_run("ResNet18_GradCAM", good | large | {"epochs": 24})
    assert failed["passed"].sum() == 1


@pytest.mark.parametrize("name", STUDENTS)
def test_verdicts_are_a_teachers(name):
    notebook, network, letters = STUDENTS[name]
    table = requirements.of_network(notebook, network())
    judged = dict(zip(table["demand"], table["passed"], strict=True))
    said = [letter == "P" for letter in letters]
    assert judged == dict(zip(table["demand"], said, strict=True)), table.to_string()


def test_blocks_are_named_by_what_they_hold_and_the_reading_that_was_taken_is_said():
    def row(name):
        table = requirements.of_network("S9", STUDENTS[name][1]())
        return table["measured"].iloc[0]

    blocks = "C1 conv1 (32x32), conv2, C2 depthwise (16x16), conv3, C3 conv4 (8x8), conv5, "
    assert row("StridedLast") == blocks + "C4 conv6 to conv7 (4x4)"
    assert row("SqueezesEndBlocks").endswith("; 1x1 convolutions end blocks, too")


def test_a_field_that_the_pooling_alone_brings_over_44_and_one_through_gates_are_said():
    def row(name):
        table = requirements.of_network("S7", STUDENTS[name][1]())
        return dict(zip(table["demand"], table["measured"], strict=True))["receptive field > 44"]

    text = "54 (26 before the global pooling, which alone brings it over 44)"
    assert row("TwoPoolings") == text
    assert row("Gated").endswith("; through its gates the whole image")


def test_parameters_that_take_no_part_are_said():
    network = STUDENTS["Textbook"][1]()
    used = sum(p.numel() for p in network.parameters())
    network.spare = nn.Linear(10, 10)
    table = requirements.of_network("S7", network)
    assert table["measured"].iloc[-1] == f"{used + 110:,} ({used:,} of them used)"


def test_pooling_beside_a_convolution_is_pooling():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 7, 5, stride=2, padding=2)
            self.fc = nn.Linear(10, 10)

        def forward(self, x):
            x = torch.cat([self.conv(x), nn.functional.max_pool2d(x, 2)], dim=1)
            return self.fc(x.mean(dim=(2, 3)))

    for notebook, row in (
        ("S9", "no pooling but the global one"),
        ("ResNet18_GradCAM", "no max pooling"),
    ):
        table = requirements.of_network(notebook, Both()).set_index("demand")
        assert table.loc[row, "measured"] == "pool1"
        assert not table.loc[row, "passed"]
    table = requirements.of_network("S9", Both()).set_index("demand")
    assert table.loc["global average pooling", "measured"] == "gap", "over both branches"
