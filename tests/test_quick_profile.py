"""How many images a quick look takes: as many as fit into its time, said, and kept."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import evaluation, quick_profile
from helpers.config import FULL, PROFILES, QUICK, Settings
from helpers.data import ImageData
from helpers.experiments import EXPERIMENTS


@pytest.fixture
def cifar10():
    pixels, labels = np.zeros((50_000, 32, 32, 3), np.uint8), np.arange(50_000) % 10
    return ImageData(
        "cifar10", "CIFAR-10", tuple("abcdefghij"), pixels, labels, pixels[:10_000], labels[:10_000]
    )


@pytest.fixture
def quick(tmp_path):
    return Settings(QUICK, "cifar10", output_dir=tmp_path)


def test_a_notebooks_runs_share_the_time(cifar10, quick, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        quick_profile, "seconds_per_test_image", lambda run, _: asked.append(run.name) or 0.02
    )
    part = quick_profile.limit_to_time_budget(cifar10, quick, "S7")
    assert asked == ["S7/s7", "S7/s7_dropout"]
    assert len(part.test_labels) == 1_750  # 70 seconds / (2 x .02)
    assert len(part.train_labels) == 3_500
    assert part.title == "CIFAR-10, first 1,750 test images"
    assert "3,500 training and 1,750 test images" in capsys.readouterr().out
    assert evaluation.test_accuracy(np.eye(10)[part.test_labels], part) == 100


def test_slow_machines_take_a_hundred_images_and_fast_ones_all(cifar10, quick, monkeypatch):
    monkeypatch.setattr(quick_profile, "seconds_per_test_image", lambda *_: 20)
    assert len(quick_profile.limit_to_time_budget(cifar10, quick, "S10").test_labels) == 100
    monkeypatch.setattr(quick_profile, "seconds_per_test_image", lambda *_: 1e-6)
    assert quick_profile.limit_to_time_budget(cifar10, quick, "S9").title == "CIFAR-10"


def test_the_number_is_kept_so_that_runs_continue(cifar10, quick, monkeypatch):
    monkeypatch.setattr(quick_profile, "seconds_per_test_image", lambda *_: 0.02)
    first = quick_profile.limit_to_time_budget(cifar10, quick, "S7")
    monkeypatch.setattr(quick_profile, "seconds_per_test_image", lambda *_: 1 / 0)
    assert len(quick_profile.limit_to_time_budget(cifar10, quick, "S7").test_labels) == len(
        first.test_labels
    )
    [file] = quick.output_dir.rglob("*.txt")
    file.write_text("many")
    monkeypatch.setattr(quick_profile, "seconds_per_test_image", lambda *_: 0.02)
    again = quick_profile.limit_to_time_budget(cifar10, quick, "S7")
    assert len(again.test_labels) == len(first.test_labels), "a damaged one is measured again"
    assert file.read_text() == f"{len(first.test_labels)}"


def test_all_images_where_no_time_is_set_or_nothing_is_trained(cifar10, quick):
    assert (
        quick_profile.limit_to_time_budget(cifar10, replace(quick, profile=FULL), "S7") is cifar10
    )
    assert quick_profile.limit_to_time_budget(cifar10, replace(quick, reuse=True), "S7") is cifar10


def test_the_time_is_that_of_a_step_of_the_network(monkeypatch):
    times = iter(np.cumsum([0, 9, 5, 0.32]))  # three steps, the last warm
    monkeypatch.setattr(quick_profile.time, "perf_counter", lambda: next(times))
    run = EXPERIMENTS["S7/s7_dropout"]
    images = 2 * 2 + 2 / 3 + 2 / 3  # two epochs of two images, and tests at a third of the price
    assert quick_profile.seconds_per_test_image(run, PROFILES["quick"]) == pytest.approx(
        images * 0.32 / 16
    )
    times = iter(np.cumsum([0, 9, 5, 0.32]))
    found = quick_profile.seconds_per_test_image(replace(run, find_lr=True), PROFILES["quick"])
    searching = 2 * 100 / 32 + 5 * 2 * (2 / 5 + 2 / 10 / 3)  # a fifth, two epochs, five times
    assert found == pytest.approx((images + searching) * 0.32 / 16)
