"""`make gpu`: all measurements that need a GPU, the most important first, within a time limit.

1. The tests that use the device.
2. The first training steps of every network in each precision.
3. The benchmark.
4. A full training of every experiment, then further seeds until the time is up.

Each task prints how long it took. Finished tasks are recorded, and the next call continues with the
others.
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

from helpers import device
from helpers.config import FULL, ROOT, SMOKE, Settings
from helpers.data import load_data
from helpers.experiments import (
    EXPERIMENTS,
    build_initialized_model,
    find_experiment_lr,
    run_experiment,
)
from helpers.files import atomic_write
from helpers.training import fit
from tools.benchmarks import __main__ as benchmark
from tools.benchmarks import report

PRECISIONS = ("no", "bf16", "fp16")  # float32 first: the others are compared with it
FIRST_STEPS = 3
LOSS_TOLERANCE = 0.1  # relative to the loss in float32


@dataclass(frozen=True)
class Plan:
    """What `make gpu` does.

    Attributes:
        settings: Profile, data and output folder of the trainings.
        tests: The arguments of pytest.
        experiments: The names of the experiments to train.
        sizes: The amount of work of the benchmark. None takes the device's default.
        batch_size: The batch size of the first steps. None takes the experiment's.
        seeds: The number of seeds of each experiment.
    """

    settings: Settings
    tests: tuple[str, ...] = ("tests/test_device.py",)
    experiments: tuple[str, ...] = tuple(EXPERIMENTS)
    sizes: benchmark.Sizes | None = None
    batch_size: int | None = None
    seeds: int = 100


FULL_PLAN = Plan(Settings(FULL, "cifar10"))
SMALL_SIZES = benchmark.Sizes(
    loading_images=1_100,
    evaluation_images=64,
    trial_batches=2,
    profiled_batches=2,
    repetitions=1,
    seconds=0.1,
    scaling_images=256,
    batch_sizes=(64,),
    workers=(0,),
    scaling_sizes=(256,),
)
REHEARSAL_PLAN = Plan(Settings(SMOKE, "sample"), sizes=SMALL_SIZES, batch_size=8, seeds=2)


class TimeLimitReached(BaseException):
    """The time limit is reached. Not an Exception, so that no task catches it."""


def list_tasks(plan: Plan) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each task and the function that does it, in order.

    Args:
        plan: What to do.
    """
    names = {EXPERIMENTS[name].model: name for name in reversed(plan.experiments)}
    yield "tests on the device", partial(run_device_tests, plan.tests)
    yield f"first {FIRST_STEPS} steps in every precision", partial(compare_precisions, plan, names)
    yield "benchmark", partial(run_benchmark, plan, names)
    for number, name in itertools.product(range(plan.seeds), plan.experiments):
        seed = plan.settings.seed + number
        yield f"{name}, seed {seed}", partial(train_seeds, plan, name, number + 1)


