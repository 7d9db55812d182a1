"""Class activation maps and occlusion maps show where the evidence for a class is."""

import copy

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import data as data_module
from helpers import grad_cam as module
from helpers.evaluation import predict
from helpers.grad_cam import (
    cam_occlusion_correlation,
    grad_cam,
    occlusion_map,
    overlay,
    plot_grad_cam_steps,
)
from helpers.models import get_model
from helpers.results import Result
from helpers.training import History


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(200, 30)


class RedOrGreen(nn.Module):
    """The logit of class 0 is the image's mean red, that of class 1 its mean green."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 1, bias=False)
        self.layer.weight.data = torch.eye(10, 3).view(10, 3, 1, 1)

    def forward(self, x):
        return self.layer(x).mean((2, 3))


def make_result(model, data):
    logits = predict(model, data, data.test_images).numpy()
    return Result(None, model, History([], [], []), {"net": "tiny"}, logits, "tiny on sample")


@pytest.fixture
def result(sample):
    """A model that always predicts class 0, 1 or 2, and so makes mistakes."""
    return make_result(RedOrGreen(), sample)


@pytest.fixture
def perfect_result(sample):
    result = make_result(RedOrGreen(), sample)
    result.logits = np.eye(10, dtype=np.float32)[sample.test_labels]
    return result


def panel_titles(figure):
    return [axis.get_title() for axis in figure.axes]


# ------------------------------------------------------------------------------------- Grad-CAM


def test_the_map_is_high_where_the_class_is(sample):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 8:24, 4:12, 0] = 255  # red on the left
    image[:, 8:24, 20:28, 1] = 255  # green on the right
    red, green = (grad_cam(RedOrGreen(), "layer", image, np.array([c]), sample)[0] for c in (0, 1))
    assert red.shape == (32, 32)
    assert red.dtype == np.float32
    difference = red - green
    assert difference[8:24, 4:12].mean() > 0.5
    assert difference[8:24, 20:28].mean() < -0.5


def test_high_values_are_yellow():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    cams = np.zeros((1, 32, 32), np.float32)
    cams[:, 8:24, 4:12] = 1
    drawn = overlay(images, cams)[0]
    assert drawn.shape == (32, 32, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[8:24, 4:12, :2] > drawn[8:24, 4:12, 2:]).all()  # red and green give yellow
    assert not drawn[24:].any()  # where the map is 0, the image is unchanged


def test_an_overlay_of_no_heat_is_the_image():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(overlay(images, np.zeros((2, 32, 32), np.float32)), images)
    assert len(overlay(images[:0], [])) == 0


def test_the_steps_of_grad_cam_are_maps_times_weights_their_sum_and_relu():
    random = np.random.default_rng(0)
    maps, weights = random.random((5, 8, 8)), random.normal(size=5)
    image = np.zeros((32, 32, 3), np.uint8)
    figure = plot_grad_cam_steps(image, maps, weights, "Title")
    panels = {axis.get_title(): axis.images[0].get_array() for axis in figure.axes}
    total = sum(weight * feature for weight, feature in zip(weights, maps, strict=True))
    assert np.allclose(panels["sum of all 5 weighted maps"], total)
    assert np.allclose(panels["ReLU: negative values become 0"], np.maximum(total, 0))
    strongest = (weights * maps.sum(axis=(1, 2))).argmax()
    assert np.allclose(panels[f"map {strongest}"], maps[strongest])
    assert np.allclose(
        panels[f"times {weights[strongest]:+.4f}"], weights[strongest] * maps[strongest]
    )


def test_an_overlay_is_brighter_where_the_image_is():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[1] = [30, 60, 90]
    dark, gray = overlay(images, np.full((2, 32, 32), 0.5, np.float32))
    assert (gray.sum(axis=2) > dark.sum(axis=2)).all()


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer3"), ("compact", "block4")])
def test_the_model_is_unchanged_and_maps_differ_by_class(name, layer, sample):
    model = get_model(name).train().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    images = sample.test_images[:2]
    cams = [grad_cam(model, layer, images, np.array(c), sample) for c in ([0, 0], [1, 1])]
    assert cams[0].shape == images.shape[:3]
    assert not np.array_equal(cams[0], cams[1])
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_a_missing_layer_is_named(sample):
    for n in (1, 0):
        with pytest.raises(AttributeError, match="layer9"):
            grad_cam(get_model("compact"), "layer9", sample.test_images[:n], np.zeros(n), sample)


def test_mistakes_are_explained_for_the_predicted_then_for_the_true_class(sample, result):
    mistakes = np.flatnonzero(result.logits.argmax(axis=1) != sample.test_labels)[:4]
    images, predicted = sample.test_images[mistakes], result.logits[mistakes].argmax(axis=1)
    cams = module.explain_mistakes(result, sample, "layer", n=4)
    assert cams.shape == (2, 4, 32, 32)
    expected = grad_cam(result.model, "layer", images, predicted, sample)
    assert np.allclose(cams[0], expected)
    expected = grad_cam(result.model, "layer", images, sample.test_labels[mistakes], sample)
    assert np.allclose(cams[1], expected)


def test_the_gallery_has_three_pictures_for_each_mistake(sample, result):
    figure = module.plot_grad_cam(result, sample, "layer", n=3)
    mistakes = np.flatnonzero(result.logits.argmax(axis=1) != sample.test_labels)[:3]
    predicted = result.logits.argmax(axis=1)
    captions = []
    for i in mistakes:
        true = sample.classes[sample.test_labels[i]]
        captions += [true, f"{sample.classes[predicted[i]]} (predicted)", f"{true} (true)"]
    assert panel_titles(figure)[:9] == captions
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(pictures) == 9
    assert np.array_equal(pictures[3], sample.test_images[mistakes[1]])
    predicted_cams, true_cams = module.explain_mistakes(result, sample, "layer", n=3)
    images = sample.test_images[mistakes]
    assert not np.array_equal(predicted_cams, true_cams)
    assert np.array_equal(pictures[1::3], overlay(images, predicted_cams))
    assert np.array_equal(pictures[2::3], overlay(images, true_cams))
    assert figure.get_suptitle() == "Grad-CAM from layer: tiny on sample"


def test_without_mistakes_there_are_no_maps_and_the_gallery_says_so(sample, perfect_result):
    assert module.explain_mistakes(perfect_result, sample, "layer").shape == (2, 0, 32, 32)
    figure = module.plot_grad_cam(perfect_result, sample, "layer")
    figure.canvas.draw()
    [text] = figure.axes[0].texts
    assert text.get_text() == "No mistakes: all 30 test images are classified correctly."


# ------------------------------------------------------------------------------------ occlusion


class Corner(nn.Module):
    """The logit of class 3 is the mean of one 8x8 square, all others are -100."""

    def __init__(self, top, left):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.square = np.s_[:, :, top : top + 8, left : left + 8]

    def forward(self, x):
        logits = torch.full((len(x), 10), -100.0)
        logits[:, 3] = self.scale * x[self.square].mean((1, 2, 3))
        return logits


def test_the_logit_drops_where_the_square_that_counts_is_blurred(sample):
    images = np.zeros_like(sample.test_images)
    images[:, 8:16, 12:20] = 255
    bright = data_module.dataclasses.replace(sample, test_images=images)
    result = make_result(Corner(8, 12), bright)
    drops = occlusion_map(result, bright, np.array([4, 7]))
    assert drops.shape == (2, 7, 7)
    assert drops.dtype == np.float32
    assert np.unravel_index(drops[0].argmax(), (7, 7)) == (2, 3)
    assert (drops[:, 4:] == 0).all()  # these squares do not touch the one that counts
    occluded = images[:1].copy()
    occluded[0, 8:16, 12:20] = cv2.GaussianBlur(images[0], (0, 0), sigmaX=5)[8:16, 12:20]
    expected = result.logits[0, 3] - predict(result.model, bright, occluded)[0, 3].item()
    assert drops[1, 2, 3] == pytest.approx(expected)
    assert expected > 0.1


def test_size_and_stride_set_the_positions_of_the_square(sample, result):
    assert occlusion_map(result, sample, np.array([0]), size=16, stride=8).shape == (1, 3, 3)
    assert occlusion_map(result, sample, np.array([0]), size=32, stride=1).shape == (1, 1, 1)
    assert occlusion_map(result, sample, np.array([], int)).shape == (0, 7, 7)


def test_maps_that_agree_have_a_correlation_of_one():
    random = np.random.default_rng(0)
    cams = random.random((3, 32, 32)).astype(np.float32)
    starts = range(0, 25, 4)
    drops = np.array(
        [[[cam[y : y + 8, x : x + 8].mean() for x in starts] for y in starts] for cam in cams]
    )
    same_image, different_images = cam_occlusion_correlation(cams, 5 * drops - 1)
    assert same_image.to_list() == pytest.approx([1, 1, 1])
    assert len(different_images) == 6
    assert different_images.abs().max() < 0.9
    assert cam_occlusion_correlation(cams, -drops)[0].to_list() == pytest.approx([-1, -1, -1])
    # cv2.blur gives at (y, x) the mean of rows y-4 to y+3 and columns x-4 to x+3.
    blurred = [cv2.blur(cam, (8, 8))[4:29:4, 4:29:4] for cam in cams]
    same_image, _ = cam_occlusion_correlation(cams, np.array(blurred))
    assert same_image.to_list() == pytest.approx([1, 1, 1])


def test_pairs_of_two_images_are_compared_in_order():
    random = np.random.default_rng(0)
    cams = random.random((2, 16, 16))
    drops = random.random((2, 2, 2))
    _, different_images = cam_occlusion_correlation(cams, drops, size=8, stride=8)
    means = cams.reshape(2, 2, 8, 2, 8).mean(axis=(2, 4)).reshape(2, 4)
    expected = [
        np.corrcoef(means[0], drops[1].ravel())[0, 1],
        np.corrcoef(means[1], drops[0].ravel())[0, 1],
    ]
    assert different_images.to_list() == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_a_constant_map_has_no_correlation():
    cams = np.random.default_rng(0).random((2, 32, 32))
    cams[0] = 0
    same_image, _ = cam_occlusion_correlation(cams, np.random.default_rng(1).random((2, 7, 7)))
    assert same_image.isna().to_list() == [True, False]


def test_occlusion_is_drawn_below_grad_cam(sample, result):
    indices = np.array([2, 5, 9])
    drops = np.zeros((3, 7, 7), np.float32)
    drops[:, 0, 6] = 2  # the square in the upper right corner
    drops[:, 6, 0] = -2  # the logit rises: drawn like no change
    figure = module.plot_occlusion(result, sample, "layer", indices, drops)
    pictures = [axis.images[0].get_array() for axis in figure.axes]
    assert len(pictures) == 9
    assert np.array_equal(pictures[:3], sample.test_images[indices])
    predicted = result.logits[indices].argmax(axis=1)
    cams = grad_cam(result.model, "layer", sample.test_images[indices], predicted, sample)
    assert np.array_equal(pictures[3:6], overlay(sample.test_images[indices], cams))
    captions = [sample.classes[label] for label in predicted]
    assert panel_titles(figure) == [*captions, "Grad-CAM", "", "", "occlusion", "", ""]
    assert pictures[6][2, 29, 0] > pictures[6][2, 29, 2]  # yellow
    assert pictures[6][29, 2, 2] > pictures[6][29, 2, 0]  # blue
    enlarged = module._enlarge(drops[0])
    assert (enlarged.shape, enlarged.min(), enlarged.max()) == ((32, 32), 0, 1)
    assert (enlarged[:4, 28:] == 1).all()  # up to the border of the image
    assert "layer" in figure.get_suptitle()


def test_occlusion_of_no_images_says_so(sample, perfect_result):
    empty = np.zeros(0, int)
    drops = occlusion_map(perfect_result, sample, empty)
    figure = module.plot_occlusion(perfect_result, sample, "layer", empty, drops)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == ["No images"]
    same_image, different_images = cam_occlusion_correlation(np.zeros((0, 32, 32)), drops)
    assert len(same_image) == len(different_images) == 0
    module.plot_agreement({"layer": (same_image, different_images)}).canvas.draw()


def test_agreement_has_a_row_for_each_layer():
    correlations = {
        "layer3": (pd.Series([0.2, 0.6, np.nan]), pd.Series([-0.4, 0.0, 0.4])),
        "layer4": (pd.Series([0.1, 0.3]), pd.Series([0.0, 0.2])),
    }
    figure = module.plot_agreement(correlations)
    [axis] = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["layer3", "layer4"]
    images, mean, *others = axis.lines
    assert images.get_xdata()[:2].tolist() == [0.2, 0.6]
    assert images.get_ydata().tolist() == [0, 0, 0]
    assert mean.get_xdata()[0] == pytest.approx(0.4)
    assert others[1].get_xdata()[0] == pytest.approx(0.2)
    assert others[1].get_ydata()[0] == 1
    middle_half = axis.collections[0].get_segments()[0]
    assert middle_half[:, 0].tolist() == pytest.approx([-0.2, 0.2])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["two images: the middle half", "an image", "mean of the images"]


# ------------------------------------------------------------------------------- your own image


def test_your_own_image_is_beside_its_map_and_the_most_probable_classes(sample, result):
    photo = Image.new("RGB", (64, 64), (250, 20, 10))
    figure = module.plot_own_image(result, sample, photo, "layer")
    pictures = [np.asarray(axis.images[0].get_array()) for axis in figure.axes[:3]]
    assert pictures[0].shape == (256, 256, 3)
    assert (pictures[1] == [250, 20, 10]).all()
    assert pictures[1].shape == (32, 32, 3)
    logits = predict(result.model, sample, pictures[1][None])[0]
    label = int(logits.argmax())
    cam = grad_cam(result.model, "layer", pictures[1][None], np.array([label]), sample)
    assert np.array_equal(pictures[2], overlay(pictures[1][None], cam)[0])
    assert panel_titles(figure)[2] == f"evidence for {sample.classes[label]}"
    percentages = 100 * logits.softmax(dim=0).numpy()
    bars = figure.axes[3].patches
    assert len(bars) == 5
    widths = [bar.get_width() for bar in bars]
    assert widths == pytest.approx(np.sort(percentages)[::-1][:5])
    names = [text.get_text() for text in figure.axes[3].get_yticklabels()]
    assert names[0] == sample.classes[label]
    assert figure.axes[3].yaxis_inverted()  # the most probable class is on top
    indices = [sample.classes.index(name) for name in names]
    assert percentages[indices] == pytest.approx(widths)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.pair = Pair()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.unused = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x, _ = self.pair(self.conv(x))
        return self.fc(self.flat(self.pool(x)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pool", r"pool returns \(1, 8, 1, 1\): choose an earlier layer"),
        ("flat", r"flat returns \(1, 8\)"),
        ("pair", "pair returns a tuple"),
        ("unused", "unused is not used"),
    ],
)
def test_a_layer_without_feature_maps_is_named(layer, message, sample):
    with pytest.raises(ValueError, match=message):
        grad_cam(Odd(), layer, sample.test_images[:2], [0, 1], sample)
    maps = grad_cam(Odd(), "conv", sample.test_images[:2], [0, 1], sample)
    assert maps.shape == (2, 32, 32)
