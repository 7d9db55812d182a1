"""The experiments of the four notebooks, and how one is run."""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import albumentations as A
import numpy as np
import pandas as pd
from torch import nn

from helpers import device, lr_finder, requirements, results, transforms
from helpers.checkpoints import CheckpointManager
from helpers.config import ROOT, Settings, validate_choice
from helpers.data import ImageData, load_data
from helpers.evaluation import evaluate_model
from helpers.files import atomic_write, corruption_guard, file_lock, format_error, sha256
from helpers.init import initialize_
from helpers.inspection import model_fingerprint
from helpers.inspection.fingerprint import without_addresses
from helpers.models import MODELS, get_model
from helpers.optim import TrainConfig, scale_to_profile
from helpers.results import Result
from helpers.training import History, fit, set_seed

RESUME_HINT = (
    "Run the same command or cell again to continue after the last complete epoch or short run."
)
LR_SEARCH_FILE = "rate_search.json"


@dataclass(frozen=True)
class Experiment:
    """A model, its augmentation and its hyperparameters.

    Attributes:
        name: "notebook/run", the folder of its files in `results/`.
        model: A name in `models.MODELS`.
        transform: Returns the augmentation for the channel means of the training images.
        config: The hyperparameters.
        reference_accuracy: The test accuracy in % of the last epoch that the submission published.
        reference_epochs: The number of epochs after which the submission reached it.
        published: All accuracies that the submission published, as text.
        find_lr: Find `config.max_lr` with the learning rate finder before training.
        lr_found: Whether the learning rate finder has found `config.max_lr`.
        is_trial: The model may change between runs. A checkpoint of an earlier version is replaced.
    """

    name: str
    model: str
    transform: Callable[[np.ndarray], A.Compose]
    config: TrainConfig
    reference_accuracy: float | None = None
    reference_epochs: int | None = None
    published: str = ""
    find_lr: bool = False
    lr_found: bool = False
    is_trial: bool = False

    @property
    def notebook(self) -> str:
        """The notebook that the experiment belongs to, for example "S7"."""
        return self.name.partition("/")[0]

    def to_dict(self) -> dict:
        """Return the hyperparameters and the name of the transform, as `metrics.json` has them."""
        return {**asdict(self.config), "transform": getattr(self.transform, "__name__", "")}

    def make_transform(self, data: ImageData) -> A.Compose:
        """Return the augmentation for these training images.

        Args:
            data: Provides the channel means.

        Raises:
            TypeError: If `transform` is a Compose itself.
            ValueError: If a step has an argument that Albumentations does not know.
        """
        if isinstance(self.transform, A.BaseCompose):
            raise TypeError(
                f"{self.name}: the transform is a Compose; give a function of the channel means "
                "that returns it, for example `lambda mean: A.Compose([...])`"
            )
        with warnings.catch_warnings():
            # Albumentations only warns about an unknown argument, then uses its default instead.
            warnings.filterwarnings("error", message=r"Argument\(s\)")
            try:
                return self.transform(data.mean)
            except UserWarning as warning:
                raise ValueError(f"{self.name}: {warning}") from None


S7_CONFIG = TrainConfig(
    epochs=10,
    batch_size=128,
    max_lr=0.2,
    peak_epoch=2.5,
    weight_decay=5e-4,
    label_smoothing=0.1,
    whitening_init=True,
    dirac_init=True,
)
S7_DROPOUT_CONFIG = replace(S7_CONFIG, optimizer="Muon", max_lr=0.1, dropout=0.05)
NO_DROPOUT_CONFIG = replace(S7_CONFIG, dropout=0.0)
COMPACT_CONFIG = replace(NO_DROPOUT_CONFIG, epochs=80, peak_epoch=16, optimizer="Muon", max_lr=0.1)
S9_CONFIG = replace(NO_DROPOUT_CONFIG, epochs=50, peak_epoch=10, weight_decay=2.5e-4)
S10_CONFIG = replace(
    NO_DROPOUT_CONFIG,
    epochs=24,
    batch_size=512,
    max_lr=0.003,
    peak_epoch=5,
    optimizer="AdamW",
    weight_decay=0.25,
)
RESNET18_CONFIG = replace(NO_DROPOUT_CONFIG, epochs=20, max_lr=0.1, peak_epoch=5)

