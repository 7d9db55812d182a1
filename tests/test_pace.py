"""How many images a quick look takes: as many as fit into its time, said, and kept."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import evaluation
from helpers.images.data import ImageData
from helpers.runs import pace
from helpers.runs.catalogue import RUNS
from helpers.settings import FULL, PROFILES, QUICK, Settings


@pytest.fixture
def cifar10():
    pixels, labels = np.zeros((50_000, 32, 32, 3), np.uint8), np.arange(50_000) % 10
    return ImageData(
        "cifar10", "CIFAR-10", tuple("abcdefghij"), pixels, labels, pixels[:10_000], labels[:10_000]
    )


@pytest.fixture
def quick(tmp_path):
    return Settings(QUICK, "cifar10", home=tmp_path)


def test_a_notebooks_runs_share_the_time(cifar10, quick, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        pace, "seconds_per_test_image", lambda run, _: asked.append(run.name) or 0.02
    )
    part = pace.affordable(cifar10, quick, "S7")
    assert asked == ["S7/s7", "S7/s7_dropout"]
    assert len(part.test_labels) == 1_750  # 70 seconds / (2 x .02)
    assert len(part.train_labels) == 3_500
    assert part.title == "CIFAR-10, first 1,750 test images"
    assert "3,500 training and 1,750 test images" in capsys.readouterr().out
    assert evaluation.test_accuracy(np.eye(10)[part.test_labels], part) == 100


def test_digits_take_a_third_of_the_time_and_slow_machines_a_hundred_images(
    cifar10, quick, monkeypatch
):
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 0.02)
    assert len(pace.affordable(replace(cifar10, key="digits"), quick, "S7").test_labels) == 550
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 20)
    assert len(pace.affordable(cifar10, quick, "S10").test_labels) == 100
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 1e-6)
    assert pace.affordable(cifar10, quick, "S9").title == "CIFAR-10"


def test_the_number_is_kept_so_that_runs_continue(cifar10, quick, monkeypatch):
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 0.02)
    first = pace.affordable(cifar10, quick, "S7")
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 1 / 0)
    assert len(pace.affordable(cifar10, quick, "S7").test_labels) == len(first.test_labels)
    [file] = quick.home.rglob("*.txt")
    file.write_text("many")
    monkeypatch.setattr(pace, "seconds_per_test_image", lambda *_: 0.02)
    again = pace.affordable(cifar10, quick, "S7")
    assert len(again.test_labels) == len(first.test_labels), "a damaged one is measured again"
    assert file.read_text() == f"{len(first.test_labels)}"


def test_all_images_where_no_time_is_set_or_nothing_is_trained(cifar10, quick):
    assert pace.affordable(cifar10, replace(quick, profile=FULL), "S7") is cifar10
    assert pace.affordable(cifar10, replace(quick, reuse=True), "S7") is cifar10


def test_the_time_is_that_of_a_step_of_the_network(monkeypatch):
    times = iter(np.cumsum([0, 9, 5, 0.32]))  # three steps, the last warm
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(times))
    run = RUNS["S7/s7_dropout"]
    images = 2 * 2 + 2 / 3 + 2 / 3  # two epochs of two images, and tests at a third of the price
    assert pace.seconds_per_test_image(run, PROFILES["quick"]) == pytest.approx(images * 0.32 / 16)
    times = iter(np.cumsum([0, 9, 5, 0.32]))
    found = pace.seconds_per_test_image(replace(run, find_rate=True), PROFILES["quick"])
    searching = 2 * 100 / 32 + 5 * 2 * (2 / 5 + 2 / 10 / 3)  # a fifth, two epochs, five times
    assert found == pytest.approx((images + searching) * 0.32 / 16)