def run_device_tests(arguments: tuple[str, ...]) -> None:
    """Run pytest with the GPU, which the tests do not use otherwise.

    Args:
        arguments: The arguments of pytest.

    Raises:
        RuntimeError: If tests fail.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    use_cpu = device.distributed_state().device.type == "cpu"
    environment = {**os.environ, "MPLBACKEND": "Agg", "ACCELERATE_USE_CPU": str(use_cpu)}
    result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if result.returncode:
        raise RuntimeError("tests failed")


def compare_precisions(plan: Plan, experiment_names: dict[str, str]) -> None:
    """Compare the losses of the first steps in each precision.

    Args:
        plan: Data and batch size.
        experiment_names: An experiment for each network.

    Raises:
        RuntimeError: If a loss is not finite or differs from that in float32 by more than
            LOSS_TOLERANCE.
    """
    losses = {}
    for precision in PRECISIONS:
        with benchmark.new_process() as process:  # Accelerate has one precision per process
            names = list(experiment_names.values())
            result = process.submit(train_first_steps, precision, names, plan).result()
        losses[precision] = dict(zip(experiment_names, result, strict=True))
    failed = []
    for model_name in experiment_names:
        by_precision = {precision: losses[precision][model_name] for precision in PRECISIONS}
        text = " ".join(f"{precision} {loss:.4f}" for precision, loss in by_precision.items())
        print(f"{model_name:<10} {text}")
        reference = by_precision[PRECISIONS[0]]
        if not all(
            math.isfinite(loss) and abs(loss - reference) <= LOSS_TOLERANCE * reference
            for loss in by_precision.values()
        ):
            failed.append(model_name)
    if failed:
        raise RuntimeError(f"the losses of {', '.join(failed)} differ from those in float32")


def train_first_steps(precision: str, names: list[str], plan: Plan) -> list[float]:
    """Train each experiment for FIRST_STEPS steps.

    On a CPU, training is in float32 whatever the precision, and "fp16" only scales the loss.

    Args:
        precision: "no", "bf16" or "fp16".
        names: Keys of EXPERIMENTS.
        plan: Data and batch size.

    Returns:
        The training loss of each experiment.
    """
    on_cpu = device.distributed_state().device.type == "cpu"
    accelerator = Accelerator(mixed_precision="no" if on_cpu else precision)
    if on_cpu and precision == "fp16":
        accelerator.scaler = torch.amp.GradScaler("cpu")
    full_data = load_data(plan.settings)
    losses = []
    for name in names:
        experiment = EXPERIMENTS[name]
        batch_size = plan.batch_size or experiment.config.batch_size
        config = experiment.config.scale_batch_size(batch_size)
        config = replace(
            config,
            epochs=1,
            peak_epoch=0.75,
            max_lr=config.max_lr / 10,  # the learning rate of the first steps of a schedule
        )
        experiment = replace(experiment, config=config)
        data = full_data.subset(FIRST_STEPS * batch_size)
        model = build_initialized_model(experiment, data, seed=0)
        transform = experiment.transform(data.mean)
        history = fit(model, data, transform, config, accelerator=accelerator)
        losses.append(history.epochs[-1]["train_loss"])
    return losses


def run_benchmark(plan: Plan, model_names: dict[str, str]) -> None:
    """Run `make bench`. Only results in the project's own folder go into docs/speed.md.

    Args:
        plan: Output folder and sizes.
        model_names: The networks to measure.
    """
    output_dir = plan.settings.output_dir
    file = benchmark.run_benchmark(output_dir, model_names, plan.sizes)
    if output_dir == ROOT:
        report.write()
    print(report.section(json.loads(file.read_text(encoding="utf-8"))))


def train_seeds(plan: Plan, name: str, seeds: int) -> None:
    """Train an experiment with several seeds. Finished seeds are only evaluated.

    Args:
        plan: The settings.
        name: A key of EXPERIMENTS.
        seeds: The number of seeds.
    """
    experiment = EXPERIMENTS[name]
    data = load_data(plan.settings)
    if experiment.find_lr:
        experiment, _, _ = find_experiment_lr(experiment, data, plan.settings)
    result = run_experiment(experiment, data, plan.settings, seeds=seeds)
    print(f"{name}: {result.metrics['test_accuracy_mean']:.2f} %, the mean of {seeds} seeds")


def run_tasks(plan: Plan, minutes: float) -> list[str]:
    """Do the tasks that are not finished yet, within a time limit.

    Args:
        plan: What to do.
        minutes: The time limit.

    Returns:
        The names of the tasks that failed.
    """
    start = time.monotonic()
    target = device.device_name(device.distributed_state().device)
    folder = plan.settings.output_dir / "results" / "_gpu"
    record_file = folder / f"{target}, {plan.settings.profile.name}.json"
    seconds_by_task = {}
    if record_file.exists():
        seconds_by_task = json.loads(record_file.read_text(encoding="utf-8"))
    failed = []

    def stop(*_: object) -> None:
        raise TimeLimitReached

    previous_handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        for name, task in list_tasks(plan):
            if name in seconds_by_task:
                print(f"== {name}: already done, in {seconds_by_task[name]:.0f} s", flush=True)
                continue
            print(f"== {name}", flush=True)
            task_start = time.monotonic()
            try:
                task()
            except Exception:  # the other tasks continue
                traceback.print_exc()
                failed.append(name)
            seconds = time.monotonic() - task_start
            minutes_left = minutes - (time.monotonic() - start) / 60
            outcome = "FAILED after" if name in failed else "took"
            print(f"== {name}: {outcome} {seconds:.0f} s, {minutes_left:.1f} min left", flush=True)
            if name not in failed:
                seconds_by_task[name] = seconds
                atomic_write(record_file, json.dumps(seconds_by_task, indent=1) + "\n")
    except TimeLimitReached:
        print(f"== time is up after {minutes:g} min, in {name}; the same command continues")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
    return failed


def main(minutes: float = 25, output_dir: Path = ROOT, rehearse: bool = False) -> None:
    """Run everything that needs a GPU. With --rehearse, run it on a small scale on any device."""
    if not rehearse and device.distributed_state().device.type != "cuda":
        sys.exit("error: there is no GPU here; --rehearse runs everything on the CPU, in small")
    plan = REHEARSAL_PLAN if rehearse else FULL_PLAN
    plan = replace(plan, settings=replace(plan.settings, output_dir=output_dir.resolve()))
    failed = run_tasks(plan, minutes)
    sys.exit(f"error: failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    typer.run(main)
