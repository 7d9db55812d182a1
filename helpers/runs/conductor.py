"""How a run is conducted: from the first weights to the files that it leaves."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from helpers import devices
from helpers.anatomy.demands import DEMANDS
from helpers.files import alone, digest
from helpers.images.data import ImageData
from helpers.models import MODELS, build
from helpers.runs import results
from helpers.runs.catalogue import Run
from helpers.settings import ROOT, Settings, one_of
from helpers.training.checkpoints import Checkpoint
from helpers.training.initialisation import start_
from helpers.training.loop import History, fit, set_seed
from helpers.training.recipes import shortened
from tracing.order import traits, without_addresses

GO_ON = "Run the same again, and it goes on after the last whole epoch or short run."


def initial(run: Run, data: ImageData, seed: int) -> nn.Module:
    """The network with the weights that its training starts from."""
    set_seed(seed)
    model = build(run.net)
    start_(model, run.recipe, data)
    return model


def kept(name: str, settings: Settings, file: str = "metrics.json") -> Path:
    """The folder of a full run that has the file: the user's or, where there is none, ours."""
    places = [home / "results" / name for home in (settings.home, ROOT)]
    return next((place for place in places if (place / file).is_file()), places[0])


@contextlib.contextmanager
def undisturbed(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, and say how what breaks off is continued.

    Raises BlockingIOError where another process is at work there, ChildProcessError where one that
    loads images is lost.
    """
    apart = alone(folder) if devices.processes().is_main_process else contextlib.nullcontext()
    try:
        with apart:
            yield
    except KeyboardInterrupt:
        print(f"Interrupted. {GO_ON}")
        raise
    except RuntimeError as error:
        if "DataLoader worker (pid" not in f"{error}":  # an error of the transform, for one
            raise
        problem = "a process that loads images was stopped or killed, or memory ran out"
        windows = "On Windows, a transform of your own must come from a .py file."
        raise ChildProcessError(f"{problem}. {GO_ON} {windows}") from error


def train(
    run: Run, data: ImageData, settings: Settings, seeds: int = 1, batches: int = 1
) -> results.Result:
    """Train the run, continue it or, if `settings.reuse`, load it; keep its files and return it.

    With several seeds, from `settings.seed` on, weights and figures are those of the first, and
    the accuracies of all stand beside them. A step takes so many `batches` of the recipe at once,
    at a rate as much higher: one for each of several processes, say. The rate is the recipe's; to
    have one found, call `search.with_found_rate` before. Raises ValueError where the run's name
    does not begin with a notebook's, TypeError where its transform is no Compose of
    Albumentations, FileNotFoundError where there is nothing to reuse, ValueError where that is
    damaged or of other data, BlockingIOError where another process is training the same run,
    ChildProcessError where one that loads images is lost.
    """
    name = run.name if batches == 1 else f"{run.name}_x{batches}"  # a run of its own
    folder = settings.results(data.key) / name
    if settings.reuse:
        return replace(results.load(kept(name, settings), data), folder=folder)
    with undisturbed(folder):
        return _conducted(replace(run, name=name), data, settings, seeds, batches)


def _conducted(
    run: Run, data: ImageData, settings: Settings, seeds: int, batches: int
) -> results.Result:
    recipe = shortened(run.recipe, settings.profile, len(data.train_labels))
    recipe = recipe.with_batch_size(recipe.batch_size * batches)
    run, folder = replace(run, recipe=recipe), settings.results(data.key) / run.name
    notebook = one_of("notebook", run.name.partition("/")[0], DEMANDS)
    transform = run.transform(data.statistics[0])
    if not all(hasattr(transform, own) for own in ("transforms", "to_dict")):
        raise TypeError(f"a transform must be an albumentations.Compose([...]), not {transform}")
    steps = transform.to_dict()["transform"]["transforms"]
    accuracies = []
    for seed in reversed(range(settings.seed, settings.seed + seeds)):  # the first one last
        accelerator = devices.accelerator()  # a new one each, as loss scaling has a memory
        model, history = _train(run, data, settings, seed, accelerator)
        weights = results.weight_bytes(model)
        model = results.with_weights(run.net, weights, accelerator.device)
        measured, logits = results.measure(model, data)
        of_seed = {k: v for k, v in measured.items() if k.startswith("test_accuracy")}
        accuracies.insert(0, {"seed": seed} | of_seed | {"trained_on": history.trained_on})
    accuracies += results.further_seeds(folder, digest(weights), [s["seed"] for s in accuracies])
    metrics = {
        "notebook": notebook, "net": run.net, "seed": settings.seed,
        **{name: getattr(recipe, name) for name in ("epochs", "batch_size", "optimizer", "max_lr")},
        "recipe": run.record,
        "augmentation": [[step.pop("__class_fullname__"), step] for step in steps],
        "channel_means": data.statistics[0].tolist(),
        **measured,
        "published_test_accuracy": run.published if data.title == "CIFAR-10" else None,
        **results.over_seeds(accuracies),
        **results.circumstances(history, data, accelerator),
    }  # fmt: skip
    metrics["requirements"] = results.judged(model, metrics)
    result = results.Result(folder, model, history, metrics, logits, f"{run.net} on {data.title}")
    if accelerator.is_main_process:
        results.save(result)
    return result


def _train(
    run: Run, data: ImageData, settings: Settings, seed: int, accelerator: devices.Accelerator
) -> tuple[nn.Module, History]:
    model, transform = initial(run, data, seed), run.transform(data.statistics[0])
    results.described(model)  # so that a table that fails is said before training
    file = settings.checkpoints(data.key) / run.name / f"seed-{seed}.pt"
    checkpoint = Checkpoint(file, fingerprint(run, seed, data), settings.resume)
    options = {"seed": seed, "checkpoint": checkpoint, "workers": devices.workers()}
    return model, fit(model, data, transform, run.recipe, accelerator=accelerator, **options)


def fingerprint(run: Run, seed: int, data: ImageData) -> dict:
    """What makes a training what it is: a checkpoint of another is not continued."""
    set_seed(seed)  # for networks that leave something to chance
    arrays = data.train_images, data.train_labels, data.test_images, data.test_labels
    return {
        "network": traits(MODELS[run.net]),
        "run": run.name, "seed": seed,
        "transform": without_addresses(str(run.transform(data.statistics[0]))),
        "recipe": asdict(run.recipe),
        "data": [data.title, *(digest(array.tobytes()) for array in arrays)],
        "processes": devices.processes().num_processes,
    }  # fmt: skip
