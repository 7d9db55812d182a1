"""Learning rate finder: a range test, then short runs around what it suggests."""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from accelerate import utils

from helpers import device
from helpers.checkpoints import CheckpointManager
from helpers.config import Profile
from helpers.data import ImageData
from helpers.loaders import SeededBatchSampler, make_train_loader
from helpers.optim import TrainConfig, build_optimizer, scale_to_profile
from helpers.training import fit

SHORT_RUN = Profile("short", epochs=4)


def lr_range_test(
    model: torch.nn.Module,
    data: ImageData,
    transform: Callable | None,
    config: TrainConfig,
    seed: int = 0,
    steps: int = 100,
) -> pd.DataFrame:
    """Train for some steps at learning rates that grow from 1e-5 to 1, with torch-lr-finder.

    Source: L. N. Smith, arXiv:1506.01186. A copy of the model is trained with the configuration's
    optimizer, batches and loss. The model and the random state stay as they were.

    Args:
        model: The model with its initial weights.
        data: The training images.
        transform: Augments uint8 images, or None.
        config: Optimizer, batch size and label smoothing.
        seed: Seeds the order of the images, augmentation and dropout.
        steps: The number of steps, limited to those of a whole run.

    Returns:
        One row per step: learning_rate, loss (smoothed by the library).
    """
    accelerator = device.create_accelerator()
    target = accelerator.device
    model = device.prepare_model(copy.deepcopy(model), target)
    model = accelerator.prepare_model(model, evaluation_mode=True)  # without DDP
    model.register_forward_pre_hook(
        lambda _, inputs: device.match_memory_format(data.normalize(*inputs), model)
    )
    optimizer = build_optimizer(model, config)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    scaler = accelerator.scaler or torch.amp.GradScaler(target.type, enabled=False)
    sampler = SeededBatchSampler(len(data.train_labels), config.batch_size, seed)
    loader = make_train_loader(data, transform, sampler, device.num_workers())
    with (
        torch.random.fork_rng([target] if target.type == "cuda" else []),
        contextlib.redirect_stdout(io.StringIO()),
        # The library warns of missing widgets and of steps that loss scaling skips.
        warnings.catch_warnings(action="ignore"),
    ):
        from torch_lr_finder import lr_finder

        lr_finder.tqdm = iter  # its progress bar would be a widget in Colab
        finder = lr_finder.LRFinder(
            model,
            optimizer,
            criterion,
            target,
            amp_backend="torch",
            # Accelerate has put autocast into the model.
            amp_config={"device_type": target.type, "enabled": False},
            grad_scaler=scaler,
        )
        torch.manual_seed(seed)
        finder.range_test(
            loader,
            start_lr=1e-5,
            end_lr=1,
            num_iter=min(steps, config.epochs * len(loader)),
            non_blocking_transfer=False,  # the memory may not be pinned
        )
    return pd.DataFrame(finder.history).rename(columns={"lr": "learning_rate"})


def next_lr_candidate(losses: dict[float, float], start: float, most: int = 7) -> float | None:
    """Return the next learning rate to try, or None if the best one is enclosed.

    The candidate is twice or half the best one so far, until both were tried. Of learning rates
    with equal losses, the lowest counts as the best.

    Args:
        losses: The loss of each learning rate that was tried.
        start: The first one to try.
        most: The largest number of tries.
    """
    if not losses:
        return start
    best = min(sorted(losses), key=losses.get)
    untried = [lr for lr in (2 * best, best / 2) if lr not in losses]
    return untried[0] if untried and len(losses) < most else None


def interpolate_best_lr(losses: dict[float, float]) -> float:
    """Return the vertex of the parabola through the lowest loss and its two neighbors.

    The parabola is a function of the logarithm of the learning rate. If there is none because a
    loss is missing or infinite, the best learning rate that was tried is returned.

    Args:
        losses: The loss of each learning rate that was tried.
    """
    best = min(sorted(losses), key=losses.get)
    half = losses.get(best / 2, math.inf)
    twice = losses.get(2 * best, math.inf)
    curvature = half - 2 * losses[best] + twice
    if not 0 < curvature < math.inf:
        return best
    return best * 2 ** ((half - twice) / (2 * curvature))


def find_lr(
    make_model: Callable[[ImageData], torch.nn.Module],
    data: ImageData,
    transform: Callable | None,
    config: TrainConfig,
    *,
    seed: int = 0,
    checkpoint: CheckpointManager | None = None,
) -> dict:
    """Find a learning rate with a range test and short runs.

    The first candidate is a tenth of the learning rate with the lowest loss in the range test. A
    short run trains for four epochs, or fewer if the configuration has fewer, on a fifth of the
    images. Its loss is measured on held-out training images. A short run that diverges has an
    infinite loss. An interrupted search continues from the checkpoint.

    Args:
        make_model: Returns a new model with its initial weights for the data.
        data: Training images; a tenth of them is held out. The test images are not used.
        transform: Augments uint8 images, or None.
        config: The configuration. Its `max_lr` is ignored.
        seed: Seeds everything that is random.
        checkpoint: Saves the state of the search. None for no checkpoints.

    Returns:
        "seed", "range_test": the columns of `lr_range_test`, and "short_runs": pairs of learning
        rate and loss, in the order in which they ran.

    Raises:
        FloatingPointError: If the loss of the range test is never a number.
    """
    processes = device.distributed_state()
    state = checkpoint.load() if checkpoint and processes.is_main_process else None
    if state is None and processes.is_main_process:
        lr_curve = lr_range_test(make_model(data), data, transform, config, seed)
        state = {"seed": seed, "range_test": lr_curve.to_dict("list"), "short_runs": []}
        if checkpoint:
            checkpoint.save(state)
    [state] = utils.broadcast_object_list([state])  # all processes need the same learning rates

    lr_curve = pd.DataFrame(state["range_test"])
    if lr_curve["loss"].isna().all():
        raise FloatingPointError("the loss of the range test is not a number at any learning rate")
    start = float(lr_curve["learning_rate"][lr_curve["loss"].idxmin()] / 10)
    size = len(data.train_labels)
    held_out = data.train_val_split().subset(size // 5)
    while (lr := next_lr_candidate(dict(state["short_runs"]), start)) is not None:
        processes.print(f"A short run for a learning rate of {lr:.3g}:")
        short_config = scale_to_profile(replace(config, max_lr=lr), SHORT_RUN, size)
        loss = _short_run_loss(make_model(held_out), held_out, transform, short_config, seed)
        state["short_runs"].append((lr, loss))
        if checkpoint and processes.is_main_process:
            checkpoint.save(state)
    return state


def _short_run_loss(
    model: torch.nn.Module,
    data: ImageData,
    transform: Callable | None,
    config: TrainConfig,
    seed: int,
) -> float:
    """Train the model and return its loss on the held-out images, infinite if it diverges."""
    try:
        history = fit(model, data, transform, config, seed=seed, workers=device.num_workers())
    except FloatingPointError:
        device.distributed_state().print("training diverged, which counts as an infinite loss")
        return math.inf
    return history.epochs[-1]["test_loss"]
