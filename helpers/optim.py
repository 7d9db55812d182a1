"""Training configuration, optimizers (SGD, AdamW, Muon), and the one-cycle schedule."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from helpers.config import Profile, validate_choice

OPTIMIZERS = ("SGD", "Muon", "Adam", "AdamW")


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of a training run.

    The learning rate rises linearly from `max_lr / div_factor` to `max_lr`, then falls linearly to
    the first rate divided by `final_div_factor`. It changes after every batch.

    Attributes:
        epochs: The number of epochs.
        batch_size: The number of images per step, over all processes.
        max_lr: The peak of the learning rate.
        peak_epoch: The epoch, possibly fractional, at whose end the peak is reached.
        optimizer: "SGD" (Nesterov momentum 0.9), "Muon", "Adam" or "AdamW" (betas 0.9 and 0.99).
        weight_decay: Applied to parameters with two or more dimensions. Muon's kernels are
            excluded.
        label_smoothing: The share of the target that is spread over all classes, in [0, 1).
        dropout: Overrides the model's dropout probability. None keeps it.
        whitening_init: Initialize the first convolution with whitened patches (`init`).
        dirac_init: Initialize other ungrouped convolutions with identities (`init`).
        div_factor: The peak of the learning rate, divided by the first one.
        final_div_factor: The first learning rate, divided by the last one. With 1, there is no
            annihilation: the rate never falls below the first one.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: int
    batch_size: int
    max_lr: float
    peak_epoch: float
    optimizer: str = "SGD"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float | None = None
    whitening_init: bool = False
    dirac_init: bool = False
    div_factor: float = 10.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # Neither checkpoints nor JSON can hold scalars of NumPy or tensors.
            if isinstance(value, np.generic | Tensor):
                object.__setattr__(self, name, value.item())
        validate_choice("optimizer", self.optimizer, OPTIMIZERS)
        self._require("epochs", self.epochs >= 1, "1 or more")
        self._require("batch_size", self.batch_size >= 1, "1 or more")
        self._require("max_lr", self.max_lr > 0, "more than 0")
        self._require("peak_epoch", 0 < self.peak_epoch <= self.epochs, f"in (0, {self.epochs}]")
        self._require("weight_decay", self.weight_decay >= 0, "0 or more")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        self._require("div_factor", self.div_factor >= 1, "1 or more")
        self._require("final_div_factor", self.final_div_factor >= 1, "1 or more")
        self._require("dropout", self.dropout is None or 0 <= self.dropout < 1, "None or in [0, 1)")

    def _require(self, name: str, valid: bool, expected: str) -> None:
        """Raise ValueError with the value and what was expected."""
        if not valid:
            raise ValueError(f"{name}={getattr(self, name)} is not {expected}")

    def scale_batch_size(self, batch_size: int) -> "TrainConfig":
        """Return the configuration for another batch size, with the learning rate scaled to match.

        The learning rate grows linearly with the batch (P. Goyal et al., arXiv:1706.02677), with
        Adam and AdamW by the square root (S. Malladi et al., arXiv:2205.10287).

        Args:
            batch_size: The new batch size.
        """
        factor = batch_size / self.batch_size
        if self.optimizer in ("Adam", "AdamW"):
            factor = factor**0.5
        return replace(self, batch_size=batch_size, max_lr=self.max_lr * factor)


def scale_to_profile(config: TrainConfig, profile: Profile, train_images: int) -> TrainConfig:
    """Return the configuration with the profile's epochs and at least 16 steps per epoch.

    The peak keeps its relative position. A smaller batch gets a smaller learning rate.

    Args:
        config: The configuration of a full run.
        profile: Limits the number of epochs.
        train_images: The number of training images.
    """
    epochs = min(config.epochs, profile.epochs or config.epochs)
    peak_epoch = config.peak_epoch / config.epochs * epochs
    config = replace(config, epochs=epochs, peak_epoch=peak_epoch)
    # A power of two, so that 2, 4 or 8 processes can share a batch.
    largest_batch = 2 ** int(np.log2(max(1, train_images // 16)))
    return config.scale_batch_size(min(config.batch_size, largest_batch))


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer. Biases and normalization layers get no weight decay.

    Args:
        model: The model whose parameters to optimize.
        config: Names the optimizer, its learning rate and weight decay.
    """
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    options = {"lr": config.max_lr, "weight_decay": config.weight_decay}
    if config.optimizer in ("Adam", "AdamW"):
        adam = torch.optim.AdamW if config.optimizer == "AdamW" else torch.optim.Adam
        return adam(groups, betas=(0.9, 0.99), **options)
    optimizer_class = Muon if config.optimizer == "Muon" else torch.optim.SGD
    return optimizer_class(groups, momentum=0.9, nesterov=True, **options)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, batches: int
) -> OneCycleLR:
    """Build the one-cycle schedule (L. N. Smith, arXiv:1708.07120). Step it after every batch.

    Args:
        optimizer: The optimizer whose learning rate changes.
        config: Gives the epochs, the peak and its epoch.
        batches: The number of batches per epoch.
    """
    total_steps = config.epochs * batches
    peak_step = config.peak_epoch * batches
    div_factor = config.div_factor
    total_div_factor = config.div_factor * config.final_div_factor  # of the last rate
    # Without a step to rise in, OneCycleLR would divide by zero: start at the peak.
    if peak_step <= 1:
        total_steps = max(total_steps, 2)
        peak_step = 1 + 1e-6
        div_factor = 1
    return OneCycleLR(
        optimizer,
        config.max_lr,
        total_steps=total_steps,
        pct_start=peak_step / total_steps,
        div_factor=div_factor,
        final_div_factor=total_div_factor / div_factor,
        anneal_strategy="linear",
        cycle_momentum=False,  # would cycle Adam's beta1 too
    )


