"""The training loop."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator, utils
from torch import nn
from tqdm import tqdm

from helpers import devices
from helpers.evaluation import check_test_set, predict
from helpers.images.batches import BatchSampler, train_loader
from helpers.images.data import ImageData
from helpers.training.checkpoints import Checkpoint
from helpers.training.recipes import Recipe, make_optimizer, make_schedule

SLOW_STEPS = 3  # the first ones, in which memory is laid out and algorithms are chosen
SECONDS_TIMED = 5


@dataclass
class History:
    """What was measured while training: a row an epoch, and the learning rate of every step.

    Losses are plain cross-entropy, accuracies in %: those of training gathered while the weights
    change, on augmented images; those of test with the weights that would be saved. `trained_on`
    lists the devices that took part, with precision and versions.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    trained_on: list[dict[str, str]] = field(default_factory=list)


def epoch_line(row: dict[str, float], epochs: int, seconds_left: float | None = None) -> str:
    """An epoch's row as a line of text: rate at its end, losses and accuracies, speed, time.

    While a run is under way, the line ends with the time left for the epochs to come.
    """
    line = (
        "epoch {epoch:>2}/{epochs}  lr {learning_rate:.4f}  train loss {train_loss:.3f}, "
        "{train_accuracy:5.2f} %  test loss {test_loss:.3f}, {test_accuracy:5.2f} %  "
        "{images_per_second:,.0f} images/s  {seconds:.0f} s"
    ).format(**row, epochs=epochs)
    left = "" if seconds_left is None else f"  {tqdm.format_interval(seconds_left)} left"
    return line + left


