"""The benchmark measures both pipelines alike, and its page reports what it measured."""

import json
import shutil
import time
import types

import pandas as pd
import pytest
import torch

from helpers.config import ROOT
from helpers.data import ImageData
from helpers.experiments import EXPERIMENTS
from helpers.loaders import SeededBatchSampler, make_train_loader
from helpers.models import MODELS
from tools.benchmarks import __main__ as benchmark
from tools.benchmarks import pipelines, report, roofline


def test_every_network_is_measured():
    assert set(benchmark.EXPERIMENT_NAMES) == set(MODELS)


def test_the_first_experiment_of_a_network_is_measured():
    assert benchmark.EXPERIMENT_NAMES["compact"] == "S9/compact"


def test_both_pipelines_get_equal_batches():
    """Of equal sizes and statistics: the project augments uint8 and normalizes later."""
    data, experiment = pipelines.make_noise_data(2_000), EXPERIMENTS["S10/s10"]
    baseline_loader = pipelines.make_baseline_loader(experiment, data, 128, workers=0)
    baseline = list(baseline_loader)
    sampler = SeededBatchSampler(2_000, 128, 0)
    project = list(make_train_loader(data, experiment.transform(data.mean), sampler))
    assert [len(labels) for _, labels in baseline] == [len(labels) for _, labels in project]
    steps = baseline_loader.dataset.transform.transforms[:-2]
    project_steps = experiment.transform(data.mean).transforms
    assert all(type(step).__module__.startswith("albumentations.") for step in steps)
    assert [str(step) for step in steps] == [
        str(step).removeprefix("Fast") for step in project_steps
    ]
    baseline_images = torch.cat([images for images, _ in baseline])
    project_images = torch.cat([data.normalize(images) for images, _ in project])
    assert baseline_images.shape == project_images.shape
    assert baseline_images.dtype == project_images.dtype
    assert baseline_images.mean().item() == pytest.approx(project_images.mean().item(), abs=0.01)
    assert baseline_images.std().item() == pytest.approx(project_images.std().item(), abs=0.02)


@pytest.mark.parametrize("batches", [1, 2, 3])
@pytest.mark.parametrize("epochs", [1, 2])
def test_few_steps_are_enough(batches, epochs):
    for pipeline in pipelines.PIPELINES:
        training = pipelines.measure_training("S7/s7_dropout", pipeline, 4 * batches, 4, 0, epochs)
        timed = pipeline == "project" or batches > 1  # the baseline's first step does not count
        assert (training["images_per_second"] > 0) == timed


@pytest.mark.parametrize("pipeline", pipelines.PIPELINES)
def test_both_pipelines_train_and_evaluate(pipeline):
    name = "S7/s7_dropout"
    before = time.time()
    training = pipelines.measure_training(name, pipeline, 40, batch_size=16)
    assert before < training["ended"] <= time.time()
    assert training["images_per_second"] > 0
    assert pipelines.measure_evaluation(name, pipeline, 10)["images_per_second"] > 0


@pytest.mark.parametrize("pipeline", pipelines.LOADERS)
def test_all_three_loaders_are_measured(pipeline, monkeypatch):
    seen = []

    def make_train_loader(data, transform, *args, make=pipelines.make_train_loader):
        seen.extend(type(step).__module__.split(".")[0] for step in transform)
        return make(data, transform, *args)

    monkeypatch.setattr(pipelines, "make_train_loader", make_train_loader)
    assert pipelines.measure_loading("S10/s10", pipeline, 1_100)["cpu_microseconds"] > 0
    expected = {
        "baseline": [],
        "albumentations": ["albumentations"] * 3,
        "project": ["albumentations", "helpers", "helpers"],
    }
    assert seen == expected[pipeline]


def test_convolutions_cost_most_of_a_convolutional_network():
    shares, seconds = pipelines.profile_operators("S7/s7_dropout", 2)
    assert 1e-5 < seconds < 1
    assert any("conv" in name for name in shares)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert 0.5 < sum(shares.values()) <= 1


