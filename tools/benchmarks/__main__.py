"""`make bench`: measure the baseline and the project in turns, and write the results.

Result files have these keys:

- "device", "precision", "instruction_set", "date", "versions", "repetitions"
- "roofline": the peak speed of the machine, from `measure_roofline`
- "networks": for each network "experiment", "mult_adds", the measurements of each pipeline,
  "operators" (the share of time of the slowest ones), and on a GPU "gpu_busy" (the share of time
  in which it computes)
- "scaling": images per second of SCALING_MODEL by "batch size", "workers" and "images"
"""

import datetime
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers import device, inspection
from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS
from helpers.files import atomic_write
from helpers.models import get_model
from tools.benchmarks import report
from tools.benchmarks.pipelines import (
    LOADERS,
    PIPELINES,
    measure_evaluation,
    measure_loading,
    measure_training,
    profile_operators,
    set_start_method,
)
from tools.benchmarks.roofline import measure_roofline

# The first experiment of each network.
EXPERIMENT_NAMES = {experiment.model: name for name, experiment in reversed(EXPERIMENTS.items())}
SCALING_MODEL = "s7"
MAX_IMAGES = 50_000  # in an epoch, however fast the machine is


@dataclass(frozen=True)
class Sizes:
    """The amount of work of a benchmark.

    Attributes:
        loading_images: Images to load.
        evaluation_images: Images to evaluate.
        trial_batches: Batches of a first epoch, which estimates the speed.
        profiled_batches: Batches to profile.
        repetitions: How often each pipeline is measured.
        seconds: The time that an epoch of training takes.
        scaling_images: Training images for each of `batch_sizes` and `workers`.
        batch_sizes: Batch sizes of the scaling measurement.
        workers: Numbers of workers of the scaling measurement.
        scaling_sizes: Numbers of training images of the scaling measurement.
    """

    loading_images: int = 5_000
    evaluation_images: int = 512
    trial_batches: int = 2
    profiled_batches: int = 4
    repetitions: int = 3
    seconds: float = 3
    scaling_images: int = 2_048
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    workers: tuple[int, ...] = (0, 1, 2)
    scaling_sizes: tuple[int, ...] = (1_000, 10_000, 50_000)


CPU_SIZES = Sizes()
# A step on a GPU is a hundred times faster, but the profiler stores as many events for it.
GPU_SIZES = Sizes(
    loading_images=10_000,
    evaluation_images=10_000,
    trial_batches=20,
    profiled_batches=32,
    seconds=2,
    scaling_images=20_000,
    workers=(0, 1, 2, 4, 8),
)


