"""The benchmark measures both ways alike, and its page says what it measured."""

import json
import shutil
import time

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import ceiling, report, ways
from helpers.images.batches import BatchSampler, train_loader
from helpers.images.data import ImageData
from helpers.models import MODELS
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT


def test_every_network_is_measured():
    assert set(bench.NETWORKS) == set(MODELS)


def test_both_ways_see_the_same_batches_of_the_same_form():
    """Of equal sizes and values: ours augments bytes and normalises later, theirs at once."""
    data, run = ways.noise(2_000), RUNS["S10/s10"]
    theirs_loader = ways._theirs(run, data, 128, workers=0)
    theirs = list(theirs_loader)
    sampler = BatchSampler(2_000, 128, 0)
    ours = list(train_loader(data, run.transform(data.statistics[0]), sampler))
    assert [len(labels) for _, labels in theirs] == [len(labels) for _, labels in ours]
    steps = theirs_loader.dataset.pipeline.transforms[:-2]
    assert str(steps) == str(run.transform(data.statistics[0]).transforms)
    a = torch.cat([images for images, _ in theirs])
    b = torch.cat([data.normalise(images) for images, _ in ours])
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.mean().item() == pytest.approx(b.mean().item(), abs=0.01)
    assert a.std().item() == pytest.approx(b.std().item(), abs=0.02)


@pytest.mark.parametrize("batches", [1, 2, 3])
@pytest.mark.parametrize("epochs", [1, 2])
def test_few_steps_are_enough(batches, epochs):
    for way in ways.WAYS:
        found = ways.train("S7/s7_dropout", way, 4 * batches, 4, 0, epochs)
        timed = way == "ours" or batches > 1  # of theirs all but the first step
        assert (found["images_per_second"] > 0) == timed


@pytest.mark.parametrize("way", ways.WAYS)
def test_either_way_trains_loads_and_evaluates(way):
    run = "S7/s7_dropout"
    before = time.time()
    trained = ways.train(run, way, 40, batch_size=16)
    assert before < trained["ended"] <= time.time()
    assert trained["images_per_second"] > 0
    assert ways.load(run, way, 300)["cpu_microseconds"] > 0
    assert ways.evaluate(run, way, 10)["images_per_second"] > 0


def test_convolutions_cost_most_of_a_convolutional_network():
    found = ways.operators("S7/s7", 64)
    assert "conv" in next(iter(found))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert 0.5 < sum(found.values()) <= 1


def test_the_ceiling_is_the_fastest_product(monkeypatch):
    monkeypatch.setattr(ceiling, "SIZES", (256,))
    monkeypatch.setattr(ceiling, "CONVOLUTIONS", ((2, 4),))
    found = ceiling.ceiling(seconds=0.05)
    assert found["by"] == "matrix product, 256"
    assert found["flops"] > 1e9 and found["copy_bytes"] > 1e8


def test_noise_has_the_form_of_cifar10():
    data = ways.noise(20, 30)
    assert isinstance(data, ImageData)
    assert data.train_images.shape == (20, 32, 32, 3) and data.test_images.shape == (30, 32, 32, 3)


def test_ratio_and_share_of_the_ceiling_are_what_they_are_called():
    way = {"loaded_per_second": 1000, "loading_cpu_microseconds": 9, "evaluated_per_second": 5}
    way |= {"peak_memory": 2**30, "seconds_to_first_step": 3}
    found = {
        "device": "A", "precision": "bf16", "date": "2026-01-01", "versions": {"torch": "2"},
        "repetitions": 3, "ceiling": {"flops": 12e9, "by": "product", "copy_bytes": 1e9},
        "networks": {
            "net": {
                "operators": {"conv": 0.75, "relu": 0.125}, "mult_adds": 10e6,
                "theirs": way | {"images_per_second": 40},
                "ours": way | {"images_per_second": 100},
            }
        },
        "growth of s7": {what: {"1": 10.0} for what in ("batch size", "workers", "images")},
    }  # fmt: skip
    text = report.section(found)
    assert "| `net` | 40 | 100 | **2.50x** | 6 | 50% | 10.0% |" in text
    assert "| `net` | conv 75%, relu 12% | 67% |" in text  # half the ceiling in 3/4 of the time
    assert len(report.figure(found).axes) == 4


def test_readme_and_page_say_what_was_measured(tmp_path):
    kept = ROOT / "results" / "benchmark"
    shutil.copytree(kept, tmp_path / "results" / "benchmark")
    shutil.copy(ROOT / "README.md", tmp_path)
    report.write(tmp_path)
    for page in ("README.md", "results/benchmark/README.md"):
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), "make report"
    files = sorted(kept.glob("*.json"))
    page = (kept / "README.md").read_text()
    assert page.count("\n## ") == len(files)
    for file in files:
        assert report.section(json.loads(file.read_text())) in page
        assert f"]({file.stem}.png)" in page
        assert file.with_suffix(".png").is_file()


def test_the_overview_has_a_column_for_each_benchmark_and_a_gap_for_what_was_not_measured():
    row = {"theirs": {"images_per_second": 40.0}, "ours": {"images_per_second": 1100.0}}
    first = {"device": "A", "precision": "no", "networks": {"s7": row, "s9": row}}
    second = {"device": "B", "precision": "fp16", "instruction_set": "sm_75"}
    table = report.overview([first, second | {"networks": {"s7": row}}]).splitlines()
    assert table[0] == "| training images/s | A, float32 | B, fp16, sm_75 |"
    assert table[2] == "| `s7` | 40 -> 1,100, **27.50x** | 40 -> 1,100, **27.50x** |"
    assert table[3] == "| `s9` | 40 -> 1,100, **27.50x** | - |"