def test_no_more_batches_are_profiled_than_asked_for(monkeypatch):
    """Each batch on a GPU fills 30 MB with events: an epoch would exceed Colab's memory."""
    calls = []

    def measure_training(name, pipeline, images, epochs):
        calls.append((images, epochs))
        torch.ones(2) * 2

    monkeypatch.setattr(pipelines, "measure_training", measure_training)
    pipelines.profile_operators("S10/s10", 32)
    [(images, epochs)] = calls
    assert epochs * images == 32 * 512


class FakeProcess:
    """Records the calls and returns measurements of a fast GPU."""

    def __init__(self, calls):
        self.calls = calls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args, **kwargs):
        self.calls.append((function.__name__, args, kwargs))
        result = {
            "images_per_second": 30_000.0,
            "cpu_microseconds": 20.0,
            "ended": time.time(),
            "peak_memory": 1,
            "flops": 1.0,
        }
        if function.__name__ == "profile_operators":
            result = ({"conv": 1.0}, 1e-5)
        return types.SimpleNamespace(result=lambda: result)


def test_on_a_gpu_measuring_a_network_stays_within_memory_and_minutes(monkeypatch):
    calls = []
    state = types.SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(benchmark.device, "distributed_state", lambda: state)
    monkeypatch.setattr(benchmark, "new_process", lambda: FakeProcess(calls))
    network = benchmark.measure_network("S10/s10", [], benchmark.GPU_SIZES)
    assert [args[1] for name, args, _ in calls if name == "profile_operators"] == [32]
    epochs = {"baseline": 1, "project": 2}
    for pipeline in pipelines.PIPELINES:
        images = [
            args[2] for name, args, _ in calls if name == "measure_training" and args[1] == pipeline
        ]
        assert max(images) <= 50_000
        assert epochs[pipeline] * sum(images) / 30_000 < 15  # seconds
    assert network["gpu_busy"] == pytest.approx(0.3)  # 10 us per image, 30,000 images/s
    assert set(pipelines.LOADERS) < set(network)


def test_each_measurement_is_the_median_of_its_repetitions():
    rows = [{"a": 1.0, "b": 5.0}, {"a": 9.0, "b": 4.0}, {"a": 2.0, "b": 6.0}]
    assert benchmark.medians(rows) == {"a": 2.0, "b": 5.0}


def test_results_are_written_after_each_network_and_replace_a_complete_file_only_when_complete(
    tmp_path, monkeypatch, capsys
):
    speed = {"images_per_second": 10.0}
    roofline_result = {"flops": 1.0, "by": "a", "copy_bytes": 1.0}

    def measure_network(name, rooflines, sizes):
        if name == "S9/s9" and failing:
            raise KeyboardInterrupt
        rooflines.append(roofline_result)
        return {"baseline": speed, "project": speed}

    monkeypatch.setattr(benchmark, "measure_network", measure_network)
    monkeypatch.setattr(benchmark, "measure_scaling", lambda *_: {"workers": {0: 1.0}})
    failing = False
    finished = benchmark.run_benchmark(tmp_path, ["s7", "s9"])
    assert list(tmp_path.glob("results/benchmark/*")) == [finished]
    assert not list(tmp_path.glob("results/_benchmark/*"))
    before = finished.read_bytes()
    assert set(json.loads(before)["networks"]) == {"s7", "s9"}
    assert json.loads(before)["scaling"] == {"workers": {"0": 1.0}}
    failing = True
    with pytest.raises(KeyboardInterrupt):
        benchmark.run_benchmark(tmp_path, ["s7", "s9"])
    assert finished.read_bytes() == before
    unfinished = json.loads((tmp_path / "results/_benchmark" / finished.name).read_text())
    assert set(unfinished["networks"]) == {"s7"}
    assert unfinished["roofline"] == roofline_result


