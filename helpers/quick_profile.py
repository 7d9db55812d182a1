"""The number of images that the quick profile can train on within its time."""

import time

import torch

from helpers import device
from helpers.config import Profile, Settings
from helpers.data import ImageData
from helpers.experiments import EXPERIMENTS, Experiment
from helpers.files import atomic_write
from helpers.models import get_model

PROBE_BATCH_SIZE = 16
PROBE_STEPS = 3  # the first ones are slower, because memory is allocated
MIN_TEST_IMAGES = 100


def limit_to_time_budget(data: ImageData, settings: Settings, notebook: str) -> ImageData:
    """Return the largest subset that the notebook's experiments can train on in time.

    The subset has two training images for each test image. A training step of each model is timed
    once. The number of images is saved beside the checkpoints, one for CPUs and one for GPUs, so
    that an interrupted run continues with the same images.

    Args:
        data: The data.
        settings: `profile.seconds` is the time budget. Without one, or if saved runs are loaded,
            all images are returned.
        notebook: The name of the notebook, for example "S7".
    """
    profile = settings.profile
    if not profile.seconds or settings.reuse:
        return data
    device_type = device.distributed_state().device.type  # Colab may have a GPU only on some days
    file = (
        settings.checkpoint_dir(data.key)
        / notebook
        / f"images-{profile.seconds}-seconds-{device_type}.txt"
    )
    try:
        test_images = int(file.read_text())
    except (FileNotFoundError, ValueError):  # not measured yet, or the file is damaged
        seconds_per_image = sum(
            seconds_per_test_image(experiment, profile)
            for experiment in EXPERIMENTS.values()
            if experiment.notebook == notebook
        )
        test_images = int(profile.seconds / seconds_per_image) // 50 * 50
        test_images = max(MIN_TEST_IMAGES, test_images)
        atomic_write(file, f"{test_images}")
    subset = data.subset(2 * test_images, test_images)
    print(
        f"{len(subset.train_labels):,} training and {len(subset.test_labels):,} test images: "
        f"as many as this machine gets through in about {profile.seconds} seconds"
    )
    return subset


def seconds_per_test_image(experiment: Experiment, profile: Profile) -> float:
    """Return the time that one more test image and its two training images add to a run.

    A training step on random images is timed. A prediction costs a third of a training image. All
    test images are evaluated after every epoch, and twice more at the end.

    Args:
        experiment: The experiment.
        profile: Gives the number of epochs.
    """
    accelerator = device.create_accelerator()
    model = device.prepare_model(get_model(experiment.model), accelerator.device)
    images = torch.randn(PROBE_BATCH_SIZE, 3, 32, 32, device=accelerator.device)
    images = device.match_memory_format(images, model)
    for _ in range(PROBE_STEPS):
        start = time.perf_counter()
        with accelerator.autocast():
            model(images).square().mean().backward()
        next(model.parameters()).grad.sum().item()  # waits for a GPU
    seconds_per_training_image = (time.perf_counter() - start) / PROBE_BATCH_SIZE

    training_images = profile.epochs * (2 + 1 / 3) + 2 / 3
    if experiment.find_lr:
        # The range test: 100 steps of a 32nd of the images each. Then about five short runs.
        training_images += 2 * 100 / 32
        training_images += 5 * profile.epochs * 2 * (1 / 5 + 1 / 10 / 3)
    return training_images * seconds_per_training_image
