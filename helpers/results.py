"""The files of a run: weights, metrics, tables, logs. Save, load, summarize and compare them."""

import contextlib
import datetime
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import torch as safetensors
from torch import nn

from helpers import device, inspection
from helpers.config import validate_choice
from helpers.data import ImageData
from helpers.files import atomic_write, corruption_guard, sha256, try_or_none
from helpers.models import MODELS, get_model
from helpers.training import History, format_epoch

LOGITS_FILE = "test_logits.npy"
RESULT_FILES = (
    "metrics.json",
    "history.csv",
    "learning_rate.csv",
    "model.safetensors",
    LOGITS_FILE,
)


@dataclass
class Result:
    """A finished run.

    Attributes:
        folder: The folder of the run's files.
        model: The model with the saved weights, in float32 and evaluation mode.
        history: What was measured during training.
        metrics: The content of `metrics.json`.
        logits: (N, 10) of the test images. Of a loaded run, the largest of each image is 0.
        title: The names of the model and the data, for figures.
    """

    folder: Path
    model: nn.Module
    history: History
    metrics: dict
    logits: np.ndarray
    title: str


def model_tables(model: nn.Module) -> dict[str, str]:
    """Return the layer table and the receptive field table by the names of their files.

    A table that cannot be made is left out, and the reason is printed.

    Args:
        model: The model.
    """
    tables = {
        "summary.txt": try_or_none("summary.txt", lambda: inspection.torchsummary_text(model)),
        "receptive_field.csv": try_or_none(
            "receptive_field.csv", lambda: inspection.receptive_field_table(model).to_csv()
        ),
    }
    return {name: table for name, table in tables.items() if table is not None}


def seed_statistics(seeds: list[dict]) -> dict:
    """Return the entries of `metrics.json` about several seeds.

    Args:
        seeds: For each seed, "seed", "test_accuracy" in % and more.

    Returns:
        "seeds", "test_accuracy_mean", and "test_accuracy_std", which is None for one seed.
    """
    accuracies = [seed["test_accuracy"] for seed in seeds]
    return {
        "seeds": seeds,
        "test_accuracy_mean": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else None,
    }


