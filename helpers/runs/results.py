"""What a run leaves behind: weights, the figures measured from them, tables and plots."""

import contextlib
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import torch as safetensors
from torch import nn

from helpers import devices
from helpers.anatomy import receptive_field, requirements, summary
from helpers.anatomy.receptive_field import shown
from helpers.evaluation import class_accuracy, predict, test_accuracy
from helpers.files import digest, line, reading, write
from helpers.images.data import ImageData
from helpers.models import MODELS, build
from helpers.settings import one_of
from helpers.training.loop import History, epoch_line
from tracing.layers import layers


@dataclass
class Result:
    """A finished run: the network with the weights that are kept, in float32, and its figures.

    `metrics` is the content of `metrics.json`, `folder` where it lies with everything else,
    `logits` (N, 10) what the network says of the test images.
    """

    folder: Path
    model: nn.Module
    history: History
    metrics: dict
    logits: np.ndarray
    title: str  # the network and the data, for figures


def measure(model: nn.Module, data: ImageData, tta: bool = True) -> tuple[dict, np.ndarray]:
    """What can be measured of a network at any time, and its logits for the test images.

    Accuracies are in %; `tta` adds the one with each mirror image's logits averaged in.
    """
    logits = predict(model, data, data.test_images).cpu().numpy()
    fields = attempted("receptive field", lambda: receptive_field.receptive_field(layers(model)))
    names = ("before_pooling", "including_pooling")
    measured = {
        "params": summary.parameter_count(model),
        "mult_adds": attempted("number of multiply-adds", lambda: summary.mult_adds(model)),
        "receptive_field": dict(zip(names, map(shown, fields), strict=True)) if fields else {},
        "test_images": len(data.test_labels),
        "test_accuracy": test_accuracy(logits, data),
        "class_accuracy": class_accuracy(logits, data),
    }
    if tta:
        mirrored = np.ascontiguousarray(data.test_images[:, :, ::-1])
        both = logits + predict(model, data, mirrored).cpu().numpy()
        measured["test_accuracy_flip_tta"] = test_accuracy(both, data)
    return measured, logits


def described(model: nn.Module) -> dict[str, str]:
    """The tables of a network, by the names of their files; one that fails is said and left out."""
    tables = {
        "summary.txt": lambda: summary.layer_table(model),
        "receptive_field.csv": lambda: receptive_field.table(layers(model)).to_csv(),
    }
    made = {name: attempted(name, make) for name, make in tables.items()}
    return {name: table for name, table in made.items() if table is not None}


def attempted(what: str, make: Callable) -> Any:
    """What `make` gives, or None and a line that says why not: no network is lost for a table."""
    try:
        return make()
    except Exception as error:  # libraries fail in many ways on networks that they do not know
        print(f"This network has no {what}: {line(error)}")
        return None


def over_seeds(accuracies: list[dict]) -> dict:
    """What the weights of each seed reach, and the mean and standard deviation of that in %."""
    tests = [of_seed["test_accuracy"] for of_seed in accuracies]
    mean = float(np.mean(tests))
    deviation = float(np.std(tests, ddof=1)) if len(tests) > 1 else None
    return {"seeds": accuracies, "test_accuracy_mean": mean, "test_accuracy_std": deviation}


def further_seeds(folder: Path, weights_sha256: str, trained: list[int]) -> list[dict]:
    """What other seeds than those `trained` reached, where the folder keeps the same weights."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # nothing is kept, or it is damaged
        metrics = metrics_of(folder)
        same = metrics["weights_sha256"] == weights_sha256
        return [each for each in metrics["seeds"] if same and each["seed"] not in trained]
    return []


def circumstances(history: History, data: ImageData, accelerator: Accelerator) -> dict:
    """What a run was trained on, how long, and where."""
    rows, rates = pd.DataFrame(history.rows), history.learning_rates
    place = {"device_type": accelerator.device.type, "processes": accelerator.num_processes}
    place |= history.trained_on[-1]  # says where the last epoch was trained, perhaps elsewhere
    versions = {name: place.pop(name) for name in devices.versions()}
    return {
        "dataset": data.title, "train_images": len(data.train_labels),
        "train_accuracy": float(rows["train_accuracy"].iloc[-1]),
        "wall_seconds": float(rows["seconds"].sum()),
        "images_per_second": float(rows["images_per_second"].median()),
        "date": datetime.date.today().isoformat(), "versions": versions, **place,
        "trained_on": history.trained_on,
        "steps": len(rates), "peak_epoch": (rates.index(max(rates)) + 1) * len(rows) / len(rates),
    }  # fmt: skip


def judged(model: nn.Module, metrics: dict) -> list[dict]:
    """Every demand of the metrics' notebook: demand, measured, passed."""
    notebook = metrics["notebook"]
    network = attempted("demands", lambda: requirements.of_network(notebook, model))
    return pd.concat([network, requirements.of_run(notebook, metrics)]).to_dict("records")