_ALL = (
    Experiment(
        "S7/s7",
        "s7",
        transforms.flip_shift,
        S7_CONFIG,
        86.88,
        10,
        "86.88 % in the log, 87.47 % in the text",
    ),
    Experiment(
        "S7/s7_dropout",
        "s7_dropout",
        transforms.flip_shift,
        S7_DROPOUT_CONFIG,
        82.93,
        10,
        "82.93 % in the last epoch, 83.17 % at best",
    ),
    Experiment(
        "S9/s9",
        "s9",
        transforms.flip_shift_scale_rotate_rare_cutout,
        S9_CONFIG,
        85.22,
        50,
        "85.22 % in the log, 86.34 % after 128 epochs",
    ),
    Experiment("S9/compact", "compact", transforms.flip_shift_scale_rotate_cutout, COMPACT_CONFIG),
    Experiment(
        "S10/s10",
        "s10",
        transforms.flip_shift_cutout,
        S10_CONFIG,
        90.06,
        24,
        "90.06 %, in a later version of the document",
        find_lr=True,
    ),
    Experiment(
        "ResNet18_GradCAM/resnet18",
        "resnet18",
        transforms.crop_cutout,
        RESNET18_CONFIG,
        published="98.31 %, on the training images",
    ),
    Experiment("ResNet18_GradCAM/compact", "compact", transforms.crop_cutout, COMPACT_CONFIG),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


def run_experiment(
    experiment: Experiment,
    data: ImageData,
    settings: Settings,
    seeds: int = 1,
    batch_size_scale: int = 1,
) -> Result:
    """Train an experiment, evaluate it, and save its files.

    An interrupted run continues from its checkpoint. With `settings.reuse`, the saved run is
    loaded instead.

    Args:
        experiment: What to train. If it has `find_lr`, its learning rate is found first.
        data: Training and test images.
        settings: Profile, seed, and the folder of the files.
        seeds: The number of seeds, from `settings.seed` on. The weights and figures are those of
            the first; the accuracies of all are saved.
        batch_size_scale: Multiplies the batch size and scales the learning rate to match, for
            example by the number of processes.

    Returns:
        The run of the first seed.

    Raises:
        ValueError: If the notebook is unknown, or the saved run is damaged or of other data.
        TypeError: If the transform is no Compose of Albumentations.
        FileNotFoundError: If there is no saved run to reuse.
        BlockingIOError: If another process trains the same run.
        ChildProcessError: If a process that loads images is lost.
    """
    validate_choice("notebook", experiment.notebook, requirements.REQUIREMENTS)
    if not re.fullmatch(r"\w+/[^./\\][^/\\]*", experiment.name):
        raise ValueError(f"the name {experiment.name!r} is not of the form NOTEBOOK/RUN")
    if seeds < 1:
        raise ValueError(f"seeds={seeds} is not 1 or more")
    if batch_size_scale > 1:
        experiment = replace(experiment, name=f"{experiment.name}_x{batch_size_scale}")
    folder = settings.results_dir(data.key) / experiment.name
    if settings.reuse:
        saved = results.load_result(find_saved_run(experiment.name, settings), data)
        print(
            "REUSE=1: trained on {date} by {device}, {precision}, seed {seed}".format(
                **saved.metrics
            )
        )
        print(results.format_short_log(saved.history), end="")
        return replace(saved, folder=folder)

    _check_transform(experiment.make_transform(data))
    _check_serializable(experiment, data, settings)
    if experiment.find_lr:
        experiment, _, _ = find_experiment_lr(experiment, data, settings)
    config = scale_to_profile(experiment.config, settings.profile, len(data.train_labels))
    config = config.scale_batch_size(config.batch_size * batch_size_scale)
    experiment = replace(experiment, config=config)
    with run_lock(folder):
        runs = [
            _train_seed(experiment, data, settings, seed)
            for seed in range(settings.seed, settings.seed + seeds)
        ]
        first = runs[0]
        seed_entries = [run.seed_entry for run in runs]
        seed_entries += results.earlier_seeds(
            folder, first.weights_sha256, [entry["seed"] for entry in seed_entries]
        )
        metrics = {
            **_describe(experiment, data, settings),
            **first.measured,
            "published_test_accuracy": (
                experiment.reference_accuracy if data.is_full_cifar10 else None
            ),
            **results.seed_statistics(seed_entries),
            **results.run_metadata(first.history, data),
        }
        metrics["requirements"] = requirements.check_result(first.model, metrics)
        title = f"{experiment.model} on {data.title}"
        result = Result(folder, first.model, first.history, metrics, first.logits, title)
        if device.distributed_state().is_main_process:
            results.save_result(result)
    return result


def load_full_run(trained: Result, data: ImageData, settings: Settings) -> Result:
    """Return the run of all epochs: the one just trained, or the saved one after a quick run.

    After a quick run, this prints the accuracies of both.

    Args:
        trained: What `run_experiment` returned.
        data: The images at hand, whose logits the result has.
        settings: The settings of the notebook.

    Returns:
        The run. Its figures belong into the folder of `trained`.
    """
    if settings.is_full or settings.reuse:
        return trained
    name = f"{trained.metrics['notebook']}/{trained.folder.name}"
    quick = trained.metrics
    line = (
        f"{name}, this {settings.profile.name} run: {quick['train_images']:,} images, "
        f"{quick['epochs']} epochs, {quick['test_accuracy']:.1f} %; "
    )
    folder = find_saved_run(name, settings)
    if not (folder / "metrics.json").is_file():
        print(f"{line}there is no saved full run")
        return trained
    saved = results.load_result(folder, data)
    print(f"{line}saved full run: {results.format_accuracy(saved.metrics)}")
    return replace(saved, folder=trained.folder)


@dataclass(frozen=True)
class _SeedRun:
    """A trained and evaluated seed of an experiment."""

    seed: int
    model: nn.Module
    weights_sha256: str
    history: History
    measured: dict
    logits: np.ndarray

    @property
    def seed_entry(self) -> dict:
        """What `metrics.json` says about this seed."""
        accuracies = {k: v for k, v in self.measured.items() if k.startswith("test_accuracy")}
        return {"seed": self.seed, **accuracies, "trained_on": self.history.environments}


def _train_seed(experiment: Experiment, data: ImageData, settings: Settings, seed: int) -> _SeedRun:
    """Train one seed of an experiment, or continue it, and evaluate its weights."""
    accelerator = device.create_accelerator()  # new for each seed: loss scaling has a state
    model = build_initialized_model(experiment, data, seed)
    # What fails in the end fails before the training: tables and weights.
    results.model_tables(model)
    try:
        results.load_model(experiment.model, results.serialize_weights(model), accelerator.device)
    except RuntimeError as error:
        raise ValueError(
            f"two networks of {type(model).__name__} differ, so that its weights cannot be loaded: "
            f"{format_error(error)}"
        ) from error
    checkpoint = CheckpointManager(
        settings.checkpoint_dir(data.key) / experiment.name / f"seed-{seed}.pt",
        experiment_fingerprint(experiment, seed, data),
        settings.resume,
        archive=not experiment.is_trial,
    )
    history = fit(
        model,
        data,
        experiment.make_transform(data),
        experiment.config,
        seed=seed,
        checkpoint=checkpoint,
        accelerator=accelerator,
        workers=device.num_workers(),
    )
    # Evaluate the weights as they are saved: convolutions and linear layers in float16.
    weights = results.serialize_weights(model)
    model = results.load_model(experiment.model, weights, accelerator.device)
    measured, logits = evaluate_model(model, data)
    return _SeedRun(seed, model, sha256(weights), history, measured, logits)


def build_initialized_model(experiment: Experiment, data: ImageData, seed: int) -> nn.Module:
    """Build the model of an experiment with its initial weights.

    Args:
        experiment: Names the model and its initialization.
        data: Provides the patches for whitening.
        seed: Seeds the random weights.
    """
    set_seed(seed)
    model = get_model(experiment.model)
    initialize_(model, experiment.config, data)
    return model


def find_experiment_lr(
    experiment: Experiment, data: ImageData, settings: Settings
) -> tuple[Experiment, pd.DataFrame, pd.DataFrame]:
    """Find the learning rate of an experiment (`lr_finder.find_lr`) and save the search.

    With few images the batch size is reduced. The tables use the reduced batch size; the returned
    `max_lr` is rescaled to the experiment's own. With `settings.reuse`, the saved search is
    loaded, whatever its seed was.

    Args:
        experiment: The experiment.
        data: Training images; a tenth of them is held out.
        settings: Profile, seed, and the folder of the files.

    Returns:
        The experiment with the learning rate that was found, the range test (learning_rate, loss),
        and the short runs (learning_rate, loss).

    Raises:
        FloatingPointError: If all short runs diverge.
        FileNotFoundError: If there is no saved search to reuse.
        CorruptFileError: If the saved search is damaged.
        BlockingIOError: If another process trains the same experiment.
    """
    if settings.reuse:
        config = experiment.config
        file = find_saved_run(experiment.name, settings, LR_SEARCH_FILE) / LR_SEARCH_FILE
        with corruption_guard(file):
            search = json.loads(file.read_text())
            search["range_test"], dict(search["short_runs"])  # raises if the content is damaged
        return _apply_lr_search(experiment, config, search)
    config = scale_to_profile(experiment.config, settings.profile, len(data.train_labels))
    scaled = replace(experiment, config=config)
    folder = settings.results_dir(data.key) / experiment.name
    with run_lock(folder):
        search = lr_finder.find_lr(
            lambda part: build_initialized_model(scaled, part, settings.seed),
            data,
            experiment.make_transform(data),
            config,
            seed=settings.seed,
            checkpoint=CheckpointManager(
                settings.checkpoint_dir(data.key) / experiment.name / f"rate-{settings.seed}.pt",
                experiment_fingerprint(scaled, settings.seed, data),
                settings.resume,
            ),
        )
        if device.distributed_state().is_main_process:
            atomic_write(folder / LR_SEARCH_FILE, json.dumps(search, indent=1) + "\n")
    return _apply_lr_search(experiment, config, search)


def _apply_lr_search(
    experiment: Experiment, config: TrainConfig, search: dict
) -> tuple[Experiment, pd.DataFrame, pd.DataFrame]:
    """Return the experiment with the learning rate that the search found, and its tables."""
    lr_trials = pd.DataFrame(search["short_runs"], columns=["learning_rate", "loss"])
    if lr_trials["loss"].min() == math.inf:
        raise FloatingPointError(f"{experiment.name}: all short runs diverged; try another recipe")
    max_lr = lr_finder.interpolate_best_lr(dict(search["short_runs"]))
    scaled = replace(config, max_lr=max_lr).scale_batch_size(experiment.config.batch_size)
    experiment = replace(
        experiment,
        config=replace(experiment.config, max_lr=scaled.max_lr),
        find_lr=False,
        lr_found=True,
    )
    return experiment, pd.DataFrame(search["range_test"]), lr_trials


def try_model(
    model_class: Callable[[], nn.Module],
    like: str,
    data: ImageData,
    settings: Settings,
    name: str = "mine",
    **config_changes: object,
) -> Result:
    """Train a model of your own for two epochs, and test it on validation images.

    The test images are not used, so that choices between such models do not depend on them.

    Args:
        model_class: Returns a new model, for example its class.
        like: The name of the experiment whose augmentation and hyperparameters to use.
        data: Up to 10,000 training images are used; a tenth of all are validation images.
        settings: The settings of the notebook.
        name: The name of the run and of its model.
        config_changes: Other values for fields of `TrainConfig`.

    Returns:
        The run, saved beside the notebook's own runs.
    """
    MODELS[name] = model_class
    experiment = EXPERIMENTS[validate_choice("experiment", like, EXPERIMENTS)]
    changes = {"dropout": None, **config_changes}
    experiment = replace(
        experiment,
        name=f"{experiment.notebook}/{name}",
        model=name,
        config=replace(experiment.config, **changes),
        reference_accuracy=None,
        published="",
        find_lr=False,
        is_trial=True,
    )
    return run_experiment(
        experiment, data.train_val_split().subset(10_000), settings.for_short_run()
    )


def run_short(data: ImageData, settings: Settings, **experiments: Experiment) -> pd.DataFrame:
    """Run experiments one after the other and compare them epoch by epoch.

    Args:
        data: Training and test images, for example a validation split.
        settings: Usually from `Settings.for_exercise`.
        experiments: The experiments by the name of their column.

    Returns:
        The accuracy in % after every epoch, a column for each experiment.
    """
    columns = {}
    for name, experiment in experiments.items():
        # Experiments of one name would archive each other's checkpoints.
        experiment = replace(experiment, name=f"{experiment.notebook}/{name}", find_lr=False)
        history = run_experiment(experiment, data, settings).history
        columns[name] = pd.DataFrame(history.epochs).set_index("epoch")["test_accuracy"]
    return pd.DataFrame(columns).round(2)


def compare_configs(*names: str) -> pd.DataFrame:
    """Return the hyperparameters of experiments side by side.

    Args:
        names: Names in EXPERIMENTS, a column each.
    """
    columns = {
        name.partition("/")[2]: pd.Series(asdict(EXPERIMENTS[name].config)).map(str)
        for name in names
    }
    return pd.DataFrame(columns)


def add_seeds(name: str, number: int, settings: Settings) -> str:
    """Train further seeds of a saved run, until it has the given number, and save their accuracies.

    Their files go to `checkpoints/seeds/`. A learning rate that was found for the saved run is used
    again.

    Args:
        name: The name of the experiment.
        number: How many seeds the run is to have.
        settings: Profile and data set of the saved run.

    Returns:
        One line with the mean and all accuracies.

    Raises:
        FileNotFoundError: If there is no saved run.
        ValueError: If the saved run was trained with other hyperparameters.
    """
    settings = replace(settings, reuse=False)  # would load the saved run as its own next seed
    data = load_data(settings)
    experiment = EXPERIMENTS[validate_choice("run", name, EXPERIMENTS)]
    folder = settings.results_dir(data.key) / name
    metrics = results.read_metrics(folder)
    config = scale_to_profile(experiment.config, settings.profile, len(data.train_labels))
    if experiment.find_lr:
        config = replace(config, max_lr=metrics["max_lr"])
    experiment = replace(experiment, config=config, find_lr=False)
    _check_same_config(experiment, metrics, folder)
    for seed in range(metrics["seed"], metrics["seed"] + number):
        if seed in [entry["seed"] for entry in metrics["seeds"]]:
            continue
        output_dir = settings.output_dir / "checkpoints" / "seeds" / str(seed)
        seed_settings = replace(settings, seed=seed, output_dir=output_dir)
        trained = run_experiment(experiment, data, seed_settings).metrics
        metrics = results.read_metrics(folder)  # another process may have changed it meanwhile
        _check_same_config(experiment, metrics, folder)
        others = [entry for entry in metrics["seeds"] if entry["seed"] != seed]
        metrics |= results.seed_statistics(others + trained["seeds"])
        atomic_write(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    accuracies = ", ".join(f"{entry['test_accuracy']:.2f}" for entry in metrics["seeds"])
    return f"{name}: {metrics['test_accuracy_mean']:.2f} %, the mean of {accuracies}"


def find_saved_run(name: str, settings: Settings, file: str = "metrics.json") -> Path:
    """Return the folder of a saved full run: the user's own, or the one of the repository.

    Args:
        name: The name of the experiment.
        settings: Gives the user's folder.
        file: The file that the folder must contain.
    """
    folders = [parent / "results" / name for parent in (settings.output_dir, ROOT)]
    return next((folder for folder in folders if (folder / file).is_file()), folders[0])


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock the run directory and explain how to resume if training stops.

    Args:
        folder: The folder of the run.

    Raises:
        BlockingIOError: If another process trains the same run.
        ChildProcessError: If a process that loads images is lost.
    """
    is_main = device.distributed_state().is_main_process
    try:
        with file_lock(folder) if is_main else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        print(f"Interrupted. {RESUME_HINT}")
        raise
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # an error of the transform, for example
            raise
        raise ChildProcessError(
            "a process that loads images was stopped or killed, or memory ran out. "
            f"{RESUME_HINT} On Windows, a transform of your own must come from a .py file."
        ) from error


def experiment_fingerprint(experiment: Experiment, seed: int, data: ImageData) -> dict:
    """Return what identifies a training run. A checkpoint with another one is not continued.

    Args:
        experiment: The model, the transform and the hyperparameters.
        seed: The seed of the run.
        data: The images and labels, which are hashed.
    """
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return {
        "network": model_fingerprint(MODELS[experiment.model]),
        "run": experiment.name,
        "seed": seed,
        "transform": without_addresses(str(experiment.make_transform(data))),
        "recipe": asdict(experiment.config),
        "data": [data.title, *(sha256(array.tobytes()) for array in arrays)],
        "processes": device.distributed_state().num_processes,
    }


def _check_transform(transform: object) -> None:
    """Raise TypeError if the transform is no Compose of Albumentations."""
    if not (hasattr(transform, "transforms") and hasattr(transform, "to_dict")):
        raise TypeError(
            f"a transform must be an albumentations.Compose([...]), not {transform}; "
            "Compose([]) leaves the images as they are"
        )


def _check_serializable(experiment: Experiment, data: ImageData, settings: Settings) -> None:
    """Raise ValueError if `metrics.json` cannot hold what describes the experiment."""
    try:
        json.dumps(_describe(experiment, data, settings))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{experiment.name}: its transform or configuration cannot be saved as JSON: {error}. "
            "Use numbers, text and lists only"
        ) from error


def _check_same_config(experiment: Experiment, metrics: dict, folder: Path) -> None:
    """Raise ValueError if a saved run was trained with other hyperparameters."""
    if metrics["recipe"] != experiment.to_dict():
        raise ValueError(f"{folder} was trained by another recipe than today's: train it again")


def _describe(experiment: Experiment, data: ImageData, settings: Settings) -> dict:
    """Return what `metrics.json` says about the experiment itself."""
    config = experiment.config
    transform = experiment.make_transform(data).to_dict()["transform"]
    return {
        "notebook": experiment.notebook,
        "net": experiment.model,
        "seed": settings.seed,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "max_lr": config.max_lr,
        "lr_finder": experiment.lr_found,
        "recipe": experiment.to_dict(),
        "augmentation": describe_transform(transform),
        "channel_means": data.mean.tolist(),
    }


def describe_transform(transform: dict) -> list[list]:
    """Return what `metrics.json` says about a transform: pairs of name and options.

    Containers that always run all of their transforms are replaced by these. Others, such as OneOf
    or a Compose with p < 1, keep theirs as the option "transforms".

    Args:
        transform: The transform in the form of Albumentations' `to_dict`.
    """
    options = dict(transform)
    name = options.pop("__class_fullname__")
    if "transforms" not in options:
        return [[name, options]]
    steps = [step for inner in options["transforms"] for step in describe_transform(inner)]
    if name in ("Compose", "Sequential") and options["p"] == 1:
        return steps
    return [[name, {"p": options["p"], "transforms": steps}]]
