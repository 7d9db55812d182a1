"""The learning-rate range test: repeatable, without traces, and as long as the run at most."""

import copy
import dataclasses
import random

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers.images import data as data_module
from helpers.training.range_test import range_test
from helpers.training.recipes import Recipe

RECIPE = Recipe(epochs=20, batch_size=64, max_lr=0.1, peak_epoch=5, optimizer="AdamW")


@pytest.fixture(scope="module")
def digits():
    return data_module.digits().first(300)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )


def test_it_leaves_no_trace_and_can_be_repeated(digits, capsys):
    model = network()
    model(torch.zeros(2, 3, 32, 32))
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    transform = A.Compose([A.HorizontalFlip(p=0.5)])
    found = [range_test(model, digits, transform, RECIPE, seed=3, steps=30) for _ in range(2)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())
    pd.testing.assert_frame_equal(*found)
    assert capsys.readouterr() == ("", "")


def test_rates_grow_and_the_loss_first_falls(digits):
    model = network()
    model(torch.zeros(2, 3, 32, 32))
    found = range_test(model, digits, None, RECIPE, steps=60)
    rates = found["learning_rate"].to_numpy()
    assert rates[0] < 2e-5
    assert (np.diff(np.log(rates)) > 0).all()
    assert found["loss"].min() < 0.8 * found["loss"].iloc[0]
    assert 1e-3 < found["learning_rate"][found["loss"].idxmin()] <= 1
    assert len(found) == 60


def test_it_takes_no_more_steps_than_the_run(digits):
    model = network()
    model(torch.zeros(2, 3, 32, 32))
    short = dataclasses.replace(RECIPE, epochs=2, peak_epoch=1)
    found = range_test(model, digits, None, short)
    assert len(found) == 2 * 5  # batches of 64 out of 300 images
    assert found["learning_rate"].iloc[-1] == pytest.approx(1)
