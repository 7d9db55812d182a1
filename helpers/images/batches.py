"""Batches of augmented training images: whole ones at a time, and each can be had again."""

import random
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.images.data import ImageData


class BatchSampler:
    """Shuffled batches, decided by (seed, epoch) alone, whatever the number of workers.

    A batch is the indices (B,) of its images and the seed of their augmentation.
    The last batch may be smaller. Each of several processes, told apart by `rank`, gets an equal
    share of every batch, for which up to `processes` - 1 images are left out of an epoch. Raises
    ValueError where `processes` does not divide the batch.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {processes} processes")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.processes, self.epoch = rank, processes, 0

    def __len__(self) -> int:
        return -(-(self.size - self.size % self.processes) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(len(self)):
            indices = order[number * self.batch_size :][: self.batch_size]
            indices = indices[: len(indices) // self.processes * self.processes]
            # A seed for each batch: left alone, Albumentations replays one and the same stream
            # in every worker and every epoch.
            seed = np.random.SeedSequence([self.seed, self.epoch, number, self.rank])
            yield indices[self.rank :: self.processes], int(seed.generate_state(1)[0])


class AugmentedImages(Dataset):
    """Training images, augmented as uint8 a whole batch at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable | None):
        self.images, self.labels, self.transform = images, torch.from_numpy(labels), transform

    def __getitems__(self, batch: tuple[np.ndarray, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, 32, 32) uint8, channels last in memory, and their labels (B,) int64.

        Raises TypeError where the transform gives something else than uint8.
        """
        indices, seed = batch
        images = self.images[indices]
        if self.transform:
            # One stream for all steps: a seed of each step's own would let a mirrored image get
            # its hole more often than another.
            self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
            for i, image in enumerate(images):
                changed = self.transform(image=image)["image"]
                if changed.dtype != image.dtype:  # which would be cut to whole numbers
                    found = f"the transform gives {changed.dtype}, expected {image.dtype}"
                    raise TypeError(f"{found}: leave out Normalize and ToTensorV2")
                images[i] = changed
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[indices]


def train_loader(
    data: ImageData, transform: Callable | None, sampler: BatchSampler, workers: int = 0
) -> DataLoader:
    """A loader of the sampler's batches, augmented; set `sampler.epoch` before each epoch."""
    cv2.setNumThreads(0)  # on 32x32 pixels, threads cost more than they bring
    dataset = AugmentedImages(data.train_images, data.train_labels, transform)
    options = {"batch_sampler": sampler, "collate_fn": tuple}  # the batches as they are
    options |= {"num_workers": workers, "persistent_workers": workers > 0}
    # Else a loader that starts, after epoch 1 or as a run goes on, takes a number of dropout's.
    options |= {"generator": torch.Generator()}
    return DataLoader(dataset, pin_memory=torch.cuda.is_available(), **options)
