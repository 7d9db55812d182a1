"""Grad-CAM looks where the class is, for the class asked for, and leaves the network alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from helpers.figures.grad_cam import grad_cam, overlay
from helpers.images import data as data_module
from helpers.models import build


@pytest.fixture(scope="module")
def digits():
    return data_module.digits()


class RedOrGreen(nn.Module):
    """Class 0 is the image's red, class 1 its green."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1, bias=False)
        self.layer.weight.data = torch.eye(2, 3).view(2, 3, 1, 1)

    def forward(self, x):
        return self.layer(x).mean((2, 3))


def test_the_map_is_hot_where_the_class_is(digits):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 8:24, 4:12, 0] = 255  # red on the left
    image[:, 8:24, 20:28, 1] = 255  # green on the right
    heat = [grad_cam(RedOrGreen(), "layer", image, np.array([c]), digits)[0] for c in (0, 1)]
    assert heat[0].shape == (32, 32)
    assert heat[0].dtype == np.float32
    difference = heat[0] - heat[1]
    assert difference[8:24, 4:12].mean() > 0.5
    assert difference[8:24, 20:28].mean() < -0.5


def test_what_is_hot_is_yellow():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    heat = np.zeros((1, 32, 32), np.float32)
    heat[:, 8:24, 4:12] = 1
    drawn = overlay(images, heat)[0]
    assert drawn.shape == (32, 32, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[8:24, 4:12, :2] > drawn[8:24, 4:12, 2:]).all()  # red and green: yellow
    assert (drawn[24:, :, 2] > drawn[24:, :, 1]).all()  # cold is dark blue


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer3"), ("compact", "block4")])
def test_network_is_left_as_it_was_and_maps_differ_by_class(name, layer, digits):
    model = build(name).train().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    images = digits.test_images[:2]
    drawn = [grad_cam(model, layer, images, np.array(c), digits) for c in ([0, 0], [1, 1])]
    assert drawn[0].shape == images.shape[:3]
    assert not np.array_equal(drawn[0], drawn[1])
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_a_layer_that_is_not_there_is_named(digits):
    with pytest.raises(AttributeError, match="layer9"):
        grad_cam(build("compact"), "layer9", digits.test_images[:1], np.array([0]), digits)
