"""`make gpu`, rehearsed on the CPU: every task, in order, without Jupyter, and its files."""

import json
import os
import subprocess
import sys
import time

import pytest

from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS
from tools.benchmarks import gpu

pytestmark = pytest.mark.slow

REHEARSE = """
import dataclasses, pathlib, sys
for name in ("IPython", "ipykernel", "jupyter_client", "nbclient", "nbformat", "papermill"):
    sys.modules[name] = None  # a machine without Jupyter

from tools.benchmarks import gpu
from helpers.config import Profile, Settings
from helpers.experiments import EXPERIMENTS

# Small batches, in the benchmark's processes too, which import this file.
experiment = EXPERIMENTS["S7/s7_dropout"]
EXPERIMENTS[experiment.name] = dataclasses.replace(
    experiment, config=experiment.config.scale_batch_size(16)
)

if __name__ == "__main__":
    profile = Profile("tiny", epochs=1, train_images=32, test_images=20)
    settings = Settings(profile, "sample", output_dir=pathlib.Path(sys.argv[1]))
    plan = dataclasses.replace(
        gpu.REHEARSAL_PLAN, settings=settings, experiments=(experiment.name,),
        sizes=dataclasses.replace(gpu.SMALL_SIZES, loading_images=100),
        tests=("tests/test_device.py", "-k", "1x1"),
    )
    gpu.PRECISIONS = ("no", "fp16")  # each has its own process, which takes time
    print("FAILED", gpu.run_tasks(plan, minutes=60))
    print("FAILED", gpu.run_tasks(plan, minutes=60))
"""


def test_every_task_is_done_once_timed_and_recorded(tmp_path):
    script = tmp_path / "rehearse.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{REHEARSE}")
    command = [sys.executable, script, tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # quicker if other tests run as well
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *passes, rest = result.stdout.split("FAILED []\n")
    assert (len(passes), rest) == (2, ""), result.stdout + result.stderr
    lines = [[line for line in text.splitlines() if line.startswith("== ")] for text in passes]
    names = [
        "tests on the device",
        "first 3 steps in every precision",
        "benchmark",
        "S7/s7_dropout, seed 0",
        "S7/s7_dropout, seed 1",
    ]
    assert lines[0][::2] == [f"== {name}" for name in names]
    assert all("took" in line and "min left" in line for line in lines[0][1::2])
    assert [line.split(": already done")[0] for line in lines[1]] == lines[0][::2]
    [file] = tmp_path.glob("results/benchmark/*.json")
    assert set(json.loads(file.read_text())["networks"]) == {"s7_dropout"}
    metrics = json.loads((tmp_path / "results/_tiny-sample/S7/s7_dropout/metrics.json").read_text())
    assert [seed["seed"] for seed in metrics["seeds"]] == [0, 1]


def test_one_training_of_each_experiment_comes_before_further_seeds():
    tasks = gpu.list_tasks(gpu.FULL_PLAN)
    names = [next(tasks)[0] for _ in range(3 + 2 * len(EXPERIMENTS))]
    assert [name.split(", ")[0] for name in names[3:]] == 2 * list(EXPERIMENTS)
    first_seeds = ["seed 0"] * len(EXPERIMENTS)
    second_seeds = ["seed 1"] * len(EXPERIMENTS)
    assert [name[-6:] for name in names[3:]] == first_seeds + second_seeds


def tasks_from(*functions):
    return lambda plan: ((f"task {number}", task) for number, task in enumerate(functions))


@pytest.fixture
def plan(tmp_path):
    settings = gpu.replace(gpu.REHEARSAL_PLAN.settings, output_dir=tmp_path)
    return gpu.replace(gpu.REHEARSAL_PLAN, settings=settings)


def test_a_task_that_fails_stops_no_other_and_is_repeated(plan, monkeypatch, capsys):
    done = []
    tasks = [lambda: done.append(0), lambda: done.append(1) or 1 / 0, lambda: done.append(2)]
    monkeypatch.setattr(gpu, "list_tasks", tasks_from(*tasks))
    assert gpu.run_tasks(plan, minutes=1) == ["task 1"]
    captured = capsys.readouterr()
    assert "task 1: FAILED after" in captured.out
    assert "ZeroDivisionError" in captured.err
    assert gpu.run_tasks(plan, minutes=1) == ["task 1"]
    assert done == [0, 1, 2, 1]


def test_when_the_time_is_up_finished_tasks_stay_finished(plan, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "list_tasks", tasks_from(lambda: None, lambda: time.sleep(60)))
    start = time.monotonic()
    assert gpu.run_tasks(plan, minutes=1 / 60) == []
    assert time.monotonic() - start < 10
    assert "time is up after" in capsys.readouterr().out
    [record] = plan.settings.output_dir.glob("results/_gpu/*.json")
    assert set(json.loads(record.read_text())) == {"task 0"}


def test_without_a_gpu_the_error_says_what_can_be_done():
    with pytest.raises(SystemExit, match="no GPU here; --rehearse"):
        gpu.main()


@pytest.fixture
def losses(monkeypatch):
    """Losses by precision, in place of those of trainings in other processes."""
    losses = {}
    monkeypatch.setattr(gpu, "train_first_steps", lambda precision, *_: losses[precision])

    class FakeProcess:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *args):
            self.result = lambda: function(*args)
            return self

    monkeypatch.setattr(gpu.benchmark, "new_process", FakeProcess)
    return losses


@pytest.mark.parametrize(
    ("fp16", "named"), [(float("nan"), True), (2.21, True), (1.79, True), (2.19, False)]
)
def test_a_loss_far_from_that_in_float32_is_named(plan, losses, capsys, fp16, named):
    losses.update({"no": [2.0, 2.0], "bf16": [2.1, 2.0], "fp16": [2.0, fp16]})
    names = {"s7": "S7/s7", "s9": "S9/s9"}
    if named:
        with pytest.raises(RuntimeError, match="the losses of s9 differ from those in float32"):
            gpu.compare_precisions(plan, names)
    else:
        gpu.compare_precisions(plan, names)
    assert "s7         no 2.0000 bf16 2.1000 fp16 2.0000" in capsys.readouterr().out
