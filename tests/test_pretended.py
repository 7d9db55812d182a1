"""Nothing mixes devices: runs on a pretended GPU, and all that is done with their networks."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.anatomy import requirements
from helpers.figures import fields
from helpers.figures.grad_cam import grad_cam
from helpers.images import data
from helpers.models import MODELS
from helpers.runs import conductor, pace, results, search
from helpers.runs.catalogue import RUNS
from helpers.settings import SMOKE, Profile, Settings
from tests.pretended import CUDA, gpu, there
from tests.test_training import Tiny

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """What a network lacks is an error here, not a line."""
    monkeypatch.setattr(results, "attempted", lambda _, make: make())


def test_devices_are_not_mixed_on_the_pretended_gpu():
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
    settings = Settings(SMOKE, "digits", home=tmp_path)
    images, quick = data.load(settings), Profile("quick", epochs=2, seconds=6)
    with gpu():
        result = conductor.train(RUNS["S7/s7_dropout"], images, settings)
        assert all(map(there, result.model.state_dict().values()))
        assert result.metrics["device_type"] == "cuda"
        assert result.metrics["receptive_field"] == {"before_pooling": 36, "including_pooling": 48}
        assert (result.folder / "receptive_field.csv").is_file()
        again = results.load(result.folder, images)
        assert np.allclose(again.logits, result.logits, atol=0.01)
        four = images.test_images[:4]
        inputs = images.normalise(torch.from_numpy(four).permute(0, 3, 1, 2))
        fields.growth(again.model, ["block1", "block2"], four[1], inputs, "")
        grad_cam(again.model, "block3", four, images.test_labels[:4], images)
        assert len(requirements.of_network("S9", again.model)) == 11
        pace.affordable(images, dataclasses.replace(settings, profile=quick), "S7")


def test_a_rate_is_searched_for_there(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    settings = Settings(SMOKE, "digits", home=tmp_path)
    images, run = data.load(settings), dataclasses.replace(RUNS["S10/s10"], net="tiny")
    with gpu():
        run, test, tried = search.with_found_rate(run, images, settings)
        result = conductor.train(run, images, settings)
        assert all(map(there, result.model.state_dict().values()))
    assert np.isfinite(test["loss"]).all()
    assert len(tried) >= 3
