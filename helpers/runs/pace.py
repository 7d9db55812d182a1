"""How much of the data this machine gets through in the time that a profile gives."""

import time

import torch

from helpers import devices
from helpers.files import write
from helpers.images.data import ImageData
from helpers.models import build
from helpers.runs.catalogue import RUNS, Run
from helpers.settings import Profile, Settings

STEP = 16  # images in the step that is timed


def affordable(data: ImageData, settings: Settings, notebook: str) -> ImageData:
    """The first so many images that the notebook's runs get through in the profile's `seconds`.

    Two training images come with each test image. A step of each network is timed once: the number
    is kept beside the checkpoints, one for CPUs and one for GPUs, so that runs continue. All images
    where the profile sets no time or nothing is trained.
    """
    profile = settings.profile
    if not profile.seconds or settings.reuse:
        return data
    seconds = profile.seconds // (3 if data.key.startswith("digits") else 1)
    device = devices.processes().device.type  # in Colab, a GPU one day and none the next
    file = settings.checkpoints(data.key) / notebook / f"images-{seconds}-seconds-{device}.txt"
    try:
        test_images = int(file.read_text())
    except (FileNotFoundError, ValueError):  # not measured yet, or the file is damaged
        runs = (run for run in RUNS.values() if run.name.startswith(f"{notebook}/"))
        fit = seconds / sum(seconds_per_test_image(run, profile) for run in runs)
        test_images = max(100, int(fit) // 50 * 50)
        write(file, f"{test_images}")
    part = data.first(2 * test_images, test_images)
    amount = f"{len(part.train_labels):,} training and {len(part.test_labels):,} test images"
    print(f"{amount}: as many as this machine gets through in about {seconds} seconds")
    return part


def seconds_per_test_image(run: Run, profile: Profile) -> float:
    """What one more test image, and the two training images that come with it, add to a run.

    A training step on random images is timed. A prediction counts as a third of a training image;
    all test images are looked at after every epoch, and twice more in the end.
    """
    accelerator = devices.accelerator()
    model = devices.placed(build(run.net), accelerator.device)
    images = devices.laid_out(torch.randn(STEP, 3, 32, 32, device=accelerator.device), model)
    for _ in range(3):  # the first ones lay out memory
        started = time.perf_counter()
        with accelerator.autocast():
            model(images).square().mean().backward()
        next(model.parameters()).grad.sum().item()  # a GPU is waited for
    step = time.perf_counter() - started
    count = profile.epochs * (2 + 1 / 3) + 2 / 3
    if run.find_rate:  # steps of the range test, a 32nd of the images each; about five short runs
        count += 2 * 100 / 32 + 5 * profile.epochs * 2 * (1 / 5 + 1 / 10 / 3)
    return count * step / STEP