def test_the_roofline_of_a_benchmark_is_the_median(tmp_path, monkeypatch, capsys):
    def measure_network(name, rooflines, sizes):
        rooflines += [{"flops": 3.0}, {"flops": 1.0}, {"flops": 2.0}]
        return {"baseline": {"images_per_second": 1.0}, "project": {"images_per_second": 2.5}}

    monkeypatch.setattr(benchmark, "measure_network", measure_network)
    file = benchmark.run_benchmark(tmp_path, ["s9"])
    assert json.loads(file.read_text())["roofline"] == {"flops": 2.0}
    assert "s9: baseline 1, project 2 images/s (2.50x)" in capsys.readouterr().out


def test_another_device_precision_or_instruction_set_has_another_file():
    t4 = {"device": "Tesla T4", "precision": "fp16", "instruction_set": "sm_75"}
    assert benchmark.file_name(t4) == "tesla-t4-fp16-sm-75.json"
    changes = ({}, {"device": "L4"}, {"precision": "float32"}, {"instruction_set": "sm_80"})
    assert len({benchmark.file_name(t4 | change) for change in changes}) == 4
    for file in (ROOT / "results" / "benchmark").glob("*.json"):
        assert benchmark.file_name(json.loads(file.read_text())) == file.name


def test_the_roofline_is_the_fastest_operation(monkeypatch):
    monkeypatch.setattr(roofline, "MATRIX_SIZES", (256,))
    monkeypatch.setattr(roofline, "CONVOLUTIONS", ((2, 4),))
    measured = roofline.measure_roofline(seconds=0.05)
    assert measured["by"] == "matrix product, 256"
    assert measured["flops"] > 1e9 and measured["copy_bytes"] > 1e8


def test_the_roofline_counts_two_flop_per_product_and_the_bytes_of_a_copy_twice(monkeypatch):
    monkeypatch.setattr(roofline, "MATRIX_SIZES", (8,))
    monkeypatch.setattr(roofline, "CONVOLUTIONS", ((4, 4),))
    monkeypatch.setattr(roofline, "COPY_BYTES", 1_000)
    monkeypatch.setattr(roofline, "_shortest_time", lambda operation, seconds: 0.5)
    measured = roofline.measure_roofline()
    assert measured["by"] == "3x3 convolution, 4 channels"
    assert measured["flops"] == 2 * (2 * 128 * 4 * 4 * 4 * 4 * 9)
    assert measured["copy_bytes"] == 2 * 2 * 1_000


def test_noise_has_the_format_of_cifar10():
    data = pipelines.make_noise_data(20, 30)
    assert isinstance(data, ImageData)
    assert data.train_images.shape == (20, 32, 32, 3)
    assert data.test_images.shape == (30, 32, 32, 3)
    assert (len(data.train_labels), len(data.test_labels)) == (20, 30)


def test_ratio_and_share_of_the_peak_are_what_they_are_called():
    shared = {
        "loaded_per_second": 1000,
        "loading_cpu_microseconds": 9,
        "evaluated_per_second": 5,
        "peak_memory": 2**30,
        "seconds_to_first_step": 3,
    }
    result = {
        "device": "A",
        "precision": "bf16",
        "instruction_set": "sm_90",
        "date": "2026-01-01",
        "versions": {"torch": "2"},
        "repetitions": 3,
        "roofline": {"flops": 12e9, "by": "product", "copy_bytes": 1e9},
        "networks": {
            "net": {
                "operators": {"conv": 0.75, "relu": 0.125},
                "mult_adds": 10e6,
                "baseline": shared | {"images_per_second": 40},
                "project": shared | {"images_per_second": 100},
                "gpu_busy": 0.5,
                "albumentations": {"loaded_per_second": 500, "loading_cpu_microseconds": 18},
            }
        },
        "scaling": {quantity: {"1": 10.0} for quantity in ("batch size", "workers", "images")},
    }
    text = report.section(result)
    assert "| `net` | 40 | 100 | **2.50x** | 6 | 50% | 10.0% | 50% |" in text
    assert "| `net` | 1,000 | 500 | 1,000 | 9 | 18 | 9 |" in text
    assert "| `net` | 5 / 5 | 1.0 / 1.0 | 3.0 / 3.0 |" in text
    assert "The peak is 12 GFLOP/s (product), and a large copy moves 1 GB/s." in text
    assert text.startswith("## A, bf16, sm_90")
    assert "| `net` | conv 75%, relu 12% | 67% |" in text  # half the peak in 3/4 of the time
    assert text.endswith("by batch size: 1: 10; by workers: 1: 10; by images: 1: 10.")
    assert len(report.plot_benchmark(result).axes) == 4
    del result["scaling"]  # as in a benchmark without s7
    assert len(report.plot_benchmark(result).axes) == 1
    assert text.startswith(report.section(result))


