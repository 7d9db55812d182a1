"""`make gpu`: what only a GPU can show, the most important first, within a time limit.

The tests that touch the device; the first three steps of every network in each precision; the
benchmark; a full run of every network, and further seeds of all as long as time allows. Each step
says how long it took. What has ended well is noted, and the same command goes on from there.
"""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import typer
from accelerate import Accelerator

from benchmarks import __main__ as bench
from benchmarks import report
from helpers import devices
from helpers.files import write
from helpers.images import data
from helpers.runs import conductor, search
from helpers.runs.catalogue import RUNS
from helpers.settings import FULL, ROOT, SMOKE, Settings
from helpers.training.loop import fit

PRECISIONS = ("no", "bf16", "fp16")
STEPS, APART = 3, 0.1  # the loss may be so far from float32's, as a part of it


@dataclass(frozen=True)
class Plan:
    """What to do: pytest's arguments, the runs, the benchmark's sizes, the number of seeds."""

    settings: Settings
    tests: tuple[str, ...] = ("tests/test_device.py",)
    runs: tuple[str, ...] = tuple(RUNS)
    sizes: bench.Sizes | None = None
    batch_size: int | None = None  # of the first steps; a run's own by default
    seeds: int = 100


ON_GPU = Plan(Settings(FULL, "cifar10"))
SMALL = bench.Sizes(1_100, 64, 2, 2, 1, 0.1, 256, batch_sizes=(64,), workers=(0,), images=(256,))
REHEARSAL = Plan(Settings(SMOKE, "digits"), sizes=SMALL, batch_size=8, seeds=2)


class TimeIsUp(BaseException):
    """The time limit is reached, whatever was under way."""


def steps(plan: Plan) -> Iterator[tuple[str, Callable[[], object]]]:
    """All there is to do: what it is called, and what does it."""
    nets = {RUNS[name].net: name for name in reversed(plan.runs)}
    yield "tests on the device", partial(device_tests, plan.tests)
    yield f"first {STEPS} steps in every precision", partial(all_first_steps, plan, nets)
    yield "benchmark", partial(benchmark, plan, nets)
    for seeds, name in itertools.product(range(1, plan.seeds + 1), plan.runs):
        yield f"{name}, seed {plan.settings.seed + seeds - 1}", partial(train, plan, name, seeds)


def device_tests(tests: tuple[str, ...]) -> None:
    """Run tests on the device, where they run on the CPU otherwise; RuntimeError if some fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    on_cpu = str(devices.processes().device.type == "cpu")
    environment = {**os.environ, "MPLBACKEND": "Agg", "ACCELERATE_USE_CPU": on_cpu}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise RuntimeError("tests failed")


def all_first_steps(plan: Plan, nets: dict[str, str]) -> None:
    """Compare the precisions' losses; RuntimeError where a half one's is far from float32's."""
    losses = {}
    for precision in PRECISIONS:
        with bench.process() as fresh:  # Accelerate knows one precision a process
            found = fresh.submit(first_steps, precision, list(nets.values()), plan)
            losses[precision] = dict(zip(nets, found.result(), strict=True))
    far = []
    for net in nets:
        each = [losses[precision][net] for precision in PRECISIONS]
        print(f"{net:<10}", *(f"{p} {x:.4f}" for p, x in zip(PRECISIONS, each, strict=True)))
        good = all(math.isfinite(x) and abs(x - each[0]) <= APART * each[0] for x in each)
        far += [] if good else [net]
    if far:
        raise RuntimeError(f"the losses of {', '.join(far)} are far from float32's")


def first_steps(precision: str, names: list[str], plan: Plan) -> list[float]:
    """The training loss over the first steps of every run; in fp16, the loss is scaled."""
    on_cpu = devices.processes().device.type == "cpu"
    accelerator = Accelerator(mixed_precision="no" if on_cpu else precision)
    if on_cpu and precision == "fp16":  # a rehearsal: in float32, but scaled
        accelerator.scaler = torch.amp.GradScaler("cpu")
    images, losses = data.load(plan.settings), []
    for name in names:
        run = RUNS[name]
        size = plan.batch_size or run.recipe.batch_size
        recipe = replace(run.recipe, epochs=1, peak_epoch=0.75).with_batch_size(size)
        recipe = replace(recipe, max_lr=recipe.max_lr / 10)  # where a schedule begins
        part = images.first(STEPS * size)
        model = conductor.initial(replace(run, recipe=recipe), part, 0)
        transform = run.transform(part.statistics[0])
        history = fit(model, part, transform, recipe, accelerator=accelerator)
        losses.append(history.rows[-1]["train_loss"])
    return losses


def benchmark(plan: Plan, nets: dict[str, str]) -> None:
    """`make bench`; the README is written only where its own folder holds the results."""
    kept = bench.main(plan.settings.home, nets, plan.sizes)
    if plan.settings.home == ROOT:
        report.write()
    print(report.section(json.loads(kept.read_text())))


def train(plan: Plan, name: str, seeds: int) -> None:
    """Train a run with so many seeds; those that are trained already are only evaluated."""
    run, images = RUNS[name], data.load(plan.settings)
    run = search.with_found_rate(run, images, plan.settings)[0] if run.find_rate else run
    result = conductor.train(run, images, plan.settings, seeds)
    print(f"{name}: {result.metrics['test_accuracy_mean']:.2f} %, the mean of {seeds}")


def main(plan: Plan, minutes: float) -> list[str]:
    """Take the steps that are not done yet, for so many minutes: the names of those that failed."""
    where = devices.describe(devices.processes().device)
    noted = plan.settings.home / "results/_gpu" / f"{where}, {plan.settings.profile.name}.json"
    done = json.loads(noted.read_text()) if noted.exists() else {}
    started, failed = time.monotonic(), []

    def stop(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        for name, work in steps(plan):
            if name in done:
                print(f"== {name}: done before, in {done[name]:.0f} s", flush=True)
                continue
            print(f"== {name}", flush=True)
            begun = time.monotonic()
            try:
                work()
            except Exception:  # the other steps can still show something
                traceback.print_exc()
                failed.append(name)
            took, left = time.monotonic() - begun, 60 * minutes - time.monotonic() + started
            outcome = "FAILED after" if name in failed else "took"
            print(f"== {name}: {outcome} {took:.0f} s, {left / 60:.1f} min left", flush=True)
            if name not in failed:
                done[name] = took
                write(noted, json.dumps(done, indent=1) + "\n")
    except TimeIsUp:
        print(f"== time is up after {minutes:g} min, in {name}; the same command goes on")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return failed


def command(minutes: float = 25, home: Path = ROOT, rehearse: bool = False) -> None:
    """Show what only a GPU can show; `--rehearse` does it in small, on whatever there is."""
    if not rehearse and devices.processes().device.type != "cuda":
        sys.exit("error: there is no GPU here; --rehearse goes through it all on the CPU, in small")
    plan = REHEARSAL if rehearse else ON_GPU
    failed = main(replace(plan, settings=replace(plan.settings, home=home.resolve())), minutes)
    sys.exit(f"error: failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    typer.run(command)
