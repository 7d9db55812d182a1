"""The pipelines that the benchmark compares: a plain PyTorch baseline and the project.

Both use the experiment's model, transforms, batch size, optimizer and schedule.

- "baseline" is what the original submissions do: float32, contiguous tensors, PIL images that two
  worker processes load, augment and normalize one at a time, and a synchronization after every
  step to read the loss and the accuracy.
- "project" is `helpers.training.fit`.
- "albumentations" is for loading only: the project's loader with Albumentations' own classes
  instead of the project's faster subclasses. The baseline uses Albumentations' classes too.

The images are random noise, because their content has no effect on speed. The benchmark calls the
functions here in processes that it starts for this purpose.
"""

import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import resource
import time

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch import nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from helpers import device
from helpers.data import ImageData
from helpers.evaluation import predict
from helpers.experiments import EXPERIMENTS, Experiment
from helpers.init import initialize_
from helpers.loaders import SeededBatchSampler, make_train_loader
from helpers.models import get_model
from helpers.optim import TrainConfig, build_optimizer, build_scheduler
from helpers.training import fit

PIPELINES = ("baseline", "project")
LOADERS = ("baseline", "albumentations", "project")
BASELINE_WORKERS = 2


def set_start_method(method: str) -> None:
    """Set how this process starts its worker processes.

    Args:
        method: "fork", "spawn" or "forkserver".
    """
    multiprocessing.set_start_method(method, force=True)


def make_noise_data(train_images: int, test_images: int = 10) -> ImageData:
    """Return random images in the format of CIFAR-10.

    Args:
        train_images: The number of training images.
        test_images: The number of test images.
    """
    generator = np.random.default_rng(0)
    size = train_images + test_images
    images = generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, size)
    return ImageData(
        "noise",
        "noise",
        tuple("0123456789"),
        train_images=images[:train_images],
        train_labels=labels[:train_images],
        test_images=images[train_images:],
        test_labels=labels[train_images:],
    )


def measure_training(
    name: str,
    pipeline: str,
    images: int,
    batch_size: int | None = None,
    workers: int | None = None,
    epochs: int = 2,
) -> dict[str, float]:
    """Train an experiment and measure its speed.

    Args:
        name: A key of EXPERIMENTS.
        pipeline: "baseline" or "project".
        images: The number of training images in an epoch.
        batch_size: The batch size. None takes the experiment's.
        workers: The number of worker processes. None takes the pipeline's default.
        epochs: The number of epochs of "project". The speed is that of the last one. "baseline"
            trains for one epoch, and its speed excludes the first step.

    Returns:
        "images_per_second"; "peak_memory" in bytes, of the GPU if there is one, otherwise of this
        process without its workers; "ended", the time in seconds since the epoch.
    """
    experiment = EXPERIMENTS[name]
    data = make_noise_data(images)
    config = dataclasses.replace(
        experiment.config,
        epochs=epochs,
        peak_epoch=0.75 * epochs,  # the schedule has no effect on speed
        batch_size=batch_size or experiment.config.batch_size,
    )
    model = get_model(experiment.model)
    if pipeline == "baseline":
        plain = dataclasses.replace(config, whitening_init=False, dirac_init=False)
        initialize_(model, plain, data)  # sets the dropout probability
        loader = make_baseline_loader(experiment, data, config.batch_size, workers)
        images_per_second = _train_baseline(model, config, loader)
    else:
        initialize_(model, config, data)
        transform = experiment.transform(data.mean)
        workers = device.num_workers() if workers is None else workers
        with contextlib.redirect_stdout(io.StringIO()):  # losses on noise mean nothing
            history = fit(model, data, transform, config, workers=workers)
        images_per_second = history.epochs[-1]["images_per_second"]
    return {
        "images_per_second": images_per_second,
        "peak_memory": _peak_memory(),
        "ended": time.time(),
    }


def profile_operators(name: str, batches: int, top: int = 6) -> tuple[dict[str, float], float]:
    """Profile training steps of the project.

    On a GPU, times are those of the kernels that an operator starts, and loading takes none. The
    profiler stores about 30 MB of events per step.

    Args:
        name: A key of EXPERIMENTS.
        batches: The number of steps.
        top: The number of operators to return.

    Returns:
        The operators that take most time, with their share of the time of all operators, loading
        and metrics included; then the time of all operators in seconds per image. The time of an
        operator excludes the operators that it calls.
    """
    epochs = 2
    images = batches // epochs * EXPERIMENTS[name].config.batch_size
    activities = [ProfilerActivity.CPU]
    if _on_gpu():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        measure_training(name, "project", images, epochs=epochs)
    own_time = "self_device_time_total" if _on_gpu() else "self_cpu_time_total"
    microseconds = {
        event.key.removeprefix("aten::"): getattr(event, own_time)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # the operators; a CUDA event repeats its kernels
    }
    total = sum(microseconds.values())
    slowest = sorted(microseconds, key=microseconds.get, reverse=True)[:top]
    shares = {operator: microseconds[operator] / total for operator in slowest}
    return shares, total / 1e6 / (epochs * images)