def weight_bytes(model: nn.Module) -> bytes:
    """The weights as a safetensors file: convolutions and linear layers in fp16, the rest fp32."""
    weights = {}
    for name, values in model.state_dict().items():
        owner = model.get_submodule(name.rpartition(".")[0])
        half = isinstance(owner, nn.Conv2d | nn.Linear) and values.is_floating_point()
        # A copy each, as safetensors refuses weights that are used under two names.
        kept = {"copy": True, "memory_format": torch.contiguous_format}
        weights[name] = values.to("cpu", torch.half if half else values.dtype, **kept)
    return safetensors.save(weights)


def with_weights(net: str, weights: bytes, device: torch.device) -> nn.Module:
    """The network with stored weights, on the device, in float32 and evaluation mode.

    Raises RuntimeError where they are another network's, SafetensorError where they are damaged.
    """
    model = build(net)
    model.load_state_dict(safetensors.load(weights))
    return devices.placed(model, device).eval()


def save(result: Result) -> None:
    """Write all files of a run into its folder; `metrics.json`, which speaks for them, last."""
    folder, metrics, rows = result.folder, result.metrics, result.history.rows
    rates = pd.Series(result.history.learning_rates, name="learning_rate")
    weights = weight_bytes(result.model)
    metrics["weights_sha256"] = digest(weights)
    write(folder / "model.safetensors", weights)
    write(folder / "history.csv", pd.DataFrame(rows).to_csv(index=False))
    write(folder / "learning_rate.csv", rates.to_csv(index_label="step"))
    write(folder / "log.txt", "".join(f"{epoch_line(row, len(rows))}\n" for row in rows))
    for name, table in described(result.model).items():
        write(folder / name, table)
    write(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def metrics_of(folder: Path) -> dict:
    """What a run's `metrics.json` says; ValueError where that is damaged."""
    with reading(folder / "metrics.json"):
        return {**json.loads((folder / "metrics.json").read_text())}


def weights_of(folder: Path, metrics: dict) -> bytes:
    """The weights that a run kept; ValueError where they are not those that were measured."""
    file = folder / "model.safetensors"
    weights = file.read_bytes()
    if digest(weights) != metrics.get("weights_sha256"):
        raise ValueError(f"{file} is not the file that metrics.json is about: train the run again")
    return weights


def load(folder: Path, data: ImageData) -> Result:
    """A run that was trained earlier; prints where and when it was.

    Raises FileNotFoundError where the folder does not hold a whole run, ValueError where the run
    is of other data or damaged.
    """
    files = ("metrics.json", "history.csv", "learning_rate.csv", "model.safetensors")
    if missing := [name for name in files if not (folder / name).is_file()]:
        names = ", ".join(missing)
        raise FileNotFoundError(f"REUSE=1: {folder} has no {names}: train it first, with REUSE=0")
    metrics = metrics_of(folder)
    if (dataset := metrics.get("dataset")) != data.title:
        trained = f"REUSE=1: {folder} was trained on {dataset}"
        raise ValueError(f"{trained}; the data here is {data.title}: take that, or REUSE=0")
    one_of("network", metrics.get("net"), MODELS)
    weights = weights_of(folder, metrics)
    with reading(folder):
        tables = [pd.read_csv(folder / name) for name in files[1:3]]
        rows, rates = tables[0].to_dict("records"), tables[1]["learning_rate"].to_list()
        history = History(rows, rates, metrics.get("trained_on", []))
        trained = "trained on {date} by {device} in {precision}, {wall_seconds:.0f} s, seed {seed}"
        print(f"REUSE=1: {trained.format(**metrics)}")
        print((folder / "log.txt").read_text(), end="")
        model = with_weights(metrics["net"], weights, devices.processes().device)
    logits = predict(model, data, data.test_images).cpu().numpy()
    return Result(folder, model, history, metrics, logits, f"{metrics['net']} on {data.title}")
