"""`make bench`: measure both ways side by side, keep the figures, write the README's section."""

import datetime
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.ceiling import ceiling
from benchmarks.ways import LOADERS, WAYS, evaluate, load, operators, start_as, train
from helpers import devices
from helpers.anatomy import summary
from helpers.files import write
from helpers.models import build
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT

NETWORKS = {run.net: name for name, run in reversed(RUNS.items())}
MOST = 50_000  # images an epoch, however fast


@dataclass(frozen=True)
class Sizes:
    """How much is measured: by images, but for `tried` and `profiled` batches, and `seconds`.

    Each way is repeated so often, in epochs of about so many seconds. Then `s7` is trained on
    `grown` images with each of the batch sizes and numbers of workers, and on each of `images`.
    """

    loaded: int = 5_000
    tested: int = 512
    tried: int = 2
    profiled: int = 4
    repetitions: int = 3
    seconds: float = 3
    grown: int = 2_048
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    workers: tuple[int, ...] = (0, 1, 2)
    images: tuple[int, ...] = (1_000, 10_000, 50_000)


ON_CPU = Sizes()
# A GPU's step is a hundred times faster, but the profiler keeps as many events of it.
ON_GPU = Sizes(10_000, 10_000, 20, 32, seconds=2, grown=20_000, workers=(0, 1, 2, 4, 8))


def process() -> ProcessPoolExecutor:
    """A fresh process: memory settings and peak memory are a whole process's.

    Its loaders' workers are started as usual on this system, not in the way that it was itself.
    """
    usual = (multiprocessing.get_start_method(),)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_as, usual)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def network(name: str, ceilings: list[dict], sizes: Sizes) -> dict:
    """Measure a run's network both ways by turns, and what the machine could do in between."""
    batch = RUNS[name].recipe.batch_size
    rows, loading, first, images, memory = {}, {}, {}, {}, {}
    with process() as theirs, process() as ours:
        ways = dict(zip(WAYS, (theirs, ours), strict=True))
        for way, there in ways.items():
            started = time.time()
            first[way] = there.submit(train, name, way, batch, epochs=1).result()["ended"] - started
            tried = there.submit(train, name, way, sizes.tried * batch).result()
            steps = max(2, round(sizes.seconds * tried["images_per_second"] / batch))
            images[way] = min(MOST, steps * batch)
            memory[way] = tried["peak_memory"]  # before anything else could raise it
        for _ in range(sizes.repetitions):
            for way, there in ways.items():
                trained = there.submit(train, name, way, images[way]).result()
                tested = there.submit(evaluate, name, way, sizes.tested).result()
                row = {"images_per_second": trained["images_per_second"]}
                row |= {"evaluated_per_second": tested["images_per_second"]}
                rows.setdefault(way, []).append(row)
            for way in LOADERS:
                loaded = ways.get(way, ours).submit(load, name, way, sizes.loaded).result()
                row = {"loaded_per_second": loaded["images_per_second"]}
                row |= {"loading_cpu_microseconds": loaded["cpu_microseconds"]}
                loading.setdefault(way, []).append(row)
            ceilings.append(ours.submit(ceiling).result())
        costly, seconds = ours.submit(operators, name, sizes.profiled).result()
    found = {way: medians(loading[way]) for way in LOADERS}
    for way in WAYS:
        found[way] |= medians(rows[way])
        found[way] |= {"peak_memory": memory[way], "seconds_to_first_step": first[way]}
    # Kernels take as long under the profiler, which slows only what starts them.
    on_gpu = devices.processes().device.type == "cuda"
    busy = {"busy": seconds * found["ours"]["images_per_second"]} if on_gpu else {}
    return found | {"operators": costly} | busy


def growth(name: str, sizes: Sizes) -> dict[str, dict[int, float]]:
    """Images a second of a run with other batches, numbers of workers and numbers of images."""
    with process() as ours:
        ours.submit(train, name, "ours", 256).result()

        def speed(images: int, **how: int) -> float:
            return ours.submit(train, name, "ours", images, **how).result()["images_per_second"]

        sizes_of_batches = {n: speed(sizes.grown, batch_size=n) for n in sizes.batch_sizes}
        workers = {n: speed(sizes.grown, workers=n) for n in sizes.workers}
        images = {n: speed(n, epochs=1) for n in sizes.images}
    return {"batch size": sizes_of_batches, "workers": workers, "images": images}


def instruction_set(device: torch.device) -> str:
    """What PyTorch computes with: a CPU's vector instructions, a GPU's compute capability."""
    if device.type == "cuda":
        return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return torch.backends.cpu.get_cpu_capability()


def file_name(found: dict) -> str:
    """Where a benchmark is kept: one of another device, precision or instruction set elsewhere."""
    about = "-".join(found[key] for key in ("device", "precision", "instruction_set"))
    return re.sub(r"[^a-z0-9]+", "-", about.lower()).strip("-") + ".json"


def main(root: Path = ROOT, nets: Iterable[str] = NETWORKS, sizes: Sizes | None = None) -> Path:
    """Measure the networks, and keep the figures in results/benchmark/<device>.json: that file.

    Until all are measured, what was measured so far is kept in results/_benchmark/. `sizes` are by
    default those for the device.
    """
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's: it tells each process of its own doings
    device, ceilings, started = devices.processes().device, [], time.time()
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    found = {
        "device": devices.describe(device),
        "precision": devices.precision(device).replace("no", "float32"),
        "instruction_set": instruction_set(device),
        "date": datetime.date.today().isoformat(),
        "versions": devices.versions(),
        "repetitions": sizes.repetitions,
        "networks": {},
    }
    partly = root / "results/_benchmark" / file_name(found)
    for net in sorted(nets):
        about = {"run": NETWORKS[net], "mult_adds": summary.mult_adds(build(net))}
        measured = about | network(NETWORKS[net], ceilings, sizes)
        found["networks"][net] = measured
        found["ceiling"] = sorted(ceilings, key=lambda found: found["flops"])[len(ceilings) // 2]
        write(partly, json.dumps(found, indent=1) + "\n")
        theirs, ours = (measured[way]["images_per_second"] for way in WAYS)
        passed = f"after {(time.time() - started) / 60:.1f} min"
        print(
            f"{net}: {theirs:,.0f} and {ours:,.0f} images/s: {ours / theirs:.2f}x, {passed}",
            flush=True,
        )
    if "s7" in nets:
        found["growth of s7"] = growth("S7/s7", sizes)
    whole = root / "results/benchmark" / partly.name
    write(whole, json.dumps(found, indent=1) + "\n")
    partly.unlink()
    return whole


if __name__ == "__main__":
    kept = main()
    report.write()
    print(report.section(json.loads(kept.read_text())))
