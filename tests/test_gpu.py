"""What a machine without a GPU can show of one: copies, waits, precision, workers, loss scaling.

Tensors of `FakeTensorMode` have a device, a shape and a type, but no content; `.item()` gives 1.
"""

import dataclasses
import os
import types
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import data as data_module
from helpers import device, lr_finder, training
from helpers.config import Profile, Settings
from helpers.evaluation import predict
from helpers.experiments import EXPERIMENTS, find_experiment_lr
from helpers.lr_finder import lr_range_test
from helpers.models import MODELS, get_model, validate_model
from helpers.optim import TrainConfig
from helpers.training import fit
from tests.test_training import Tiny

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(epochs=1, batch_size=64, max_lr=0.01, peak_epoch=0.5)
LONGER = dataclasses.replace(CONFIG, epochs=10)
CUDA = torch.device("cuda", 0)
IMAGES, LABELS = (64, 3, 32, 32), (64,)


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(192, 360)


class Traffic(TorchDispatchMode):
    """Notes the shapes that are copied to the GPU, the waits for it, and the types convolved."""

    def __init__(self):
        super().__init__()
        self.copied, self.waits, self.convolved = Counter(), 0, set()

    def __torch_dispatch__(self, function, _, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.waits += args[0].device == CUDA
            return 1
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            self.convolved.add(args[0].dtype)
        if isinstance(result, torch.Tensor) and result.device == CUDA:
            given = [a for a in args if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
            self.copied.update(tuple(tensor.shape) for tensor in given if tensor.ndim)
        return result


def backward(loss, *_, **__):
    """A gradient for whatever the loss depends on: autograd's own needs a real device."""
    assert loss.device == CUDA
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [previous for previous, _ in node.next_functions]
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)


@pytest.fixture
def gpu(monkeypatch):
    """Let this machine seem to have a GPU of a given compute capability; gives the traffic."""
    moved = torch.nn.Module.to

    def to(module, *where, **how):  # fake weights cannot be moved twice
        there = next(module.parameters()).device == CUDA
        return module if there else moved(module, *where, **how)

    def start(*capability):
        here = types.SimpleNamespace(device=CUDA)
        monkeypatch.setattr(device, "distributed_state", lambda: here)
        monkeypatch.setattr(device, "num_workers", lambda: 0)
        monkeypatch.setattr(device, "device_name", lambda _: "Tesla T4")
        monkeypatch.delenv("ACCELERATE_USE_CPU")
        state = {**vars(PartialState(cpu=True)), "device": CUDA}
        monkeypatch.setattr(PartialState, "_shared_state", state)
        monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # takes the precision over
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(1))
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        monkeypatch.setattr(torch.nn.Module, "to", to)
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        # Without the trial in float32.
        monkeypatch.setattr(device, "prepare_model", lambda model, device: model.to(device))
        return Traffic()

    return start


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
@pytest.mark.parametrize("net", MODELS)
def test_a_step_copies_images_and_labels_alone_and_waits_for_loss_scaling_alone(
    net, capability, dtype, gpu, sample, capsys
):
    sample = sample.subset(None)  # with constants of its own: those here are fake
    traffic, model = gpu(*capability), get_model(net)
    with FakeTensorMode(allow_non_fake_inputs=True), traffic:
        model.to(CUDA, memory_format=torch.channels_last)
        predict(model, sample, sample.test_images)
        traffic.copied.clear(), traffic.convolved.clear()
        history = fit(model, sample, None, CONFIG)
    steps = len(history.lrs)
    test = sample.test_images.transpose(0, 3, 1, 2).shape
    assert traffic.copied == {IMAGES: steps, LABELS: steps, test: 1, test[:1]: 1}
    means = 2 * 3  # loss, accuracy and number of images, once each for training and test
    assert traffic.waits == means + (steps if dtype == "float16" else 0)
    assert traffic.convolved == {getattr(torch, dtype)}


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_the_range_test_runs_in_the_precision_of_the_gpu(capability, dtype, gpu, sample):
    sample = sample.subset(None)
    traffic, model, steps = gpu(*capability), get_model("s10"), 4
    with FakeTensorMode(allow_non_fake_inputs=True), traffic:
        model.to(CUDA, memory_format=torch.channels_last)
        traffic.copied.clear()
        found = lr_range_test(model, sample, None, LONGER, steps=steps)
    assert len(found) == steps
    assert traffic.convolved == {getattr(torch, dtype)}
    constants = 2
    assert traffic.copied == {IMAGES: steps, LABELS: steps, (1, 3, 1, 1): constants}
    assert traffic.waits == steps * (2 if dtype == "float16" else 1)  # its loss is read every step


def test_constants_that_a_prediction_put_on_the_device_serve_in_training(sample):
    sample, model = sample.subset(None), validate_model(small_network())
    predict(model, sample, sample.test_images)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    sample.normalize(images).sum().backward()
    expected = 1 / (255 * torch.from_numpy(sample.std).float())
    assert torch.allclose(images.grad[0, :, 0, 0], expected)


