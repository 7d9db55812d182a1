"""The training loop, with the optimizer and the schedule that a recipe asks for."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from helpers import devices
from helpers.checkpoints import Checkpoints
from helpers.data import BatchSampler, ImageData, train_loader
from helpers.evaluation import predict


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The learning rate goes up linearly from a tenth of `max_lr` to `max_lr` at `peak_epoch`, then
    down linearly to nothing, a step a batch. `optimizer` is "SGD" (Nesterov momentum .9), "Adam"
    or "AdamW"; `weight_decay` is for convolutions and linear layers only; `averaging` is the decay
    per step of a running average of the weights, 0 for none; `dropout` takes the place of the
    network's own probability, unless None; `whitened` and `identity` choose the weights to start
    from (`helpers.initialisation`).
    """

    epochs: int
    batch_size: int
    max_lr: float
    peak_epoch: float
    optimizer: str = "SGD"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    averaging: float = 0.0
    dropout: float | None = None
    whitened: bool = False
    identity: bool = False


@dataclass
class History:
    """What was measured while training: a row an epoch, and the learning rate of every step.

    Losses are plain cross-entropy, accuracies in %: those of training gathered while the weights
    change, on augmented images; those of test with the weights that would be saved.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)


def line(row: dict[str, float], epochs: int) -> str:
    """An epoch's row as a line of text."""
    return (
        f"epoch {row['epoch']:>2}/{epochs}  lr {row['learning_rate']:.5f}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:5.2f} %  "
        f"test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:5.2f} %  "
        f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.0f} s"
    )


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; ValueError where it names one that is not known."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    common = {"lr": recipe.max_lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "SGD":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, **common)
    if recipe.optimizer in ("Adam", "AdamW"):
        return getattr(torch.optim, recipe.optimizer)(groups, **common)
    raise ValueError(f"optimizer {recipe.optimizer!r} is unknown; it is SGD, Adam or AdamW")


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, batches: int) -> OneCycleLR:
    """The recipe's one-cycle schedule, to be stepped once a batch, `batches` times an epoch."""
    return OneCycleLR(
        optimizer,
        recipe.max_lr,
        total_steps=recipe.epochs * batches,
        pct_start=recipe.peak_epoch / recipe.epochs,
        anneal_strategy="linear",
        cycle_momentum=False,  # it would cycle Adam's beta1 too
        div_factor=10,
        final_div_factor=1e4,
    )


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of weights and buffers, whose memory grows to that of `decay` a step."""

    def average(averaged: list, current: list, steps: torch.Tensor) -> None:
        now = min(decay, (1 + int(steps)) / (10 + int(steps)))  # forgets the start in short runs
        get_ema_multi_avg_fn(now)(averaged, current, steps)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def set_seed(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and torch from (seed, epoch), as at the start of every epoch."""
    value = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def fit(
    model: nn.Module,
    data: ImageData,
    transform: Callable | None,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    accelerator: Accelerator | None = None,
    workers: int = 0,
) -> History:
    """Train the network in place, up to the last epoch's weights (averaged, if the recipe says).

    Each epoch prints a line and leaves a checkpoint; what is there already is continued. Order,
    augmentation and dropout follow from (seed, epoch), whatever came before. `transform` augments
    uint8 images or is None; `accelerator` stands for device, precision and processes, by default
    the best of this machine; `workers` processes load, 0 loads between the steps.

    Raises FloatingPointError where training diverges, ValueError for an unknown optimizer.
    """
    accelerator = accelerator or devices.accelerator()
    rank, processes = accelerator.process_index, accelerator.num_processes
    sampler = BatchSampler(len(data.train_labels), recipe.batch_size, seed, rank, processes)
    loader = train_loader(data, transform, sampler, workers)
    network = model.to(accelerator.device, memory_format=torch.channels_last)
    averaged = make_average(network, recipe.averaging) if recipe.averaging else None
    optimizer = make_optimizer(network, recipe)
    schedule = make_schedule(optimizer, recipe, len(loader))
    model, optimizer = accelerator.prepare(network, optimizer)
    parts = {"model": network, "optimizer": optimizer, "schedule": schedule}
    parts |= {"averaged": averaged} if averaged else {}
    parts |= {"scaler": accelerator.scaler} if accelerator.scaler else {}
    history = _continue(checkpoints, parts)
    if history.rows:
        accelerator.print(f"Continuing after epoch {len(history.rows)} of {recipe.epochs}")

    for epoch in range(len(history.rows) + 1, recipe.epochs + 1):
        set_seed(seed, epoch)
        sampler.epoch = epoch
        started = time.perf_counter()
        model.train()
        totals = torch.zeros(3, device=accelerator.device)  # loss, correct, images
        for images, labels in tqdm(loader, f"epoch {epoch}", leave=False, disable=None):
            images = data.normalise(images.to(accelerator.device, non_blocking=True))
            labels = labels.to(accelerator.device, non_blocking=True)
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            history.learning_rates.append(schedule.get_last_lr()[0])
            if len(history.learning_rates) < schedule.total_steps:
                # Once a batch, always: Accelerate's own would skip a step where loss scaling did.
                schedule.step()
            if averaged:
                averaged.update_parameters(network)
            totals += _sums(logits.detach(), labels)
        train_loss, train_accuracy, seen = _means(totals, accelerator)
        trained = time.perf_counter()
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"the training loss is {train_loss} in epoch {epoch}: training has diverged; "
                f"try a learning rate below {recipe.max_lr}"
            )
        totals = _test(averaged.module if averaged else network, data, accelerator)
        test_loss, test_accuracy, _ = _means(totals, accelerator)
        row = {
            "epoch": epoch,
            "learning_rate": history.learning_rates[-1],
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "images_per_second": seen / (trained - started),
            "seconds": time.perf_counter() - started,
        }
        history.rows.append(row)
        accelerator.print(line(row, recipe.epochs), flush=True)
        if checkpoints and accelerator.is_main_process:
            states = {name: part.state_dict() for name, part in parts.items()}
            checkpoints.save(epoch, {**states, "history": vars(history)})

    for wrapper in ("forward", "_original_forward"):  # mixed precision's, put on by Accelerate
        vars(network).pop(wrapper, None)
    if averaged:
        network.load_state_dict(averaged.module.state_dict())
    return history


def _continue(checkpoints: Checkpoints | None, parts: dict[str, Any]) -> History:
    state = checkpoints.load() if checkpoints else None
    if state is None:
        return History()
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return History(**state["history"])


def _test(network: nn.Module, data: ImageData, accelerator: Accelerator) -> torch.Tensor:
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    with accelerator.autocast():
        logits = predict(network, data, data.test_images[mine])
    return _sums(logits, torch.from_numpy(data.test_labels[mine]).to(logits.device))


def _means(totals: torch.Tensor, accelerator: Accelerator) -> tuple[float, float, float]:
    loss, correct, images = accelerator.reduce(totals).tolist()
    return loss / images, 100 * correct / images, images


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss, correct.float(), torch.full_like(loss, len(labels))])