def new_process() -> ProcessPoolExecutor:
    """Return an executor with one new process.

    malloc settings and peak memory belong to a process. The process is spawned, and starts its own
    workers with the default method of this system.
    """
    start_method = multiprocessing.get_start_method()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, set_start_method, (start_method,))


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of every key.

    Args:
        rows: Dictionaries with the same keys.
    """
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure_network(name: str, rooflines: list[dict], sizes: Sizes) -> dict:
    """Measure an experiment's network with each pipeline in turns.

    Args:
        name: A key of EXPERIMENTS.
        rooflines: A measurement of the machine's peak speed is appended in each repetition.
        sizes: The amount of work.

    Returns:
        Measurements by pipeline, "operators", and on a GPU "gpu_busy".
    """
    batch_size = EXPERIMENTS[name].config.batch_size
    seconds_to_first_step = {}
    peak_memory = {}
    images = {}
    speeds = {pipeline: [] for pipeline in PIPELINES}
    loading = {loader: [] for loader in LOADERS}
    with new_process() as baseline, new_process() as project:
        processes = {"baseline": baseline, "albumentations": project, "project": project}
        for pipeline in PIPELINES:
            submit = processes[pipeline].submit
            start = time.time()
            first = submit(measure_training, name, pipeline, batch_size, epochs=1).result()
            seconds_to_first_step[pipeline] = first["ended"] - start
            trial_images = sizes.trial_batches * batch_size
            trial = submit(measure_training, name, pipeline, trial_images).result()
            steps = max(2, round(sizes.seconds * trial["images_per_second"] / batch_size))
            images[pipeline] = min(MAX_IMAGES, steps * batch_size)
            # The peak of the process so far, before other measurements raise it.
            peak_memory[pipeline] = trial["peak_memory"]
        for _ in range(sizes.repetitions):
            for pipeline in PIPELINES:
                submit = processes[pipeline].submit
                training = submit(measure_training, name, pipeline, images[pipeline]).result()
                evaluation = submit(
                    measure_evaluation, name, pipeline, sizes.evaluation_images
                ).result()
                speeds[pipeline].append(
                    {
                        "images_per_second": training["images_per_second"],
                        "evaluated_per_second": evaluation["images_per_second"],
                    }
                )
            for loader in LOADERS:
                submit = processes[loader].submit
                loaded = submit(measure_loading, name, loader, sizes.loading_images).result()
                loading[loader].append(
                    {
                        "loaded_per_second": loaded["images_per_second"],
                        "loading_cpu_microseconds": loaded["cpu_microseconds"],
                    }
                )
            rooflines.append(project.submit(measure_roofline).result())
        operators, seconds_per_image = project.submit(
            profile_operators, name, sizes.profiled_batches
        ).result()
    measured = {loader: medians(loading[loader]) for loader in LOADERS}
    for pipeline in PIPELINES:
        measured[pipeline].update(medians(speeds[pipeline]))
        measured[pipeline]["peak_memory"] = peak_memory[pipeline]
        measured[pipeline]["seconds_to_first_step"] = seconds_to_first_step[pipeline]
    measured["operators"] = operators
    if device.distributed_state().device.type == "cuda":
        # The profiler slows down the launch of kernels, but not the kernels.
        images_per_second = measured["project"]["images_per_second"]
        measured["gpu_busy"] = seconds_per_image * images_per_second
    return measured


def measure_scaling(name: str, sizes: Sizes) -> dict[str, dict[int, float]]:
    """Measure the project's training speed by batch size, workers and number of images.

    Args:
        name: A key of EXPERIMENTS.
        sizes: The amount of work.

    Returns:
        Images per second by "batch size", "workers" and "images".
    """
    with new_process() as process:

        def measure_speed(images: int, **options: int) -> float:
            training = process.submit(measure_training, name, "project", images, **options)
            return training.result()["images_per_second"]

        measure_speed(256)  # warm-up
        images = sizes.scaling_images
        return {
            "batch size": {n: measure_speed(images, batch_size=n) for n in sizes.batch_sizes},
            "workers": {n: measure_speed(images, workers=n) for n in sizes.workers},
            "images": {n: measure_speed(n, epochs=1) for n in sizes.scaling_sizes},
        }


def instruction_set(target: torch.device) -> str:
    """Return a CPU's vector instructions as PyTorch uses them, or a GPU's compute capability.

    Args:
        target: The device that trains.
    """
    if target.type == "cuda":
        major, minor = torch.cuda.get_device_capability(target)
        return f"sm_{major}{minor}"
    return torch.backends.cpu.get_cpu_capability()


def file_name(benchmark: dict) -> str:
    """Return the name of a result file. It states device, precision and instruction set.

    Args:
        benchmark: The content of the file.
    """
    text = "-".join(benchmark[key] for key in ("device", "precision", "instruction_set"))
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") + ".json"


def run_benchmark(
    root: Path = ROOT, model_names: Collection[str] = EXPERIMENT_NAMES, sizes: Sizes | None = None
) -> Path:
    """Measure networks and write the results.

    Until all networks are measured, the results are in `results/_benchmark/`.

    Args:
        root: The folder of `results/`.
        model_names: The networks to measure.
        sizes: The amount of work. None takes CPU_SIZES or GPU_SIZES.

    Returns:
        The result file in `results/benchmark/`.
    """
    os.environ["KINETO_LOG_LEVEL"] = "99"  # no log lines of the profiler
    start = time.time()
    target = device.distributed_state().device
    if sizes is None:
        sizes = GPU_SIZES if target.type == "cuda" else CPU_SIZES
    benchmark = {
        "device": device.device_name(target),
        "precision": device.precision_name(device.mixed_precision(target)),
        "instruction_set": instruction_set(target),
        "date": datetime.date.today().isoformat(),
        "versions": device.library_versions(),
        "repetitions": sizes.repetitions,
        "networks": {},
    }
    unfinished = root / "results" / "_benchmark" / file_name(benchmark)
    rooflines = []
    for model_name in sorted(model_names):
        name = EXPERIMENT_NAMES[model_name]
        network = {
            "experiment": name,
            "mult_adds": inspection.count_mult_adds(get_model(model_name)),
            **measure_network(name, rooflines, sizes),
        }
        benchmark["networks"][model_name] = network
        by_flops = sorted(rooflines, key=lambda roofline: roofline["flops"])
        benchmark["roofline"] = by_flops[len(by_flops) // 2]  # the median
        atomic_write(unfinished, json.dumps(benchmark, indent=1) + "\n")
        baseline, project = (network[pipeline]["images_per_second"] for pipeline in PIPELINES)
        print(
            f"{model_name}: baseline {baseline:,.0f}, project {project:,.0f} images/s "
            f"({project / baseline:.2f}x), after {(time.time() - start) / 60:.1f} min",
            flush=True,
        )
    if SCALING_MODEL in model_names:
        benchmark["scaling"] = measure_scaling(EXPERIMENT_NAMES[SCALING_MODEL], sizes)
    finished = root / "results" / "benchmark" / unfinished.name
    atomic_write(finished, json.dumps(benchmark, indent=1) + "\n")
    unfinished.unlink()
    return finished


if __name__ == "__main__":
    result_file = run_benchmark()
    report.write()
    print(report.section(json.loads(result_file.read_text(encoding="utf-8"))))
