"""Nothing mixes devices: runs on a fake GPU, and everything that is done with their models."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers import evaluation, experiments, plotting, quick_profile, requirements, results
from helpers.config import SMOKE, Profile, Settings
from helpers.data import load_data
from helpers.experiments import EXPERIMENTS, find_experiment_lr
from helpers.grad_cam import grad_cam
from helpers.models import MODELS
from tests.fake_cuda import CUDA, gpu, there
from tests.test_training import Tiny

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A table that cannot be made is an error here, not a line."""
    for module in (results, evaluation, requirements):
        if hasattr(module, "try_or_none"):
            monkeypatch.setattr(module, "try_or_none", lambda _, make: make())


def test_devices_are_not_mixed_on_the_fake_gpu():
    with gpu():
        here, away = torch.ones(2, 3), torch.ones(2, 3).to(CUDA)
        assert (away * 2 + torch.tensor(1.0)).sum().item() == 18
        assert away.device == CUDA
        assert there(away[torch.tensor([1])])
        for mix in (
            lambda: here + away, lambda: here.add_(away[0]), lambda: here @ away.T,
            lambda: here * away[0, 0], lambda: here[away[0].long()], lambda: np.asarray(away),
            lambda: torch.stack([away[0, 0], torch.tensor(1.0)]),
            lambda: torch.nn.Linear(3, 2)(away), lambda: torch.cat([here, away]),
        ):  # fmt: skip
            with pytest.raises((RuntimeError, TypeError), match="cuda"):
                mix()


def test_a_network_that_was_trained_there_can_be_looked_at(tmp_path):
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    data = load_data(settings)
    quick = Profile("quick", epochs=2, seconds=6)
    with gpu():
        result = experiments.run_experiment(EXPERIMENTS["S7/s7_dropout"], data, settings)
        assert all(map(there, result.model.state_dict().values()))
        assert result.metrics["device_type"] == "cuda"
        assert result.metrics["receptive_field"] == {"before_pooling": 36, "including_pooling": 48}
        assert (result.folder / "receptive_field.csv").is_file()
        again = results.load_result(result.folder, data)
        shifted = result.logits - result.logits.max(axis=1, keepdims=True)
        assert np.allclose(again.logits, shifted, atol=0.01)
        plotting.plot_receptive_fields(again, data, ["block1", "block2"])
        plotting.plot_activations(again, data, ["block1"])
        grad_cam(again.model, "block3", data.test_images[:4], data.test_labels[:4], data)
        assert len(requirements.check_model("S9", again.model)) == 11
        quick_profile.limit_to_time_budget(data, dataclasses.replace(settings, profile=quick), "S7")


def test_a_rate_is_searched_for_there(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    data = load_data(settings)
    experiment = dataclasses.replace(EXPERIMENTS["S10/s10"], model="tiny")
    with gpu():
        experiment, lr_curve, lr_trials = find_experiment_lr(experiment, data, settings)
        result = experiments.run_experiment(experiment, data, settings)
        assert all(map(there, result.model.state_dict().values()))
    assert np.isfinite(lr_curve["loss"]).all()
    assert len(lr_trials) >= 3
