"""The search for a run's learning rate: a range test, then short runs around what it suggests."""

import json
import math
from dataclasses import replace

import pandas as pd
from accelerate import utils

from helpers import devices
from helpers.files import reading, write
from helpers.images.data import ImageData
from helpers.runs.catalogue import Run
from helpers.runs.conductor import fingerprint, initial, kept, undisturbed
from helpers.settings import Profile, Settings
from helpers.training.checkpoints import Checkpoint
from helpers.training.loop import fit
from helpers.training.range_test import range_test
from helpers.training.recipes import Recipe, shortened

SHORT = Profile("short", epochs=4)
FILE = "rate_search.json"


def next_rate(losses: dict[float, float], start: float, most: int = 7) -> float | None:
    """The rate to try after those whose losses are given; None where these are enough.

    From `start` on, it is twice or half the best one so far, until both were tried and are no
    better, or there are `most`. Of rates that do equally well, the lowest counts as the best.
    """
    if not losses:
        return start
    best = min(sorted(losses), key=losses.get)
    missing = [rate for rate in (2 * best, best / 2) if rate not in losses]
    return missing[0] if missing and len(losses) < most else None


def best_rate(losses: dict[float, float]) -> float:
    """Where the parabola through the lowest loss and its neighbours is lowest.

    It goes over the logarithm of the rate, through the losses at half, once and twice the best
    rate. Where it does not exist, as a loss is missing or infinite, the best rate is returned.
    """
    best = min(sorted(losses), key=losses.get)
    half, lowest, twice = (losses.get(rate, math.inf) for rate in (best / 2, best, 2 * best))
    bend = half - 2 * lowest + twice
    return best * 2 ** ((half - twice) / (2 * bend)) if 0 < bend < math.inf else best


def with_found_rate(
    run: Run, data: ImageData, settings: Settings
) -> tuple[Run, pd.DataFrame, pd.DataFrame]:
    """The run with the rate that a search finds as its `max_lr`; the range test; the short runs.

    Few images make the batches smaller: the tables, with a row a rate (learning_rate, loss), are of
    these batches, and the rate that is found is translated back to the run's own. A tenth of the
    rate at which the test's loss was lowest is tried first. A short run takes four epochs, or as
    many as the run if it has fewer, of a fifth of the images; its loss is that on images held out.
    Where training diverges, it is infinite. A search goes on where it was interrupted, and is kept
    in the run's folder; with `settings.reuse`, the kept one is taken, whatever its seed was.

    Raises FloatingPointError where all short runs diverge; FileNotFoundError where there is nothing
    to reuse, ValueError where it is damaged; else what `train` raises.
    """
    if settings.reuse:
        file = kept(run.name, settings, FILE) / FILE
        with reading(file):
            return _outcome(run, run.recipe, json.loads(file.read_text()))
    recipe = shortened(run.recipe, settings.profile, len(data.train_labels))
    with undisturbed(settings.results(data.key) / run.name):
        return _outcome(run, recipe, _search(replace(run, recipe=recipe), data, settings))


def _outcome(run: Run, searched: Recipe, found: dict) -> tuple[Run, pd.DataFrame, pd.DataFrame]:
    tried = pd.DataFrame(found["short_runs"], columns=["learning_rate", "loss"])
    if tried["loss"].min() == math.inf:
        raise FloatingPointError(f"{run.name}: all short runs diverged; try another recipe")
    # The run's own epochs and batches, which another profile or more images leave as they are.
    best = replace(searched, max_lr=best_rate(dict(found["short_runs"])))
    recipe = replace(run.recipe, max_lr=best.with_batch_size(run.recipe.batch_size).max_lr)
    return replace(run, recipe=recipe, find_rate=False), pd.DataFrame(found["range_test"]), tried


def _search(run: Run, data: ImageData, settings: Settings) -> dict:
    seed, here, size = settings.seed, devices.processes(), len(data.train_labels)
    model = initial(run, data, seed)
    file = settings.checkpoints(data.key) / run.name / f"rate-{seed}.pt"
    checkpoint = Checkpoint(file, fingerprint(run, seed, data), settings.resume)
    state = [checkpoint.load() if here.is_main_process else None]
    if here.is_main_process and state == [None]:
        test = range_test(model, data, run.transform(data.statistics[0]), run.recipe, seed)
        state = [{"seed": seed, "range_test": test.to_dict("list"), "short_runs": []}]
        checkpoint.save(state[0])
    utils.broadcast_object_list(state)  # all processes need the same rates
    [found] = state
    test, part = pd.DataFrame(found["range_test"]), data.validation().first(size // 5)
    start = float(test["learning_rate"][test["loss"].idxmin()] / 10)
    while (rate := next_rate(dict(found["short_runs"]), start)) is not None:
        here.print(f"A short run for a learning rate of {rate:.3g}:")
        recipe = shortened(replace(run.recipe, max_lr=rate), SHORT, size)
        found["short_runs"].append((rate, _loss(replace(run, recipe=recipe), part, seed)))
        here.on_main_process(checkpoint.save)(found)
    file = settings.results(data.key) / run.name / FILE
    here.on_main_process(write)(file, json.dumps(found, indent=1) + "\n")
    return found


def _loss(run: Run, part: ImageData, seed: int) -> float:
    model, transform = initial(run, part, seed), run.transform(part.statistics[0])
    try:
        row = fit(model, part, transform, run.recipe, seed=seed, workers=devices.workers()).rows[-1]
    except FloatingPointError:
        devices.processes().print("training diverged, which counts as an infinite loss")
        return math.inf
    return row["test_loss"] if math.isfinite(row["test_loss"]) else math.inf
