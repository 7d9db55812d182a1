"""How networks are trained: recipes, and the optimizer, schedule and average they ask for."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
