"""The training loop: `train_one_epoch`, `evaluate`, `fit`."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator, utils
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from helpers import device
from helpers.checkpoints import CheckpointManager
from helpers.data import ImageData
from helpers.evaluation import predict
from helpers.loaders import SeededBatchSampler, make_train_loader
from helpers.optim import TrainConfig, build_optimizer, build_scheduler
from helpers.progress import ProgressBar


@dataclass
class Metrics:
    """Loss and accuracy over a number of images.

    Attributes:
        loss: Mean cross-entropy, without label smoothing.
        accuracy: The share of correct predictions, in %.
        images: The number of images.
    """

    loss: float
    accuracy: float
    images: float


@dataclass
class History:
    """What was measured during training.

    Training metrics are averaged over the epoch on augmented images. Test metrics use the weights
    at the end of the epoch.

    Attributes:
        epochs: One row per epoch: epoch, learning_rate (of its last step), train_loss,
            train_accuracy (%), test_loss, test_accuracy (%), images_per_second, seconds.
        lrs: The learning rate of every step.
        environments: Devices, precisions and versions that took part, in order.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    data: ImageData,
    criterion: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
) -> tuple[Metrics, list[float]]:
    """Train a model for one epoch.

    Args:
        model: The model, prepared by Accelerate.
        loader: Batches of images (B, 3, 32, 32) uint8 and labels (B,) int64.
        data: Normalizes the images on the device.
        criterion: The loss function.
        optimizer: Updates the weights.
        scheduler: Changes the learning rate after every batch.
        accelerator: Device, precision and processes.

    Returns:
        The metrics of the epoch over all processes, and the learning rate of every step.
    """
    model.train()
    totals = torch.zeros(3, device=accelerator.device)
    lrs = []
    for images, labels in loader:
        images, labels = _to_device(images, accelerator), _to_device(labels, accelerator)
        inputs = device.match_memory_format(data.normalize(images), model)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, labels)
        accelerator.backward(loss)
        optimizer.step()
        lrs.append(scheduler.get_last_lr()[0])
        _step_scheduler(scheduler)
        totals += _batch_totals(logits.detach(), labels)  # without the criterion's label smoothing
    return _average(totals, accelerator), lrs


def evaluate(model: nn.Module, data: ImageData, accelerator: Accelerator) -> Metrics:
    """Evaluate a model on the test images, in the precision of the training.

    Args:
        model: The model itself, without Accelerate's wrapper.
        data: Provides the test images. Each process evaluates a share of them.
        accelerator: Device, precision and processes.

    Returns:
        The metrics over all test images.
    """
    # Batch statistics differ between processes. Test with those of the main one, which are saved.
    utils.broadcast(list(model.buffers()))
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    with accelerator.autocast():
        logits = predict(model, data, data.test_images[share])
    labels = torch.from_numpy(data.test_labels[share]).to(logits.device)
    return _average(_batch_totals(logits, labels), accelerator)


def fit(
    model: nn.Module,
    data: ImageData,
    transform: Callable | None,
    config: TrainConfig,
    *,
    seed: int = 0,
    checkpoint: CheckpointManager | None = None,
    accelerator: Accelerator | None = None,
    workers: int = 0,
) -> History:
    """Train a model in place, up to the weights of the last epoch.

    Every epoch prints a line and saves a checkpoint. An existing checkpoint is continued with the
    same result, on a CPU to the bit and on a GPU up to rounding: order, augmentation and dropout
    depend on (seed, epoch) only.

    Args:
        model: The model with its initial weights.
        data: Training and test images.
        transform: Augments uint8 images. None for no augmentation.
        config: The hyperparameters.
        seed: Seeds the order of the images, augmentation and dropout.
        checkpoint: Saves and loads the state. None for no checkpoints.
        accelerator: Device, precision and processes. None for the best of this machine.
        workers: The number of processes that load images. 0 loads between the steps.

    Returns:
        The metrics of every epoch, including those before a resume.

    Raises:
        FloatingPointError: If training diverges.
    """
    accelerator = accelerator or device.create_accelerator()
    sampler = SeededBatchSampler(
        len(data.train_labels),
        config.batch_size,
        seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = make_train_loader(data, transform, sampler, workers)
    raw_model = device.prepare_model(model, accelerator.device)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimizer = build_optimizer(raw_model, config)
    scheduler = build_scheduler(optimizer, config, len(loader))

    with _prepare(accelerator, raw_model, optimizer) as (model, optimizer):
        parts = {"model": raw_model, "optimizer": optimizer, "schedule": scheduler}
        if accelerator.scaler:
            parts["scaler"] = accelerator.scaler
        history = _resume(checkpoint, parts, config, accelerator)
        progress = ProgressBar(enabled=accelerator.is_main_process)
        first_epoch = len(history.epochs) + 1
        fit_start = time.perf_counter()

        for epoch in range(first_epoch, config.epochs + 1):
            set_seed(seed, epoch, accelerator.process_index)
            sampler.epoch = epoch
            epoch_start = time.perf_counter()
            remaining_steps = (config.epochs - epoch + 1) * len(loader)
            batches = progress.track(loader, f"epoch {epoch}", remaining_steps)
            train, lrs = train_one_epoch(
                model, batches, data, criterion, optimizer, scheduler, accelerator
            )
            train_end = time.perf_counter()
            _check_convergence("training", train.loss, epoch, config)
            test = evaluate(raw_model, data, accelerator)
            _check_convergence("test", test.loss, epoch, config)

            history.lrs += lrs
            history.epochs.append(
                {
                    "epoch": epoch,
                    "learning_rate": lrs[-1],
                    "train_loss": train.loss,
                    "train_accuracy": train.accuracy,
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "images_per_second": train.images / (train_end - epoch_start),
                    "seconds": time.perf_counter() - epoch_start,
                }
            )
            seconds_per_epoch = (time.perf_counter() - fit_start) / (epoch - first_epoch + 1)
            eta = seconds_per_epoch * (config.epochs - epoch)
            accelerator.print(format_epoch(history.epochs[-1], config.epochs, eta), flush=True)
            _save(checkpoint, parts, history, accelerator)
            progress.show_curve(history.epochs, config.epochs)
    return history


def set_seed(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and PyTorch.

    Args:
        seed: The seed of the run.
        epoch: The epoch that begins. 0 for the initial weights.
        rank: The index of this process.
    """
    utils.set_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


def format_epoch(row: dict[str, float], epochs: int, eta: float | None = None) -> str:
    """Format the metrics of an epoch as one line.

    Args:
        row: A row of `History.epochs`.
        epochs: The number of epochs of the run.
        eta: The time left in seconds. None leaves it out.
    """
    line = (
        "epoch {epoch:>2}/{epochs}  lr {learning_rate:.4f}  train loss {train_loss:.3f}, "
        "{train_accuracy:5.2f} %  test loss {test_loss:.3f}, {test_accuracy:5.2f} %  "
        "{images_per_second:,.0f} images/s  {seconds:.0f} s"
    ).format(**row, epochs=epochs)
    if eta is not None:
        line += f"  {tqdm.format_interval(eta)} left"
    return line


def _to_device(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """Copy a tensor to the device. On Macs, only copies of pinned memory may be asynchronous."""
    return tensor.to(accelerator.device, non_blocking=tensor.is_pinned())


def _step_scheduler(scheduler: LRScheduler) -> None:
    """Step the schedule, except after the last batch, where OneCycleLR has no step left.

    Accelerate's wrapper is not used, because it skips the scheduler when the GradScaler skips the
    optimizer.
    """
    if scheduler.last_epoch + 1 < scheduler.total_steps:
        scheduler.step()


def _batch_totals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the losses, the number of correct predictions, and of images."""
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss, correct.float(), torch.full_like(loss, len(labels))])


