"""The initial weights of a training do what their names say."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers import data, init
from helpers.models import get_model
from helpers.optim import TrainConfig

CONFIG = TrainConfig(1, 8, max_lr=0.1, peak_epoch=1)


def copy_weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def changed_weights(model, before):
    """The names of the weights that differ from a copy."""
    weights = model.state_dict().items()
    return {name for name, weight in weights if not torch.equal(weight, before[name])}


def test_whitened_filters_give_uncorrelated_outputs_of_unit_variance():
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(200, 3, 36, 36), 5, stride=1) * 5  # correlated neighbors
    conv = nn.Conv2d(3, 64, 3, bias=False)
    untouched = conv.weight[54:].clone()
    init.whitening_init_(conv, images, epsilon=0)
    outputs = conv(images).transpose(0, 1).flatten(1)
    covariance = torch.cov(outputs[:27])
    assert torch.allclose(covariance, torch.eye(27), atol=0.02)
    assert torch.equal(conv.weight[27:54], -conv.weight[:27])
    assert torch.equal(conv.weight[54:], untouched)


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    channels=st.integers(2, 4),
    size=st.integers(1, 3),
    dilation=st.integers(1, 3),
    filters=st.integers(1, 20),
    epsilon=st.floats(0.01, 1),
)
def test_whitened_filters_are_the_first_principal_components(
    channels, size, dilation, filters, epsilon
):
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(20, channels, 12, 12), 3, stride=1)
    conv = nn.Conv2d(channels, filters, size, dilation=dilation, bias=False)
    init.whitening_init_(conv, images, epsilon)
    number = min(filters, channels * size**2)
    outputs = conv(images).detach()[:, :number].transpose(0, 1).flatten(1)
    covariance = torch.cov(outputs).view(number, number)  # a number if there is one filter
    shares = covariance.diag()  # variance / (variance + epsilon), the largest one first
    assert torch.allclose(covariance, torch.diag(shares), atol=1e-3)
    assert (shares.diff() <= 1e-4).all()
    patches = F.unfold(images, size, dilation).transpose(0, 1).flatten(1)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(patches.numpy())))[::-1][:number]
    assert shares.numpy() == pytest.approx(variances / (variances + epsilon), abs=1e-3)


def test_identity_passes_the_first_channels_through():
    model = get_model("s7")
    before = {name: value.clone() for name, value in model.named_parameters()}
    init.dirac_init_(model)
    x = torch.randn(1, 128, 8, 8)
    wide, dilated, squeeze = model.block1[2][0], model.block2[1][0], model.block3[2][0]
    for conv in (wide, dilated):
        assert torch.allclose(conv(x[:, :64])[:, :64], x[:, :64])
    assert torch.allclose(squeeze(x), x[:, :64])
    for name in ("block4.0.depthwise.weight", "output.weight"):
        assert torch.equal(model.get_parameter(name), before[name])


@pytest.mark.parametrize("head", [nn.Conv2d(8, 10, 1), nn.Linear(8, 10)])
def test_identity_leaves_filters_beyond_the_inputs_and_the_last_layer(head):
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers = [*pool, head] if isinstance(head, nn.Linear) else [head, *pool]
    grouped = nn.Conv2d(8, 8, 3, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), grouped, nn.Conv2d(8, 8, 1), *layers)
    before = copy_weights(model)
    init.dirac_init_(model)
    assert changed_weights(model, before) == {"0.weight", "2.weight"}
    assert torch.equal(model[0].weight[3:], before["0.weight"][3:])
    images = torch.randn(2, 3, 8, 8)
    outputs = F.conv2d(images, model[0].weight)
    assert torch.equal(outputs[:, :3], images[:, :, 1:-1, 1:-1])


def test_the_configs_dropout_reaches_every_kind_of_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.3))
    init.initialize_(model, dataclasses.replace(CONFIG, dropout=0.05), data=None)
    assert [model[1].p, model[3].p] == [0.05, 0.05]
    init.initialize_(model, dataclasses.replace(CONFIG, dropout=None), data=None)
    assert [model[1].p, model[3].p] == [0.05, 0.05]
    init.initialize_(model, dataclasses.replace(CONFIG, dropout=0.0), data=None)
    assert [model[1].p, model[3].p] == [0, 0]


@pytest.mark.parametrize(
    ("whitening_init", "dirac_init"),
    [(True, False), (False, True), (False, False), (True, True)],
)
def test_the_config_decides_which_weights_are_set(whitening_init, dirac_init):
    torch.manual_seed(0)
    model, sample = get_model("s7"), data.load_sample().subset(200, 360)
    before = copy_weights(model)
    config = dataclasses.replace(CONFIG, whitening_init=whitening_init, dirac_init=dirac_init)
    init.initialize_(model, config, sample)
    kernels = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    expected = set()
    if dirac_init:
        expected = {*kernels[:-1]}  # the last one computes the logits
    elif whitening_init:
        expected = {"block1.0.0.weight"}
    assert changed_weights(model, before) == expected
    first = model.block1[0][0]
    if whitening_init:  # also with dirac_init, which would set other weights
        alone = nn.Conv2d(3, first.out_channels, first.kernel_size, bias=False)
        images = sample.normalize(torch.from_numpy(sample.train_images).permute(0, 3, 1, 2))
        init.whitening_init_(alone, images)
        number = min(first.out_channels, 2 * 27)
        assert torch.allclose(first.weight[:number], alone.weight[:number], atol=1e-3)


def test_only_a_convolution_that_reads_the_image_is_whitened():
    config = dataclasses.replace(CONFIG, whitening_init=True)
    sample = data.load_sample().subset(200, 360)
    for model in (
        nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 32, 1)),
        nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
    ):
        before = copy_weights(model)
        init.initialize_(model, config, sample)
        assert not changed_weights(model, before)