def test_the_fastest_algorithms_are_searched_for_in_training_and_evaluation(sample, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    seen = []

    class Watching(torch.nn.Linear):
        def forward(self, images):
            cudnn = torch.backends.cudnn
            seen.append((self.training, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
            return super().forward(images.flatten(1))

    model = Watching(3 * 32 * 32, 10)
    fit(model, sample, None, CONFIG)
    seen.pop(0)  # a trial of how it may lie in memory
    assert {flags[:3] for flags in seen} == {(True, True, False), (False, True, False)}
    assert {tf32 for training, _, _, tf32 in seen if not training} == {False}
    seen.clear()
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # chosen by whoever calls
    predict(model, sample, sample.test_images)
    assert set(seen) == {(False, True, True, False)}


@pytest.mark.parametrize(
    ("cpus", "allowed", "processes", "workers"),
    [
        (2, {0, 1}, 1, 2),  # Colab with a T4
        (12, set(range(12)), 1, 8),
        (64, {3, 5, 7}, 1, 3),
        (64, set(range(64)), 16, 4),
        (4, {0, 1, 2, 3}, 8, 1),
        (6, None, 1, 6),  # a system that does not say which
        (6, None, 4, 1),
        (None, None, 1, 1),
    ],
)
def test_workers_are_no_more_than_the_cpus_that_this_process_may_use(
    cpus, allowed, processes, workers, monkeypatch
):
    here = types.SimpleNamespace(device=CUDA)
    monkeypatch.setattr(device, "distributed_state", lambda: here)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    if allowed is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert device.num_workers() == workers
    here.device = torch.device("cpu")
    assert device.num_workers() == 0


@pytest.mark.parametrize("module", [training, lr_finder])
def test_training_and_range_test_load_with_the_workers_of_the_device(
    module, sample, tmp_path, monkeypatch
):
    workers = []

    def make_train_loader(*arguments, make=module.make_train_loader):
        workers.append(arguments[3])
        return make(*arguments[:3])

    monkeypatch.setattr(module, "make_train_loader", make_train_loader)
    monkeypatch.setattr(device, "num_workers", lambda: 2)
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    experiment = dataclasses.replace(EXPERIMENTS["S7/s7_dropout"], model="tiny")
    settings = Settings(Profile("tiny", epochs=1), "sample", output_dir=tmp_path)
    find_experiment_lr(experiment, sample.subset(32), settings)
    assert set(workers) == {2}


def test_the_range_test_scales_the_loss_and_skips_steps_that_overflow(sample, monkeypatch, capsys):
    expected = lr_range_test(fresh(), sample, None, LONGER, steps=30)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10_000)
    stand_in = types.SimpleNamespace(
        device=torch.device("cpu"), scaler=scaler, prepare_model=lambda network, **_: network
    )
    monkeypatch.setattr(device, "create_accelerator", lambda: stand_in)
    overflows = iter([True, True, False, True])
    scaled = scaler.scale

    def overflowing(loss):
        return scaled(loss) * (torch.inf if next(overflows, False) else 1)

    monkeypatch.setattr(scaler, "scale", overflowing)
    found = lr_range_test(fresh(), sample, None, LONGER, steps=30)
    assert scaler.get_scale() == 1024 / 2**3, "three steps should have been skipped"
    assert found["learning_rate"].tolist() == expected["learning_rate"].tolist()
    assert np.isfinite(found["loss"]).all()
    assert found["loss"].min() < found["loss"].iloc[0]
    assert capsys.readouterr() == ("", "")


def small_network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.BatchNorm2d(8),
        torch.nn.Dropout(0.5),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    )


def fresh():
    model = small_network()
    model(torch.zeros(2, 3, 32, 32))
    return model


@pytest.mark.parametrize("name", ["SGD", "Muon", "AdamW"])
def test_a_first_step_that_overflows_leaves_no_garbage_in_the_optimizer(name, sample, monkeypatch):
    """As SGD's fused form does: its momentum is whatever memory held before."""
    config = TrainConfig(**{**vars(CONFIG), "optimizer": name})
    optimizers = []

    def build_optimizer(*arguments, build=training.build_optimizer):
        optimizers.append(build(*arguments))
        return optimizers[0]

    monkeypatch.setattr(training, "build_optimizer", build_optimizer)
    accelerator = Accelerator(mixed_precision=device.create_accelerator().mixed_precision)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model, overflows = fresh(), iter([True])
    model[-1].weight.register_hook(lambda g: g * torch.inf if next(overflows, False) else g)
    garbage = torch.empty_like

    def dirty(*given, **options):
        return garbage(*given, **options).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty_like", dirty)
    fit(model, sample, None, config, accelerator=accelerator)
    assert accelerator.scaler.get_scale() == 512
    assert all(torch.isfinite(p).all() for p in model.parameters())
    states = pd.Series(optimizers[0].state.values()).map(dict.values).explode()
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in states)