def earlier_seeds(folder: Path, weights_sha256: str, trained: list[int]) -> list[dict]:
    """Return the saved entries of other seeds, if the folder holds the same weights.

    Args:
        folder: The folder of the run.
        weights_sha256: The checksum of the weights that are about to be saved.
        trained: The seeds that were just trained.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):  # nothing is saved, or it is damaged
        metrics = read_metrics(folder)
        if metrics["weights_sha256"] == weights_sha256:
            return [seed for seed in metrics["seeds"] if seed["seed"] not in trained]
    return []


def run_metadata(history: History, data: ImageData) -> dict:
    """Return the entries of `metrics.json` about the data, the time, the device and the schedule.

    Args:
        history: What was measured during training.
        data: The data that the run was trained on.
    """
    epochs = pd.DataFrame(history.epochs)
    environment = dict(history.environments[-1])  # of the last epoch
    versions = {name: environment.pop(name) for name in device.library_versions()}
    peak_step = history.lrs.index(max(history.lrs)) + 1
    return {
        "dataset": data.title,
        "train_images": len(data.train_labels),
        "train_accuracy": float(epochs["train_accuracy"].iloc[-1]),
        "wall_seconds": float(epochs["seconds"].sum()),
        "images_per_second": float(epochs["images_per_second"].median()),
        "date": datetime.date.today().isoformat(),
        "versions": versions,
        **environment,
        "trained_on": history.environments,
        "steps": len(history.lrs),
        "first_lr": history.lrs[0],
        "last_lr": history.lrs[-1],
        "peak_epoch": peak_step * len(epochs) / len(history.lrs),
    }


def serialize_weights(model: nn.Module) -> bytes:
    """Return the weights as a safetensors file.

    Convolutions and linear layers are stored in float16, everything else in its own type.

    Args:
        model: The model.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        module = model.get_submodule(name.rpartition(".")[0])
        is_half = isinstance(module, nn.Conv2d | nn.Linear) and tensor.is_floating_point()
        # Copied because safetensors refuses a tensor that has two names.
        weights[name] = tensor.to(
            "cpu",
            torch.half if is_half else tensor.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
    return safetensors.save(weights)


def serialize_logits(logits: np.ndarray) -> bytes:
    """Return logits as an .npy file in float16.

    The largest logit of each image is subtracted from all ten. That changes no prediction and no
    probability, and float16 is most precise near 0, so that the largest logit stays the largest.

    Args:
        logits: (N, 10).

    Raises:
        FloatingPointError: If a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise FloatingPointError("the model returns logits that are not finite: it is not saved")
    buffer = io.BytesIO()
    np.save(buffer, (logits - logits.max(axis=1, keepdims=True)).astype(np.float16))
    return buffer.getvalue()


def load_model(model_name: str, weights: bytes, target: torch.device) -> nn.Module:
    """Return a model with stored weights, in float32 and evaluation mode.

    Args:
        model_name: A name in `models.MODELS`.
        weights: The content of a safetensors file.
        target: The device.

    Raises:
        RuntimeError: If the weights belong to another model.
        SafetensorError: If the weights are damaged.
    """
    model = get_model(model_name)
    model.load_state_dict(safetensors.load(weights))
    return device.prepare_model(model, target).eval()


def save_result(result: Result) -> None:
    """Write all files of a run into its folder.

    `metrics.json`, which holds the checksums of the weights and logits, is written last.

    Args:
        result: The run.
    """
    folder = result.folder
    epochs = result.history.epochs
    weights = serialize_weights(result.model)
    logits = serialize_logits(result.logits)
    result.metrics["weights_sha256"] = sha256(weights)
    result.metrics["test_logits_sha256"] = sha256(logits)
    lrs = pd.Series(result.history.lrs, name="learning_rate")
    atomic_write(folder / "model.safetensors", weights)
    atomic_write(folder / LOGITS_FILE, logits)
    atomic_write(folder / "history.csv", pd.DataFrame(epochs).to_csv(index=False))
    atomic_write(folder / "learning_rate.csv", lrs.to_csv(index_label="step"))
    atomic_write(folder / "log.txt", format_log(result.history))
    for name, table in model_tables(result.model).items():
        atomic_write(folder / name, table)
    atomic_write(folder / "metrics.json", json.dumps(result.metrics, indent=1) + "\n")


def format_log(history: History) -> str:
    """Return a line for each epoch.

    Args:
        history: What was measured during training.
    """
    epochs = history.epochs
    return "".join(f"{format_epoch(row, len(epochs))}\n" for row in epochs)


def format_short_log(history: History) -> str:
    """Return the log. Of more than twenty epochs, only the first, every tenth and the last.

    Args:
        history: What was measured during training.
    """
    lines = format_log(history).splitlines(keepends=True)
    if len(lines) > 20:
        last = len(lines)
        lines = [lines[n - 1] for n in range(1, last + 1) if n in (1, last) or n % 10 == 0]
    return "".join(lines)


def read_metrics(folder: Path) -> dict:
    """Return the content of a run's `metrics.json`.

    Args:
        folder: The folder of the run.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If the file is damaged.
    """
    file = folder / "metrics.json"
    with corruption_guard(file):
        return {**json.loads(file.read_text())}


def read_weights(folder: Path, metrics: dict) -> bytes:
    """Return the saved weights of a run.

    Args:
        folder: The folder of the run.
        metrics: The content of its `metrics.json`, with the checksum.

    Raises:
        ValueError: If the weights do not match the checksum.
    """
    return _read_checked(folder / "model.safetensors", metrics.get("weights_sha256"))


def read_logits(folder: Path, metrics: dict) -> np.ndarray:
    """Return the saved logits of a run, float32 (N, 10). The largest of each image is 0.

    Args:
        folder: The folder of the run.
        metrics: The content of its `metrics.json`, with the checksum.

    Raises:
        ValueError: If the logits do not match the checksum.
    """
    content = _read_checked(folder / LOGITS_FILE, metrics.get("test_logits_sha256"))
    return np.load(io.BytesIO(content)).astype(np.float32)


def _read_checked(file: Path, checksum: str | None) -> bytes:
    """Return the content of a file whose SHA-256 is known."""
    content = file.read_bytes()
    if sha256(content) != checksum:
        raise ValueError(f"{file} does not match the checksum in metrics.json: train the run again")
    return content


def load_result(folder: Path, data: ImageData) -> Result:
    """Load a run that was trained earlier, with its logits for the test images at hand.

    Nothing is evaluated.

    Args:
        folder: The folder of the run.
        data: The data. Its test images must be those of the run or, for a run on all of CIFAR-10,
            some of them.

    Raises:
        FileNotFoundError: If the folder does not contain a complete run.
        ValueError: If the run was tested on other images or is damaged.
    """
    missing = [name for name in RESULT_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}: train it first, with REUSE=0"
        )
    metrics = read_metrics(folder)
    model_name = validate_choice("network", metrics.get("net"), MODELS)
    weights = read_weights(folder, metrics)
    logits = read_logits(folder, metrics)
    if metrics.get("dataset") == "CIFAR-10" and data.test_indices is not None:
        logits = logits[data.test_indices]
    elif metrics.get("dataset") != data.title:
        raise ValueError(
            f"{folder} was tested on {metrics.get('dataset')}; "
            f"the data here is {data.title}: use that data, or REUSE=0"
        )
    with corruption_guard(folder):
        history = History(
            epochs=pd.read_csv(folder / "history.csv").to_dict("records"),
            lrs=pd.read_csv(folder / "learning_rate.csv")["learning_rate"].to_list(),
            environments=metrics.get("trained_on", []),
        )
        if len(history.epochs) != metrics["epochs"]:
            raise ValueError(
                f"history.csv has {len(history.epochs)} epochs, expected {metrics['epochs']}"
            )
        model = load_model(model_name, weights, device.distributed_state().device)
    return Result(folder, model, history, metrics, logits, f"{model_name} on {data.title}")


def format_accuracy(metrics: dict) -> str:
    """Return the mean test accuracy of a run and the standard deviation of its seeds as text.

    Args:
        metrics: The content of `metrics.json`.
    """
    accuracy = f"{metrics['test_accuracy_mean']:.2f}"
    if len(metrics["seeds"]) > 1:
        accuracy += f" ± {metrics['test_accuracy_std']:.2f}"
    return f"{accuracy} %"


def summarize(result: Result) -> str:
    """Return the accuracy, the published accuracy, the best epoch and the time of a run as text.

    Args:
        result: The run.
    """
    metrics = result.metrics
    test_accuracies = [row["test_accuracy"] for row in result.history.epochs]
    lines = [
        f"{metrics['net']}: {format_accuracy(metrics)} of {metrics['test_images']:,} test images "
        "right",
        f"  seeds trained: {len(metrics['seeds'])}; the one saved here, {metrics['seed']}: "
        f"{metrics['test_accuracy']:.2f} %",
        f"  with the mirror image's logits averaged in: {metrics['test_accuracy_flip_tta']:.2f} %",
    ]
    if metrics["published_test_accuracy"]:
        lines.append(f"  published: {metrics['published_test_accuracy']} %")
    lines += [
        f"  best epoch in the log: {np.argmax(test_accuracies) + 1} of {metrics['epochs']}",
        f"  {metrics['wall_seconds'] / 60:.1f} minutes on {metrics['device']}, "
        f"{metrics['precision']}",
    ]
    return "\n".join(lines)


def compare_results(*results: Result) -> pd.DataFrame:
    """Return a table of sizes, numbers of images, epochs and accuracies.

    Args:
        results: The runs, one row each.
    """
    columns = {
        "params": "parameters",
        "mult_adds": "multiply-adds",
        "train_images": "trained on",
        "epochs": "epochs",
        "test_images": "tested on",
        "test_accuracy": "accuracy (%)",
    }
    rows = {}
    for result in results:
        metrics = {**result.metrics, "test_accuracy": round(result.metrics["test_accuracy"], 2)}
        rows[metrics["net"]] = [
            "-" if metrics[key] is None else f"{metrics[key]:,}" for key in columns
        ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*columns.values()]).rename_axis(
        "net"
    )
