"""Device, mixed precision, memory format, and evaluation mode."""

import contextlib
import copy
import ctypes
import os
import platform
import random
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin, get_int_from_env, parse_flag_from_env
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # constants of glibc's malloc.h


def mixed_precision(device: torch.device) -> str:
    """Return the fast precision of a device in Accelerate's terms.

    Args:
        device: The device that trains.

    Returns:
        "bf16" on CPUs with AVX512-BF16 or AMX, unless ATEN_CPU_CAPABILITY=avx2 disables them, and
        on GPUs of compute capability 8.0 or newer. "fp16" on older GPUs, which only emulate bf16.
        "no" (float32) on other devices.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability():
        features = torch.cpu.get_capabilities()
        if features.get("avx512_bf16") or features.get("amx_bf16"):
            return "bf16"
    return "no"


def precision_name(mixed_precision: str) -> str:
    """Return the name of a precision for people, "float32" for "no".

    Args:
        mixed_precision: The precision in Accelerate's terms, "bf16", "fp16" or "no".
    """
    return "float32" if mixed_precision == "no" else mixed_precision


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect a run's numbers."""
    names = ("torch", "torchvision", "albumentations", "numpy", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def distributed_state() -> PartialState:
    """Return Accelerate's state of this process and of those that train with it (torchrun)."""
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # PartialState ignores it without this
    return PartialState(cpu=use_cpu or not torch.accelerator.is_available())


def create_accelerator() -> Accelerator:
    """Create an Accelerator in the fast precision and configure the process for training.

    This changes the process: cuDNN searches for the fastest algorithms, and on a CPU glibc keeps
    freed memory (`tune_malloc`).
    """
    device = distributed_state().device
    if device.type == "cpu":
        tune_malloc()
    torch.backends.cudnn.benchmark = True
    return Accelerator(
        mixed_precision=mixed_precision(device),
        # Otherwise ACCELERATE_GRADIENT_ACCUMULATION_STEPS would change the training.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def num_workers() -> int:
    """Return the number of data loader workers for this process.

    Returns:
        0 on a CPU, whose cores are busy training. On a GPU, up to 8 of the CPUs that this process
        may use, divided by the number of processes on this host.
    """
    if distributed_state().device.type != "cuda":
        return 0
    # Only Linux says which CPUs a process may use.
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(8, cpus // get_int_from_env(["LOCAL_WORLD_SIZE"], 1)))


def tune_malloc() -> None:
    """Configure glibc malloc to keep freed memory in the process.

    Without this, every training step causes page faults for its activations.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_ARENA_MAX, 1)  # one heap for forward and backward threads


def device_name(device: torch.device) -> str:
    """Return the name of a device for people, for example "Tesla T4".

    Args:
        device: The device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()}, {device.type}"  # for example "arm64, mps"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "CPU"
    threads = torch.get_num_threads()
    return f"{name}{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return family and model of a CPU, which tell machines of one vendor apart, or nothing."""
    try:
        text = cpuinfo.read_text()
    except OSError:  # not on Linux
        return ""
    found = re.search(r"^cpu family\s*: (\d+)\nmodel\s*: (\d+)$", text, re.MULTILINE)
    return " (family {}, model {})".format(*found.groups()) if found else ""


@contextlib.contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and PyTorch (on the CPU) after the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def copy_model(model: nn.Module) -> nn.Module:
    """Return a copy of a model, which may have scripted modules or computed weights.

    `copy.deepcopy` alone refuses weights that a hook has computed, as `weight_norm` does.

    Args:
        model: The model.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    memo = {id(value): value.detach().clone() for value in computed}
    with torch.no_grad():  # a scripted module is copied by operations
        return copy.deepcopy(model, memo)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients; restore modes and random states after.

    Args:
        model: The model. Each of its modules gets its own mode back.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), preserve_random_state():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def prepare_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in channels-last format if its `forward` supports that.

    Convolutions run faster in channels-last format. Models that call `view` fail in that format
    and stay contiguous. On Macs PyTorch computes wrong gradients in channels-last format, up to
    version 2.13 at least (its issues 175189 and 175190).

    Args:
        model: The model, changed in place.
        device: The device.

    Returns:
        The same model.
    """
    if device.type == "mps":
        return model.to(device)
    model.to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
    try:
        with eval_mode(model):
            model(match_memory_format(images, model))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
    return model.to(device)


def match_memory_format(images: Tensor, model: nn.Module) -> Tensor:
    """Return the images in the memory format of the model's weights.

    Args:
        images: Images (N, 3, H, W).
        model: The model that will receive them.
    """
    channels_last = any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.contiguous(memory_format=memory_format)
