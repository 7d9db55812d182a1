"""The benchmark measures both ways alike, and its page says what it measured."""

import json
import shutil
import time
import types

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
    assert all(type(step).__module__.startswith("albumentations.") for step in steps)
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
    assert ways.evaluate(run, way, 10)["images_per_second"] > 0


@pytest.mark.parametrize("way", ways.LOADERS)
def test_all_three_ways_of_loading_are_measured(way, monkeypatch):
    seen = []

    def train_loader(data, transform, *given, make=ways.train_loader):
        seen.extend(type(step).__module__.split(".")[0] for step in transform)
        return make(data, transform, *given)

    monkeypatch.setattr(ways, "train_loader", train_loader)
    assert ways.load("S10/s10", way, 1_100)["cpu_microseconds"] > 0
    quicker = ["albumentations", "helpers", "helpers"]
    assert seen == {"theirs": [], "ours": quicker}.get(way, ["albumentations"] * 3)


def test_convolutions_cost_most_of_a_convolutional_network():
    found, seconds = ways.operators("S7/s7_dropout", 2)
    assert 1e-5 < seconds < 1
    assert any("conv" in name for name in found)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert 0.5 < sum(found.values()) <= 1


def test_no_more_batches_are_profiled_than_asked_for(monkeypatch):
    """Each of a GPU's fills about 30 MB of events: a whole epoch would fill more than Colab has."""
    trained = []
    monkeypatch.setattr(ways, "train", lambda *given: trained.append(given[2]) or torch.ones(2) * 2)
    ways.operators("S10/s10", 32)
    epochs = 2
    assert epochs * trained[0] == 32 * 512


class InThisProcess:
    """Notes what it is asked to run, and gives figures of a fast GPU."""

    def __init__(self, calls):
        self.calls = calls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *given, **named):
        self.calls.append((function.__name__, given, named))
        found = {"images_per_second": 30_000.0, "cpu_microseconds": 20.0, "ended": time.time()}
        found |= {"peak_memory": 1, "flops": 1.0}
        result = ({"conv": 1.0}, 1e-5) if function.__name__ == "operators" else found
        return types.SimpleNamespace(result=lambda: result)


def test_on_a_gpu_measuring_a_network_stays_within_memory_and_minutes(monkeypatch):
    calls = []
    here = types.SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(bench.devices, "processes", lambda: here)
    monkeypatch.setattr(bench, "process", lambda: InThisProcess(calls))
    row = bench.network("S10/s10", [], bench.ON_GPU)
    assert [given[1] for name, given, _ in calls if name == "operators"] == [32]
    epochs = {"theirs": 1, "ours": 2}
    for way in ways.WAYS:
        trained = [given[2] for name, given, _ in calls if name == "train" and given[1] == way]
        assert max(trained) <= 50_000
        assert epochs[way] * sum(trained) / 30_000 < 15  # seconds
    assert row["busy"] == pytest.approx(0.3)  # 10 us of kernels an image, 30,000 images/s
    assert set(ways.LOADERS) < set(row)


def test_what_was_measured_is_kept_at_once_and_replaces_a_whole_file_only_when_whole(
    tmp_path, monkeypatch, capsys
):
    way = {"images_per_second": 10.0}
    kept = {"flops": 1.0, "by": "a", "copy_bytes": 1.0}

    def network(name, ceilings, sizes):
        if name == "S9/s9" and failing:
            raise KeyboardInterrupt
        ceilings.append(kept)
        return {"theirs": way, "ours": way}

    monkeypatch.setattr(bench, "network", network)
    monkeypatch.setattr(bench, "growth", lambda *_: {"workers": {0: 1.0}})
    failing = False
    whole = bench.main(tmp_path, ["s7", "s9"])
    assert list(tmp_path.glob("results/benchmark/*")) == [whole]
    assert not list(tmp_path.glob("results/_benchmark/*"))
    before = whole.read_bytes()
    assert set(json.loads(before)["networks"]) == {"s7", "s9"}
    failing = True
    with pytest.raises(KeyboardInterrupt):
        bench.main(tmp_path, ["s7", "s9"])
    assert whole.read_bytes() == before
    part = json.loads((tmp_path / "results/_benchmark" / whole.name).read_text())
    assert set(part["networks"]) == {"s7"} and part["ceiling"] == kept


def test_another_precision_or_instruction_set_never_takes_anothers_file():
    here = {"device": "Tesla T4", "precision": "fp16", "instruction_set": "sm_75"}
    assert bench.file_name(here) == "tesla-t4-fp16-sm-75.json"
    others = ({"device": "L4"}, {"precision": "float32"}, {"instruction_set": "sm_80"})
    assert len({bench.file_name(here | other) for other in ({}, *others)}) == 4
    found = json.loads(next((ROOT / "results" / "benchmark").glob("*.json")).read_text())
    assert (ROOT / "results" / "benchmark" / bench.file_name(found)).is_file()


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
        "device": "A", "precision": "bf16", "instruction_set": "sm_90",
        "date": "2026-01-01", "versions": {"torch": "2"}, "repetitions": 3,
        "ceiling": {"flops": 12e9, "by": "product", "copy_bytes": 1e9},
        "networks": {
            "net": {
                "operators": {"conv": 0.75, "relu": 0.125}, "mult_adds": 10e6,
                "theirs": way | {"images_per_second": 40},
                "ours": way | {"images_per_second": 100}, "busy": 0.5,
                "own transforms": {"loaded_per_second": 500, "loading_cpu_microseconds": 18},
            }
        },
        "growth of s7": {what: {"1": 10.0} for what in ("batch size", "workers", "images")},
    }  # fmt: skip
    text = report.section(found)
    assert "| `net` | 40 | 100 | **2.50x** | 6 | 50% | 10.0% | 50% |" in text
    assert "| `net` | 1,000 | 500 | 1,000 | 9 | 18 | 9 |" in text
    assert text.startswith("## A, bf16, sm_90")
    assert "| `net` | conv 75%, relu 12% | 67% |" in text  # half the ceiling in 3/4 of the time
    assert len(report.figure(found).axes) == 4
    del found["growth of s7"]  # as where another network was measured alone
    assert len(report.figure(found).axes) == 1
    assert text.startswith(report.section(found))


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
    first = {"device": "A", "precision": "float32", "networks": {"s7": row, "s9": row}}
    second = {"device": "B", "precision": "fp16", "instruction_set": "sm_75"}
    table = report.overview([first, second | {"networks": {"s7": row}}]).splitlines()
    assert table[0] == "| training images/s | A, float32 | B, fp16, sm_75 |"
    assert table[2] == "| `s7` | 40 -> 1,100, **27.50x** | 40 -> 1,100, **27.50x** |"
    assert table[3] == "| `s9` | 40 -> 1,100, **27.50x** | - |"
