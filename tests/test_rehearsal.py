"""`make gpu`, rehearsed on the CPU: every step, in order, without Jupyter, and what it leaves."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import gpu
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT

pytestmark = pytest.mark.slow

REHEARSE = """
import dataclasses, pathlib, sys
for name in ("IPython", "ipykernel", "jupyter_client", "nbclient", "nbformat", "papermill"):
    sys.modules[name] = None  # a bare tree has none of them

from benchmarks import gpu
from helpers.runs.catalogue import RUNS
from helpers.settings import Profile, Settings

# Small batches, for the benchmark's processes too: they import this file.
run = RUNS["S7/s7_dropout"]
RUNS[run.name] = dataclasses.replace(run, recipe=run.recipe.with_batch_size(16))

if __name__ == "__main__":
    profile = Profile("tiny", epochs=1, train_images=32, test_images=20)
    settings = Settings(profile, "digits", home=pathlib.Path(sys.argv[1]))
    plan = dataclasses.replace(
        gpu.REHEARSAL, settings=settings, runs=(run.name,),
        sizes=dataclasses.replace(gpu.SMALL, loaded=100),
        tests=("tests/test_device.py", "-k", "1x1"),
    )
    gpu.PRECISIONS = ("no", "fp16")  # for time's sake, as each has a process of its own
    print("FAILED", gpu.main(plan, minutes=60))
    print("FAILED", gpu.main(plan, minutes=60))
"""


def test_every_step_is_taken_timed_and_kept_and_none_is_taken_twice(tmp_path):
    script = tmp_path / "rehearse.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{REHEARSE}")
    command = [sys.executable, script, tmp_path]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # quicker where others compute as well
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *passes, rest = done.stdout.split("FAILED []\n")
    assert (len(passes), rest) == (2, ""), done.stdout + done.stderr
    said = [[line for line in text.splitlines() if line.startswith("== ")] for text in passes]
    names = [
        "tests on the device", "first 3 steps in every precision", "benchmark",
        "S7/s7_dropout, seed 0", "S7/s7_dropout, seed 1",
    ]  # fmt: skip
    assert said[0][::2] == [f"== {name}" for name in names]
    assert all("took" in line and "min left" in line for line in said[0][1::2])
    assert [line.split(": done before")[0] for line in said[1]] == said[0][::2]
    [kept] = tmp_path.glob("results/benchmark/*.json")
    assert set(json.loads(kept.read_text())["networks"]) == {"s7_dropout"}
    metrics = json.loads((tmp_path / "results/_tiny-digits/S7/s7_dropout/metrics.json").read_text())
    assert [seed["seed"] for seed in metrics["seeds"]] == [0, 1]


def test_full_runs_of_all_come_after_everything_else_and_before_further_seeds():
    taken = gpu.steps(gpu.ON_GPU)
    names = [next(taken)[0] for _ in range(3 + 2 * len(RUNS))]
    assert [name.split(", ")[0] for name in names[3:]] == 2 * list(RUNS)
    assert [name[-6:] for name in names[3:]] == ["seed 0"] * len(RUNS) + ["seed 1"] * len(RUNS)


def steps_that(*works):
    return lambda plan: ((f"step {number}", work) for number, work in enumerate(works))


@pytest.fixture
def plan(tmp_path):
    settings = gpu.replace(gpu.REHEARSAL.settings, home=tmp_path)
    return gpu.replace(gpu.REHEARSAL, settings=settings)


def test_a_step_that_fails_stops_no_other_and_is_taken_again(plan, monkeypatch, capsys):
    taken = []
    works = [lambda: taken.append(0), lambda: taken.append(1) or 1 / 0, lambda: taken.append(2)]
    monkeypatch.setattr(gpu, "steps", steps_that(*works))
    assert gpu.main(plan, minutes=1) == ["step 1"]
    said = capsys.readouterr()
    assert "step 1: FAILED after" in said.out
    assert "ZeroDivisionError" in said.err
    assert gpu.main(plan, minutes=1) == ["step 1"]
    assert taken == [0, 1, 2, 1]


def test_when_time_is_up_what_is_done_stays_done(plan, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "steps", steps_that(lambda: None, lambda: time.sleep(60)))
    started = time.monotonic()
    assert gpu.main(plan, minutes=1 / 60) == []
    assert time.monotonic() - started < 10
    assert "time is up after" in capsys.readouterr().out
    [noted] = plan.settings.home.glob("results/_gpu/*.json")
    assert set(json.loads(noted.read_text())) == {"step 0"}


def test_without_a_gpu_it_says_what_can_be_done():
    with pytest.raises(SystemExit, match="no GPU here; --rehearse"):
        gpu.command()


def test_a_loss_far_from_that_of_float32_is_named(plan, monkeypatch, capsys):
    losses = {"no": [2.0, 2.0], "bf16": [2.1, 2.0], "fp16": [2.0, float("nan")]}
    monkeypatch.setattr(gpu, "first_steps", lambda precision, *_: losses[precision])

    class Here:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, work, *given):
            self.result = lambda: work(*given)
            return self

    monkeypatch.setattr(gpu.bench, "process", Here)
    with pytest.raises(RuntimeError, match="the losses of s9 are far from float32's"):
        gpu.all_first_steps(plan, {"s7": "S7/s7", "s9": "S9/s9"})