def measure_loading(
    name: str, pipeline: str, images: int, workers: int | None = None
) -> dict[str, float]:
    """Load one epoch of augmented training images.

    Args:
        name: A key of EXPERIMENTS.
        pipeline: "baseline", "albumentations" or "project".
        images: The number of training images, more than one batch.
        workers: The number of worker processes. None takes the pipeline's default.

    Returns:
        "images_per_second" after the first batch, and "cpu_microseconds" per image.
    """
    experiment = EXPERIMENTS[name]
    data = make_noise_data(images)
    batch_size = experiment.config.batch_size
    if pipeline == "baseline":
        loader = make_baseline_loader(experiment, data, batch_size, workers)
    else:
        transform = experiment.transform(data.mean)
        if pipeline == "albumentations":
            transform = A.Compose(albumentations_steps(transform))
        sampler = SeededBatchSampler(images, batch_size, seed=0)
        workers = device.num_workers() if workers is None else workers
        loader = make_train_loader(data, transform, sampler, workers)
    cpu_start = _cpu_seconds()
    times = []
    for _ in loader:
        times.append(time.perf_counter())
    del loader  # ends the workers: their CPU time counts only after their end
    cpu_seconds = _cpu_seconds() - cpu_start
    return {
        "images_per_second": (images - batch_size) / (times[-1] - times[0]),
        "cpu_microseconds": 1e6 * cpu_seconds / images,
    }


def measure_evaluation(name: str, pipeline: str, images: int) -> dict[str, float]:
    """Predict test images. The start of the baseline's workers does not count.

    Args:
        name: A key of EXPERIMENTS.
        pipeline: "baseline" or "project".
        images: The number of test images.

    Returns:
        "images_per_second".
    """
    data = make_noise_data(1_000, images)
    target = device.distributed_state().device
    model = get_model(EXPERIMENTS[name].model).to(target).eval()
    if pipeline == "baseline":
        loader = DataLoader(
            BaselineDataset(data, None), 128, num_workers=BASELINE_WORKERS, pin_memory=_on_gpu()
        )
        batches = iter(loader)
        first = next(batches)
        start = time.perf_counter()
        with torch.no_grad():
            for inputs, labels in itertools.chain([first], batches):
                predicted = model(inputs.to(target)).argmax(dim=1)
                (predicted == labels.to(target)).sum().item()
    else:
        model = model.to(memory_format=torch.channels_last)
        start = time.perf_counter()
        with device.create_accelerator().autocast():
            predict(model, data, data.test_images).cpu()
    return {"images_per_second": images / (time.perf_counter() - start)}


def albumentations_steps(transform: A.Compose) -> list[A.BasicTransform]:
    """Return the steps of a transform as instances of Albumentations' own classes.

    Args:
        transform: A transform that may contain the project's faster subclasses.
    """
    steps = []
    for step in transform:
        own_class = next(
            base for base in type(step).__mro__ if base.__module__.startswith("albumentations.")
        )
        steps.append(own_class(**step.get_transform_init_args()))
    return steps


class BaselineDataset(Dataset):
    """Images one at a time, converted to PIL as in torchvision's CIFAR10.

    Args:
        data: The data.
        steps: The augmentation of training images. None gives the test images without one.
    """

    def __init__(self, data: ImageData, steps: list[A.BasicTransform] | None):
        self.images = data.test_images if steps is None else data.train_images
        self.labels = data.test_labels if steps is None else data.train_labels
        normalize = A.Normalize(tuple(data.mean), tuple(data.std))
        self.transform = A.Compose([*(steps or []), normalize, ToTensorV2()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image (3, 32, 32) float32, normalized, and its label."""
        image = Image.fromarray(self.images[index])
        return self.transform(image=np.array(image))["image"], int(self.labels[index])


def make_baseline_loader(
    experiment: Experiment, data: ImageData, batch_size: int, workers: int | None = None
) -> DataLoader:
    """Return the baseline's loader of training batches.

    Args:
        experiment: Its transform augments the images.
        data: The data.
        batch_size: The batch size.
        workers: The number of worker processes. None means two.
    """
    steps = albumentations_steps(experiment.transform(data.mean))
    return DataLoader(
        BaselineDataset(data, steps),
        batch_size,
        shuffle=True,
        num_workers=BASELINE_WORKERS if workers is None else workers,
        pin_memory=_on_gpu(),
    )


def _train_baseline(model: nn.Module, config: TrainConfig, loader: DataLoader) -> float:
    """Train for one epoch. Return images per second after the first step, or 0 for one step."""
    target = device.distributed_state().device
    model = model.to(target).train()
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, len(loader))
    loss_sum = 0.0
    correct = 0
    batch_sizes = []
    times = []
    for images, labels in loader:
        images, labels = images.to(target), labels.to(target)
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
        scheduler.step()
        batch_sizes.append(len(labels))
        times.append(time.perf_counter())
    if len(times) == 1:
        return 0.0
    return sum(batch_sizes[1:]) / (times[-1] - times[0])


def _peak_memory() -> int:
    """Return the peak memory in bytes of the GPU, or of this process if there is no GPU."""
    if _on_gpu():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _on_gpu() -> bool:
    """Return whether an NVIDIA GPU trains."""
    return device.distributed_state().device.type == "cuda"
