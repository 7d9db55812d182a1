"""A network trained, its images loaded and it evaluated: the hand-ins' way and ours.

Both take the run's network, transforms, batch size, optimizer and schedule. The hand-ins' way is
float32 with contiguous tensors; images loaded one by one as PIL images in two worker processes,
normalised and made tensors in the pipeline; loss and accuracy read back after every step.
The images are noise: only their number counts.

Loading is measured a third way: ours, but with Albumentations' own transforms in place of the
quicker ones that stand for them here, which the hand-ins' way does without too.
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
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from helpers import devices
from helpers.evaluation import predict
from helpers.images.batches import BatchSampler, train_loader
from helpers.images.data import ImageData
from helpers.models import build
from helpers.runs.catalogue import RUNS, Run
from helpers.training.initialisation import start_
from helpers.training.loop import fit
from helpers.training.recipes import Recipe, make_optimizer, make_schedule

WAYS = ("theirs", "ours")
LOADERS = ("theirs", "own transforms", "ours")


def start_as(method: str) -> None:
    """From now on, start this process's workers in that way."""
    multiprocessing.set_start_method(method, force=True)


def noise(train: int, test: int = 10) -> ImageData:
    """So many training and test images of CIFAR-10's form."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (train + test, 32, 32, 3), dtype=np.uint8)
    labels = numbers.integers(0, 10, train + test)
    parts = images[:train], labels[:train], images[train:], labels[train:]
    return ImageData("noise", "noise", tuple("0123456789"), *parts)


def train(
    name: str, way: str, images: int, batch_size: int | None = None, workers: int | None = None,
    epochs: int = 2,
) -> dict[str, float]:  # fmt: skip
    """Train the run for so many images an epoch: images a second, peak memory in bytes.

    The last epoch counts for ours. Theirs has one, in which what comes before its first step has
    ended is not counted. The memory is the GPU's where there is one, else this process's so far,
    without its workers'.
    """
    run, data = RUNS[name], noise(images)
    size = batch_size or run.recipe.batch_size
    recipe = dataclasses.replace(
        run.recipe, epochs=epochs, peak_epoch=0.75 * epochs, batch_size=size
    )  # three quarters: OneCycleLR fails where its peak is its very first step
    model = build(run.net)
    if way == "theirs":
        start_(model, dataclasses.replace(recipe, whitened=False, identity=False), data)
        speed = _train_theirs(model, recipe, _theirs(run, data, size, workers))
    else:
        start_(model, recipe, data)
        transform = run.transform(data.statistics[0])
        with contextlib.redirect_stdout(io.StringIO()):  # losses on noise tell nothing
            workers = devices.workers() if workers is None else workers
            history = fit(model, data, transform, recipe, workers=workers)
        speed = history.rows[-1]["images_per_second"]
    if _cuda():
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images_per_second": speed, "peak_memory": memory, "ended": time.time()}


def operators(name: str, batches: int, most: int = 6) -> tuple[dict[str, float], float]:
    """The operators that cost most in so many of our training steps, and what all cost an image.

    First their names, with their shares of the time of all operators, loading and metrics included;
    each without those it calls. Then the time of all, in seconds an image. On a GPU, the time is
    that of the kernels that they start, to which loading adds nothing. The profiler keeps about
    30 MB of events a step.
    """
    images = batches // 2 * RUNS[name].recipe.batch_size  # in each of two epochs
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if _cuda() else [])]
    with profile(activities=activities) as found:
        train(name, "ours", images)
    own = "self_device_time_total" if _cuda() else "self_cpu_time_total"
    rows = [row for row in found.key_averages() if row.device_type == DeviceType.CPU]
    times = {row.key.removeprefix("aten::"): getattr(row, own) for row in rows}  # no kernel twice
    first = sorted(times, key=times.get, reverse=True)[:most]
    total = sum(times.values())
    return {operator: times[operator] / total for operator in first}, total / 1e6 / (2 * images)


def load(name: str, way: str, images: int, workers: int | None = None) -> dict[str, float]:
    """Load so many augmented images of the run: images a second, CPU microseconds an image."""
    run, data = RUNS[name], noise(images)
    if way == "theirs":
        loader = _theirs(run, data, run.recipe.batch_size, workers)
    else:
        transform = run.transform(data.statistics[0])
        transform = A.Compose(own(transform)) if way == "own transforms" else transform
        sampler = BatchSampler(images, run.recipe.batch_size, 0)
        workers = devices.workers() if workers is None else workers
        loader = train_loader(data, transform, sampler, workers)
    cpu, times = _cpu_seconds(), []
    for _ in loader:
        times.append(time.perf_counter())
    del loader  # and with it its workers: their time is counted once they have ended
    cpu, loaded = _cpu_seconds() - cpu, images - run.recipe.batch_size  # after the first batch
    speed = loaded / (times[-1] - times[0])
    return {"images_per_second": speed, "cpu_microseconds": 1e6 * cpu / images}


def evaluate(name: str, way: str, images: int) -> dict[str, float]:
    """Let the run's network predict so many test images: images a second.

    What the workers of theirs do before the first batch is not counted.
    """
    run, data, device = RUNS[name], noise(1_000, images), devices.processes().device
    model = build(run.net).to(device).eval()
    started = time.perf_counter()
    if way == "theirs":
        loader = DataLoader(Items(data, []), 128, num_workers=2, pin_memory=_cuda())
        batches = iter(loader)
        first, started = next(batches), time.perf_counter()
        with torch.no_grad():
            for inputs, labels in itertools.chain([first], batches):
                (model(inputs.to(device)).argmax(dim=1) == labels.to(device)).sum().item()
    else:
        model = model.to(memory_format=torch.channels_last)
        with devices.accelerator().autocast():
            predict(model, data, data.test_images).cpu()
    return {"images_per_second": images / (time.perf_counter() - started)}


def _cpu_seconds() -> float:
    parts = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _cuda() -> bool:
    return devices.processes().device.type == "cuda"


def own(transform: A.Compose) -> list[A.BasicTransform]:
    """The steps of a transform, as Albumentations itself has them."""
    return [getattr(A, type(s).__name__)(**s.get_transform_init_args()) for s in transform]


class Items(Dataset):
    """Images one by one, as torchvision's CIFAR10 gives them: each becomes a PIL image first.

    With `steps` they are training images and get these, without they are test images.
    """

    def __init__(self, data: ImageData, steps: list):
        self.images = data.train_images if steps else data.test_images
        self.labels = data.train_labels if steps else data.test_labels
        mean, std = (tuple(v) for v in data.statistics)
        self.pipeline = A.Compose([*steps, A.Normalize(mean, std), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index])
        return self.pipeline(image=np.array(image))["image"], int(self.labels[index])


def _theirs(run: Run, data: ImageData, batch_size: int, workers: int | None) -> DataLoader:
    items = Items(data, own(run.transform(data.statistics[0])))
    workers = 2 if workers is None else workers
    return DataLoader(items, batch_size, shuffle=True, num_workers=workers, pin_memory=_cuda())


def _train_theirs(model: torch.nn.Module, recipe: Recipe, loader: DataLoader) -> float:
    device = devices.processes().device
    model = model.to(device).train()
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, len(loader))
    lost, correct, sizes, times = 0.0, 0, [], []
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        optimizer.step()
        lost += loss.item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
        sizes.append(len(labels))
        schedule.step()
        times.append(time.perf_counter())
    if len(times) == 1:  # a first step alone, which is timed elsewhere
        return 0.0
    return sum(sizes[1:]) / (times[-1] - times[0])
