"""The learning-rate range test (L. N. Smith, arXiv:1506.01186), by torch-lr-finder."""

import contextlib
import copy
import io
import warnings
from collections.abc import Callable

import pandas as pd
import torch

from helpers import devices
from helpers.images.batches import BatchSampler, train_loader
from helpers.images.data import ImageData
from helpers.training.recipes import Recipe, make_optimizer


def range_test(
    model: torch.nn.Module, data: ImageData, transform: Callable | None, recipe: Recipe,
    seed: int = 0, steps: int = 100,
) -> pd.DataFrame:  # fmt: skip
    """Take steps at rates that grow from 1e-5 to 1; a row each: learning_rate, (smoothed) loss.

    They are taken by a copy of the network, with the recipe's optimizer, batches and loss, and are
    no more than the recipe's own: network and random state are left as they were.
    """
    accelerator = devices.accelerator()
    device, network = accelerator.device, devices.placed(copy.deepcopy(model), accelerator.device)
    network = accelerator.prepare_model(network, evaluation_mode=True)  # without DDP
    network.register_forward_pre_hook(lambda _, x: devices.laid_out(data.normalise(*x), network))
    optimizer = make_optimizer(network, recipe)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    autocast = {"device_type": device.type, "enabled": False}  # the network has its own
    scaler = accelerator.scaler or torch.amp.GradScaler(device.type, enabled=False)
    amp = {"amp_backend": "torch", "amp_config": autocast, "grad_scaler": scaler}
    sampler = BatchSampler(len(data.train_labels), recipe.batch_size, seed)
    loader = train_loader(data, transform, sampler, devices.workers())
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(action="ignore"),  # of widgets, of steps that loss scaling skips
    ):
        from torch_lr_finder import lr_finder

        lr_finder.tqdm = iter  # in place of a bar that would be a widget in Colab
        finder = lr_finder.LRFinder(network, optimizer, loss, device, **amp)
        torch.manual_seed(seed)
        steps = min(steps, recipe.epochs * len(loader))
        # From 1e-5 to 1; copies are waited for, as their memory may not be pinned.
        finder.range_test(loader, None, 1e-5, 1, steps, non_blocking_transfer=False)
    return pd.DataFrame(finder.history).rename(columns={"lr": "learning_rate"})
