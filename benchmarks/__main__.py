"""`make bench`: measure both ways side by side, keep the figures, write the README's section."""

import datetime
import json
import multiprocessing
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks import report
from benchmarks.ceiling import ceiling
from benchmarks.ways import WAYS, evaluate, load, operators, start_as, train
from helpers import devices
from helpers.anatomy import summary
from helpers.models import build
from helpers.runs import results
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT

GPU = devices.processes().device.type == "cuda"
TRAINED, LOADED, TESTED = (50_000, 50_000, 10_000) if GPU else (2_048, 5_000, 512)  # images
REPETITIONS, SECONDS = 3, 3  # of each way, and about how long an epoch lasts on a CPU
NETWORKS = {run.net: name for name, run in reversed(RUNS.items())}
BATCH_SIZES, WORKERS, IMAGES = (32, 64, 128, 256, 512, 1024), (0, 1, 2), (1_000, 10_000, 50_000)


def process() -> ProcessPoolExecutor:
    """A fresh process: memory settings and peak memory are a whole process's.

    Its loaders' workers are started as usual on this system, not in the way that it was itself.
    """
    usual = (multiprocessing.get_start_method(),)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_as, usual)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def network(name: str, ceilings: list[dict]) -> dict:
    """Measure a run's network both ways by turns, and what the machine could do in between."""
    batch = RUNS[name].recipe.batch_size
    rows, first, images, memory = {}, {}, {}, {}
    with process() as theirs, process() as ours:
        ways = dict(zip(WAYS, (theirs, ours), strict=True))
        for way, there in ways.items():
            started = time.time()
            first[way] = there.submit(train, name, way, batch, epochs=1).result()["ended"] - started
            tried = there.submit(train, name, way, 2 * batch).result()
            steps = max(2, round(SECONDS * tried["images_per_second"] / batch))
            images[way] = TRAINED if GPU else steps * batch
            memory[way] = tried["peak_memory"]  # before anything else could raise it
        for _ in range(REPETITIONS):
            for way, there in ways.items():
                trained = there.submit(train, name, way, images[way]).result()
                loaded = there.submit(load, name, way, LOADED).result()
                tested = there.submit(evaluate, name, way, TESTED).result()
                row = {"images_per_second": trained["images_per_second"]}
                row |= {"loaded_per_second": loaded["images_per_second"]}
                row |= {"loading_cpu_microseconds": loaded["cpu_microseconds"]}
                row |= {"evaluated_per_second": tested["images_per_second"]}
                rows.setdefault(way, []).append(row)
            ceilings.append(ours.submit(ceiling).result())
        costly = ours.submit(operators, name, TRAINED if GPU else 2 * batch).result()
    alone = {w: {"peak_memory": memory[w], "seconds_to_first_step": first[w]} for w in WAYS}
    return {way: medians(rows[way]) | alone[way] for way in WAYS} | {"operators": costly}


def growth(name: str) -> dict[str, dict[int, float]]:
    """Images a second of a run with other batches, numbers of workers and numbers of images."""
    with process() as ours:
        ours.submit(train, name, "ours", 256).result()

        def speed(images: int, **how: int) -> float:
            return ours.submit(train, name, "ours", images, **how).result()["images_per_second"]

        return {
            "batch size": {size: speed(TRAINED, batch_size=size) for size in BATCH_SIZES},
            "workers": {n: speed(TRAINED, workers=n) for n in WORKERS},
            "images": {number: speed(number, epochs=1) for number in IMAGES},
        }


def main() -> None:
    """Measure everything, write results/benchmark/<device>.json, its figure and the README."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's: it tells each process of its own doings
    device, ceilings, networks = devices.processes().device, [], {}
    for net, name in sorted(NETWORKS.items()):
        networks[net] = {"run": name, "mult_adds": summary.mult_adds(build(net))}
        networks[net] |= network(name, ceilings)
        theirs, ours = (networks[net][way]["images_per_second"] for way in WAYS)
        print(f"{net}: {theirs:,.0f} and {ours:,.0f} images/s: {ours / theirs:.2f}x", flush=True)
    found = {
        "device": devices.describe(device),
        "precision": devices.precision(device),
        "date": datetime.date.today().isoformat(),
        "versions": results.versions(),
        "repetitions": REPETITIONS,
        "ceiling": sorted(ceilings, key=lambda found: found["flops"])[len(ceilings) // 2],
        "networks": networks,
        "growth of s7": growth("S7/s7"),
    }
    name = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    results.write(ROOT / "results/benchmark" / f"{name}.json", json.dumps(found, indent=1) + "\n")
    report.write()
    print(report.section(found))


if __name__ == "__main__":
    main()
