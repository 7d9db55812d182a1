"""How networks are trained: recipes, and the optimizer and schedule they ask for."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from helpers.settings import Profile, one_of
from helpers.training.muon import Muon


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The learning rate goes up linearly from a tenth of `max_lr` to `max_lr` at `peak_epoch`, then
    down linearly to nothing, a step a batch. `optimizer` is "SGD" (Nesterov momentum .9), "Muon"
    (that, with the steps of kernels made orthogonal) or "AdamW" (betas .9 and .99);
    `weight_decay` is for weights of two or more dimensions, but not for Muon's kernels;
    `dropout` takes the place of the network's own probability, unless None; `whitened` and
    `identity` choose the weights to start from (`training.initialisation`).
    """

    epochs: int
    batch_size: int
    max_lr: float
    peak_epoch: float
    optimizer: str = "SGD"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float | None = None
    whitened: bool = False
    identity: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # which neither checkpoints nor JSON can hold
                object.__setattr__(self, name, value.item())
        if not 0 < self.peak_epoch <= self.epochs:
            raise ValueError(f"peak_epoch={self.peak_epoch} is not within epochs={self.epochs}")

    def with_batch_size(self, batch_size: int) -> "Recipe":
        """The recipe for batches k times as large: k times the rate, with AdamW its root of k.

        P. Goyal et al., arXiv:1706.02677; S. Malladi et al., arXiv:2205.10287.
        """
        factor = (batch_size / self.batch_size) ** (0.5 if self.optimizer == "AdamW" else 1)
        return replace(self, batch_size=batch_size, max_lr=self.max_lr * factor)


def shortened(recipe: Recipe, profile: Profile, train_images: int) -> Recipe:
    """The recipe cut to the profile's epochs, with 16 steps an epoch or more.

    The peak keeps its place in the cycle, and the learning rate shrinks with the batch.
    """
    epochs = min(recipe.epochs, profile.epochs or recipe.epochs)
    peak_epoch = recipe.peak_epoch / recipe.epochs * epochs
    recipe = replace(recipe, epochs=epochs, peak_epoch=peak_epoch)
    most = 2 ** int(np.log2(max(1, train_images // 16)))  # which 8 processes can share
    return recipe.with_batch_size(min(recipe.batch_size, most))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; ValueError where it names one that is not known."""
    momentum = {"momentum": 0.9, "nesterov": True}
    known = {
        "SGD": partial(torch.optim.SGD, **momentum), "Muon": partial(Muon, **momentum),
        "AdamW": partial(torch.optim.AdamW, betas=(0.9, 0.99)),
    }  # fmt: skip
    make = known[one_of("optimizer", recipe.optimizer, known)]
    weights, rest = ([p for p in model.parameters() if (p.ndim > 1) is w] for w in (True, False))
    groups = [{"params": weights}, {"params": rest, "weight_decay": 0.0}]
    return make(groups, lr=recipe.max_lr, weight_decay=recipe.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, batches: int) -> OneCycleLR:
    """The recipe's one-cycle schedule, to be stepped once a batch, `batches` times an epoch."""
    return OneCycleLR(
        optimizer, recipe.max_lr, total_steps=recipe.epochs * batches,
        pct_start=recipe.peak_epoch / recipe.epochs, div_factor=10, final_div_factor=1e4,
        anneal_strategy="linear", cycle_momentum=False,  # it would cycle Adam's beta1 too
    )  # fmt: skip