def _average(totals: Tensor, accelerator: Accelerator) -> Metrics:
    """Turn totals into metrics over all processes."""
    loss, correct, images = accelerator.reduce(totals).tolist()
    return Metrics(loss / images, 100 * correct / images, images)


@contextlib.contextmanager
def _prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer
) -> Iterator[tuple[nn.Module, Optimizer]]:
    """Wrap model and optimizer for mixed precision and processes; undo it on the model after."""
    try:
        with warnings.catch_warnings():
            # If loss scaling skips the first step, the schedule is stepped before the optimizer.
            warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
            yield accelerator.prepare(model, optimizer)
    finally:
        # Accelerate leaves its mixed-precision `forward` on the model.
        for attribute in ("forward", "_original_forward"):
            vars(model).pop(attribute, None)


def _resume(
    checkpoint: CheckpointManager | None,
    parts: dict,
    config: TrainConfig,
    accelerator: Accelerator,
) -> History:
    """Load the last checkpoint into the parts, print what it holds, and return its history."""
    if accelerator.num_processes > 1:
        images_each = config.batch_size // accelerator.num_processes
        accelerator.print(
            f"{accelerator.num_processes} processes x {images_each} images a step, "
            f"learning rate up to {config.max_lr}"
        )
    state = None
    if checkpoint and accelerator.is_main_process:
        state = checkpoint.load()
    [state] = utils.broadcast_object_list([state])  # other hosts may not see the main one's disk
    if state is None:
        history = History()
    else:
        for name in parts.keys() & state.keys():  # the scaler may be new, or no longer needed
            parts[name].load_state_dict(state[name])
        history = History(**state["history"])
    if history.epochs:
        for row in history.epochs:
            accelerator.print(format_epoch(row, config.epochs))
        done = len(history.epochs)
        action = "Continuing" if done < config.epochs else "Nothing left to train"
        accelerator.print(f"{action} after epoch {done} of {config.epochs}")
    if len(history.epochs) < config.epochs:
        _record_environment(history, accelerator)
    return history


def _record_environment(history: History, accelerator: Accelerator) -> None:
    """Add this device, precision and versions to the history, and print what has changed."""
    environment = {
        "device": device.device_name(accelerator.device),
        "device_type": accelerator.device.type,
        "precision": device.precision_name(accelerator.mixed_precision),
        "processes": accelerator.num_processes,
        **device.library_versions(),
    }
    previous = history.environments[-1] if history.environments else {}
    if environment != previous:
        history.environments.append(environment)
    changes = [
        f"{name} {previous[name]} -> {environment[name]}"
        for name in previous
        if previous[name] != environment[name]
    ]
    if changes:
        accelerator.print(f"Changed since the last checkpoint: {', '.join(changes)}")


def _check_convergence(name: str, loss: float, epoch: int, config: TrainConfig) -> None:
    """Raise FloatingPointError if a loss is not finite."""
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the {name} loss is {loss} in epoch {epoch}: training has diverged; "
            f"try a learning rate below {config.max_lr}"
        )


def _save(
    checkpoint: CheckpointManager | None, parts: dict, history: History, accelerator: Accelerator
) -> None:
    """Save a checkpoint in the main process."""
    if checkpoint and accelerator.is_main_process:
        states = {name: part.state_dict() for name, part in parts.items()}
        checkpoint.save({**states, "history": vars(history)})
