"""The weights that training starts from do what their names say."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.images import data
from helpers.models import build
from helpers.training import initialisation
from helpers.training.recipes import Recipe


def test_whitened_filters_give_uncorrelated_outputs_of_unit_variance():
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(200, 3, 36, 36), 5, stride=1) * 5  # neighbours alike
    conv = nn.Conv2d(3, 64, 3, bias=False)
    untouched = conv.weight[54:].clone()
    initialisation.whiten_(conv, images, epsilon=0)
    outputs = conv(images).transpose(0, 1).flatten(1)
    covariance = torch.cov(outputs[:27])
    assert torch.allclose(covariance, torch.eye(27), atol=0.02)
    assert torch.equal(conv.weight[27:54], -conv.weight[:27])
    assert torch.equal(conv.weight[54:], untouched)


def test_identity_passes_the_first_channels_through():
    model = build("s7")
    before = {name: value.clone() for name, value in model.named_parameters()}
    initialisation.identity_(model)
    x = torch.randn(1, 128, 8, 8)
    wide, dilated, squeeze = model.block1[2][0], model.block2[1][0], model.block3[2][0]
    for conv in (wide, dilated):
        assert torch.allclose(conv(x[:, :64])[:, :64], x[:, :64])
    assert torch.allclose(squeeze(x), x[:, :64])
    for name in ("block4.0.depthwise.weight", "output.weight"):
        assert torch.equal(model.get_parameter(name), before[name])


def test_the_recipes_dropout_reaches_every_kind_of_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.3))
    recipe = Recipe(1, 8, max_lr=0.1, peak_epoch=1, dropout=0.05)
    initialisation.start_(model, recipe, data=None)
    assert [model[1].p, model[3].p] == [0.05, 0.05]
    initialisation.start_(model, dataclasses.replace(recipe, dropout=None), data=None)
    assert [model[1].p, model[3].p] == [0.05, 0.05]


@pytest.mark.parametrize(("whitened", "identity"), [(True, False), (False, True), (False, False)])
def test_the_recipe_decides_which_weights_are_set(whitened, identity):
    torch.manual_seed(0)
    model, digits = build("s7"), data.digits().first(200)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    recipe = Recipe(1, 8, max_lr=0.1, peak_epoch=1, whitened=whitened, identity=identity)
    initialisation.start_(model, recipe, digits)
    changed = {n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])}
    kernels = [f"{name}.weight" for name, module in model.named_modules()
               if isinstance(module, nn.Conv2d) and module.groups == 1]  # fmt: skip
    expected = {"block1.0.0.weight"} if whitened else {*kernels[:-1]} if identity else set()
    assert changed == expected, "the last one, which gives the classes, is left alone"


def test_only_a_convolution_that_reads_the_image_is_whitened():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 32, 1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    recipe = Recipe(1, 8, max_lr=0.1, peak_epoch=1, whitened=True)
    initialisation.start_(model, recipe, data.digits().first(200))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