def set_seed(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and torch from (seed, epoch, rank), as at the start of every epoch."""
    utils.set_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


def fit(
    model: nn.Module, data: ImageData, transform: Callable | None, recipe: Recipe, *, seed: int = 0,
    checkpoint: Checkpoint | None = None, accelerator: Accelerator | None = None, workers: int = 0,
) -> History:  # fmt: skip
    """Train the network in place, up to the last epoch's weights.

    Each epoch prints a line and leaves a checkpoint; what is there already is continued. Order,
    augmentation and dropout follow from (seed, epoch), whatever came before. `transform` augments
    uint8 images or is None; `accelerator` stands for device, precision and processes, by default
    the best of this machine; `workers` processes load, 0 loads between the steps.

    Raises FloatingPointError where training diverges, ValueError for an unknown optimizer or a
    test set that is not whole.
    """
    check_test_set(data)
    accelerator = accelerator or devices.accelerator()
    rank, processes = accelerator.process_index, accelerator.num_processes
    sampler = BatchSampler(len(data.train_labels), recipe.batch_size, seed, rank, processes)
    loader = train_loader(data, transform, sampler, workers)
    network = devices.placed(model, accelerator.device)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = make_optimizer(network, recipe)
    schedule = make_schedule(optimizer, recipe, len(loader))
    model, optimizer = accelerator.prepare(network, optimizer)
    if processes > 1:
        shares = f"{processes} processes x {recipe.batch_size // processes} images a step"
        accelerator.print(f"{shares}, learning rate up to {recipe.max_lr}")
    parts = {"model": network, "optimizer": optimizer, "schedule": schedule}
    parts |= {"scaler": accelerator.scaler} if accelerator.scaler else {}
    history = _continue(checkpoint, parts, accelerator)
    if history.rows:
        lines = [epoch_line(row, recipe.epochs) for row in history.rows]
        ahead = "Continuing" if len(lines) < recipe.epochs else "Nothing left to train"
        accelerator.print(*lines, f"{ahead} after epoch {len(lines)} of {recipe.epochs}", sep="\n")
    if len(history.rows) < recipe.epochs:
        _note_place(history, accelerator)

    # Where loss scaling skips the first step, the schedule is rightly stepped before the optimizer.
    warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
    hidden = None if accelerator.is_main_process else True  # None: where nobody watches
    done, begun = len(history.rows), time.perf_counter()
    for epoch in range(done + 1, recipe.epochs + 1):
        set_seed(seed, epoch, rank)
        sampler.epoch = epoch
        started = time.perf_counter()
        model.train()
        totals = torch.zeros(3, device=accelerator.device)  # loss, correct, images
        batches = tqdm(loader, f"epoch {epoch}", leave=False, disable=hidden)
        if epoch == done + 1 and accelerator.is_main_process:
            batches = _announced(batches, (recipe.epochs - done) * len(loader))
        for images, labels in batches:
            # From memory that is not pinned, a copy must be waited for, on a Mac above all.
            images = images.to(accelerator.device, non_blocking=images.is_pinned())
            images = devices.laid_out(data.normalise(images), network)
            labels = labels.to(accelerator.device, non_blocking=labels.is_pinned())
            logits = model(images)
            loss = criterion(logits, labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            history.learning_rates.append(schedule.get_last_lr()[0])
            if len(history.learning_rates) < schedule.total_steps:
                # Once a batch, always: Accelerate's own would skip a step where loss scaling did.
                schedule.step()
            totals += _sums(logits.detach(), labels)
        train_loss, train_accuracy, seen = _means(totals, accelerator)
        trained = time.perf_counter()
        if not np.isfinite(train_loss):
            problem = f"the training loss is {train_loss} in epoch {epoch}: training has diverged"
            raise FloatingPointError(f"{problem}; try a learning rate below {recipe.max_lr}")
        test_loss, test_accuracy, _ = _means(_test(network, data, accelerator), accelerator)
        row = {"epoch": epoch, "learning_rate": history.learning_rates[-1]}
        row |= {"train_loss": train_loss, "train_accuracy": train_accuracy, "test_loss": test_loss}
        row |= {"test_accuracy": test_accuracy, "images_per_second": seen / (trained - started)}
        row |= {"seconds": time.perf_counter() - started}
        history.rows.append(row)
        left = (time.perf_counter() - begun) / (epoch - done) * (recipe.epochs - epoch)
        accelerator.print(epoch_line(row, recipe.epochs, left), flush=True)
        if checkpoint and accelerator.is_main_process:
            states = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.save({**states, "history": vars(history)})

    for wrapper in ("forward", "_original_forward"):  # mixed precision's, put on by Accelerate
        vars(network).pop(wrapper, None)
    return history


def _announced(batches: Iterable, steps: int) -> Iterator:
    """The batches; once some were timed, a line says about how long so many steps will take."""
    started = None
    for number, batch in enumerate(batches):
        if number == SLOW_STEPS:
            started = time.perf_counter()
        elif started and (passed := time.perf_counter() - started) > SECONDS_TIMED:
            # A GPU is a few steps behind, which do not count here: so it need not be waited for.
            seconds = passed / (number - SLOW_STEPS) * (steps - number)
            amount = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
            tqdm.write(f"about {amount} to go")
            started = None
        yield batch


def _continue(checkpoint: Checkpoint | None, parts: dict, accelerator: Accelerator) -> History:
    state = [checkpoint.load() if checkpoint and accelerator.is_main_process else None]
    utils.broadcast_object_list(state)  # other hosts may not see the main one's disk
    if state[0] is None:
        return History()
    for name in parts.keys() & state[0].keys():  # loss scaling may be new, or needed no more
        parts[name].load_state_dict(state[0][name])
    return History(**state[0]["history"])


def _note_place(history: History, accelerator: Accelerator) -> None:
    here = {"device": devices.describe(accelerator.device), "device_type": accelerator.device.type}
    here |= {"precision": accelerator.mixed_precision.replace("no", "float32")}
    here |= {"processes": accelerator.num_processes} | devices.versions()
    before = history.trained_on[-1] if history.trained_on else {}
    if here != before:
        history.trained_on.append(here)
    if changed := [f"{k} {before[k]} -> {here[k]}" for k in before if before[k] != here[k]]:
        accelerator.print(f"Changed since the last checkpoint: {', '.join(changed)}")


def _test(network: nn.Module, data: ImageData, accelerator: Accelerator) -> torch.Tensor:
    utils.broadcast(list(network.buffers()))  # the main process's are kept, so they are tested
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    with accelerator.autocast():
        logits = predict(network, data, data.test_images[mine])
    return _sums(logits, torch.from_numpy(data.test_labels[mine]).to(logits.device))


def _means(totals: torch.Tensor, accelerator: Accelerator) -> tuple[float, float, float]:
    loss, correct, images = accelerator.reduce(totals).tolist()
    return loss / images, 100 * correct / images, images


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss, correct.float(), torch.full_like(loss, len(labels))])
