"""Further seeds of a run that is kept: trained apart, their accuracies put beside its own."""

import json
from dataclasses import replace
from pathlib import Path

from helpers.files import write
from helpers.images import data
from helpers.runs import conductor, results
from helpers.runs.catalogue import RUNS, Run
from helpers.settings import Settings, one_of
from helpers.training.recipes import shortened


def add(name: str, number: int, settings: Settings) -> str:
    """Train the seeds that a kept run lacks to have so many; one line that says what all reach.

    Their files go to `checkpoints/seeds/`; a learning rate that was found is taken over. Raises
    FileNotFoundError where no such run is kept, ValueError where its recipe was another.
    """
    settings = replace(settings, reuse=False)  # else the kept run would count as its own next seed
    images = data.load(settings)
    run, folder = RUNS[one_of("run", name, RUNS)], settings.results(images.key) / name
    metrics = results.metrics_of(folder)
    recipe = shortened(run.recipe, settings.profile, len(images.train_labels))
    recipe = replace(recipe, max_lr=metrics["max_lr"]) if run.find_rate else recipe
    run = replace(run, recipe=recipe)
    _check(run, metrics, folder)
    for seed in range(metrics["seed"], metrics["seed"] + number):
        if seed in [of_seed["seed"] for of_seed in metrics["seeds"]]:
            continue
        apart = settings.home / "checkpoints" / "seeds" / str(seed)
        trained = conductor.train(run, images, replace(settings, seed=seed, home=apart)).metrics
        metrics = results.metrics_of(folder)  # which may have changed in all that time
        _check(run, metrics, folder)
        others = [of_seed for of_seed in metrics["seeds"] if of_seed["seed"] != seed]
        metrics |= results.over_seeds(others + trained["seeds"])
        write(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    reached = ", ".join(f"{of_seed['test_accuracy']:.2f}" for of_seed in metrics["seeds"])
    return f"{name}: {metrics['test_accuracy_mean']:.2f} %, the mean of {reached}"


def _check(run: Run, metrics: dict, folder: Path) -> None:
    if metrics["recipe"] != run.record:
        raise ValueError(f"{folder} was trained by another recipe than today's: train it again")