# Muon: K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon, with its coefficients.
# torch.optim.Muon accepts matrices only, not the kernels of convolutions.
NEWTON_SCHULZ_COEFFICIENTS = 3.4445, -4.7750, 2.0315
NEWTON_SCHULZ_ITERATIONS = 5
NUM_CLASSES = 10
LR_SCALE = 0.25  # makes a learning rate that suits SGD suit Muon too


class Muon(torch.optim.SGD):
    """SGD whose updates of convolution kernels are orthogonalized.

    The momentum-averaged gradient of a kernel (out, in, ...), taken as a matrix of `out` rows, is
    replaced with its orthogonalized form (`newton_schulz`). The norm of the update is
    `LR_SCALE * lr * ||W||`. W is then rescaled to its previous norm, which has no effect before a
    normalization layer. Weight decay does not apply to these kernels.

    SGD updates all other parameters: those of fewer than two dimensions, depthwise kernels with
    their one input channel, and the classifier, recognized by its ten rows.

    Args: as those of `torch.optim.SGD`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters. Orthogonalized kernels have no gradient afterwards.

        Args:
            closure: Computes the loss and its gradients again.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None or kernel.ndim < 2:
                    continue
                if kernel.shape[1] == 1 or len(kernel) == NUM_CLASSES:
                    continue
                self._update_kernel(kernel, group["lr"], group["momentum"])
                kernel.grad = None  # tells SGD to skip it
        super().step()
        return loss

    def _update_kernel(self, kernel: Tensor, lr: float, momentum: float) -> None:
        """Update one kernel in place."""
        state = self.state[kernel]
        average = state.setdefault("momentum_buffer", torch.zeros_like(kernel))
        average.lerp_(kernel.grad, 1 - momentum)
        nesterov_grad = kernel.grad.lerp(average, momentum)
        update = normalize(newton_schulz(nesterov_grad.flatten(1))).view_as(kernel)
        norm = kernel.norm().clamp(min=1e-3)  # a kernel of zeros must learn too
        kernel.copy_(norm * normalize(kernel / norm - LR_SCALE * lr * update))


def normalize(tensor: Tensor) -> Tensor:
    """Return the tensor divided by its Frobenius norm.

    Args:
        tensor: Any shape.
    """
    return tensor / tensor.norm().clamp(min=1e-7)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return approximately the nearest matrix with orthonormal rows, or columns if it is tall.

    Args:
        matrix: (rows, columns).

    Returns:
        A matrix of the same shape, with all singular values near 1.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = normalize(matrix.T if is_tall else matrix)
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if is_tall else wide
