"""The fingerprint of a model: what it notices, and that it leaves the random states unchanged."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.inspection import execution_order, model_fingerprint
from helpers.inspection.fingerprint import FunctionLog


class Net(nn.Module):
    """A network whose parts a test can change."""

    def __init__(self, activation=F.relu, initial=0.5, buffer=(1.0, 2.0), trained=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.scale = nn.Parameter(torch.full((2, 1, 1), initial), requires_grad=trained)
        self.register_buffer("shift", torch.tensor(buffer).view(2, 1, 1))
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.conv(x)) * self.scale + self.shift
        return F.dropout(x, 0.1, self.training).mean((2, 3))


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_a_fingerprint_leaves_the_random_states_unchanged():
    before = random_states()
    model_fingerprint(Net)
    assert random_states() == before


def test_a_fingerprint_does_not_depend_on_the_random_states():
    class Random(Net):
        def __init__(self):
            super().__init__(buffer=torch.rand(2).tolist())

        def forward(self, x):
            return super().forward(x) * np.random.rand() * random.random()

    fingerprints = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        fingerprints.append(model_fingerprint(Random))
    assert fingerprints[0] == fingerprints[1]


def test_random_states_are_restored_if_the_model_fails():
    class Broken(Net):
        def forward(self, x):
            raise RuntimeError("broken")

    before = random_states()
    with pytest.raises(RuntimeError, match="broken"):
        model_fingerprint(Broken)
    assert random_states() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": F.gelu},
        {"activation": lambda x: F.leaky_relu(x, 0.02)},
        {"activation": lambda x: F.relu(x.mT)},  # an attribute, not a function
        {"initial": 0.25},
        {"buffer": (2.0, 1.0)},  # the same values in another order
        {"trained": False},
    ],
)
def test_a_change_of_the_model_changes_its_fingerprint(changes):
    assert model_fingerprint(Net) == model_fingerprint(Net)
    assert model_fingerprint(lambda: Net(**changes)) != model_fingerprint(Net)


def test_random_weights_and_small_differences_of_buffers_are_not_recorded():
    lines = model_fingerprint(Net)
    assert "conv.weight (2, 3, 3, 3) True random" in lines
    assert "scale (2, 1, 1) True [0.5]" in lines
    assert lines == model_fingerprint(lambda: Net(buffer=(1.0 + 1e-6, 2.0)))


def test_training_is_recorded_after_evaluation():
    def dropouts(lines):
        return [line for line in lines if line.startswith("dropout(")]

    evaluation, training = dropouts(model_fingerprint(Net))
    assert "False" in evaluation
    assert "True" in training


def test_modules_that_run_twice_are_listed_once_in_the_order_of_their_first_call():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model.append(model[0])
    assert execution_order(model) == [model, model[0], model[1]]


def test_weights_that_are_not_registered_are_found_and_views_of_parameters_are_not():
    class Unregistered(Net):
        def __init__(self):
            super().__init__()
            self.weights = [torch.full((1, 2, 1, 1), 2.0, requires_grad=True)]

        def forward(self, x):
            return super().forward(x)[..., None, None] * self.weights[0] * self.scale[0]

    model = Unregistered()
    with torch.no_grad(), FunctionLog() as log:
        model(torch.zeros(1, 3, 32, 32))
    [weight] = log.unregistered_weights(model)
    assert weight is model.weights[0]