def test_the_figure_shows_the_speeds_of_both_pipelines():
    networks = {
        name: {"baseline": {"images_per_second": a}, "project": {"images_per_second": b}}
        for name, a, b in (("s7", 1.0, 2.0), ("s9", 3.0, 4.0))
    }
    result = {"device": "A", "precision": "p", "instruction_set": "i", "networks": networks}
    [axis] = report.plot_benchmark(result).axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert heights == {"baseline": [1.0, 3.0], "project": [2.0, 4.0]}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["s7", "s9"]


def test_both_pages_report_what_was_measured(tmp_path):
    folder = ROOT / "results" / "benchmark"
    shutil.copytree(folder, tmp_path / "results" / "benchmark")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for history in (ROOT / "results").glob("S*/*/history.csv"):
        copy = tmp_path / history.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        shutil.copy(history, copy)
    report.write(tmp_path)
    for page in ("docs/speed.md", "results/benchmark/README.md"):
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), "make report"
    files = sorted(folder.glob("*.json"))
    page = (folder / "README.md").read_text()
    assert page.count("\n## ") == len(files)
    for file in files:
        assert report.section(json.loads(file.read_text())) in page
        assert f"]({file.stem}.png)" in page
        assert file.with_suffix(".png").is_file()


def test_the_overview_has_a_column_per_benchmark_and_a_dash_for_what_was_not_measured():
    network = {"baseline": {"images_per_second": 40.0}, "project": {"images_per_second": 1100.0}}
    first = {
        "device": "A",
        "precision": "float32",
        "instruction_set": "AVX2",
        "date": "2026-11-01",
        "networks": {"s7": network, "s9": network},
    }
    second = {
        "device": "B",
        "precision": "fp16",
        "instruction_set": "sm_75",
        "date": "2026-11-02",
        "networks": {"s7": network},
    }
    table = report.overview([first, second]).splitlines()
    assert table[0] == "| training images/s | A, float32, AVX2 | B, fp16, sm_75 |"
    assert table[2] == "| `s7` | 40 -> 1,100, **27.50x** | 40 -> 1,100, **27.50x** |"
    assert table[3] == "| `s9` | 40 -> 1,100, **27.50x** | - |"
    assert table[4] == "| measured on | 2026-11-01 | 2026-11-02 |"


def test_the_time_to_an_accuracy_is_that_of_its_epochs(tmp_path):
    names = [name for name, each in EXPERIMENTS.items() if each.reference_accuracy]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        published = EXPERIMENTS[name].reference_accuracy
        accuracies = [published - 1, published, published - 2, published + 1]
        history = pd.DataFrame({"epoch": [1, 2, 3, 4], "test_accuracy": accuracies})
        history.to_csv(tmp_path / name / "history.csv", index=False)
    speeds = {"baseline": {"images_per_second": 100.0}, "project": {"images_per_second": 500.0}}
    networks = {EXPERIMENTS[name].model: speeds for name in names}
    benchmark = {"device": "A", "precision": "bf16", "instruction_set": "AVX512"}
    rows = report.time_to_accuracy([benchmark | {"networks": networks}], tmp_path).splitlines()
    assert rows[0] == "| network | published | epochs | minutes, A, bf16, AVX512 |"
    # 10 epochs at 100 images/s are 83 minutes, 2 epochs at 500 images/s are 3.3 minutes.
    assert rows[2] == "| `s7` | 86.88 % | 10 -> 2 | 83 -> 3, **25.0x** |"
    assert len(rows) == 2 + 4
