"""Data loaders: seeded batches, augmented in one call per batch."""

import random
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.data import ImageData


class SeededBatchSampler:
    """Sample shuffled batches that depend on (seed, epoch) only, not on the number of workers.

    PyTorch's DistributedSampler with BatchSampler shuffles the same way, but gives no seed for the
    augmentation of a batch. Without one, results depend on the number of workers, and a run that
    resumes differs from one that was never interrupted.

    Each item is the indices (B,) of a batch and the seed of its augmentation. The last batch may
    be smaller. Each process gets an equal share of every batch, for which up to `processes` - 1
    images are left out of an epoch.

    Args:
        size: The number of images.
        batch_size: The number of images in a batch over all processes.
        seed: The seed of the run.
        rank: The index of this process.
        processes: The number of processes.

    Attributes:
        epoch: The current epoch. Set it before each iteration.

    Raises:
        ValueError: If `processes` does not divide `batch_size`.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {processes} processes")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        usable = self.size - self.size % self.processes
        return -(-usable // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(len(self)):
            start = number * self.batch_size
            batch = order[start : start + self.batch_size]
            batch = batch[: len(batch) // self.processes * self.processes]
            # One seed per batch: otherwise Albumentations repeats the same random stream in every
            # worker and every epoch.
            seed = np.random.SeedSequence([self.seed, self.epoch, number, self.rank])
            yield batch[self.rank :: self.processes], int(seed.generate_state(1)[0])


class AugmentedDataset(Dataset):
    """Training images that are augmented as uint8, a whole batch at a time.

    Args:
        images: uint8 (N, 32, 32, 3).
        labels: int64 (N,).
        transform: An `albumentations.Compose`, or None for no augmentation.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable | None):
        self.images = images
        self.labels = torch.from_numpy(labels)
        self.transform = transform

    def __getitems__(self, batch: tuple[np.ndarray, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an augmented batch.

        Args:
            batch: Indices (B,) and the seed of the augmentation, from `SeededBatchSampler`.

        Returns:
            Images (B, 3, 32, 32) uint8, channels last in memory, and labels (B,) int64.

        Raises:
            TypeError: If the transform returns another dtype than uint8 or another size.
        """
        indices, seed = batch
        images = self.images[indices]
        if self.transform:
            # All steps share one generator. With one seed per step, flip and cutout would be
            # correlated.
            self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
            for i, image in enumerate(images):
                augmented = self.transform(image=image)["image"]
                if augmented.dtype != image.dtype:  # would be truncated to integers
                    raise TypeError(
                        f"the transform gives {augmented.dtype}, expected {image.dtype}: "
                        "leave out Normalize and ToTensorV2"
                    )
                if augmented.shape != image.shape:  # could be broadcast
                    raise TypeError(
                        f"the transform gives images of {augmented.shape}, expected {image.shape}: "
                        "crop or resize to 32x32 at its end"
                    )
                images[i] = augmented
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[indices]


def make_train_loader(
    data: ImageData, transform: Callable | None, sampler: SeededBatchSampler, workers: int = 0
) -> DataLoader:
    """Return a loader of augmented training batches.

    Args:
        data: The data.
        transform: An `albumentations.Compose` for uint8 images, or None.
        sampler: Chooses the batches. Set `sampler.epoch` before each epoch.
        workers: The number of worker processes. 0 loads in the training process.
    """
    cv2.setNumThreads(0)  # threads slow down work on 32x32 pixels
    return DataLoader(
        AugmentedDataset(data.train_images, data.train_labels, transform),
        batch_sampler=sampler,
        collate_fn=tuple,  # the dataset returns whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A generator of its own: otherwise creating an iterator draws from the generator that
        # dropout uses.
        generator=torch.Generator(),
    )
