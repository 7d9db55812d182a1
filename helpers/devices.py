"""Which device trains, in which precision, and what makes it fast."""

import ctypes
import os
import platform
from importlib.metadata import version

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import get_int_from_env, parse_flag_from_env
from torch import Tensor, nn

from tracing.layers import at_rest

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def precision(device: torch.device) -> str:
    """The mixed precision that is fast there, as Accelerate names it: "bf16", "fp16" or "no".

    bf16 on CPUs with AVX512-BF16 or AMX (unless ATEN_CPU_CAPABILITY=avx2 puts that aside) and on
    GPUs from compute capability 8.0; older GPUs claim bf16 but emulate it: fp16 with loss scaling;
    float32 elsewhere.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    wide = device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()
    features = torch.cpu.get_capabilities() if wide else {}
    return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "no"


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries on which a run's figures depend."""
    names = ("torch", "torchvision", "albumentations", "numpy", "accelerate")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def processes() -> PartialState:
    """Accelerate's handle on the processes that train together, this one among them."""
    forced = parse_flag_from_env("ACCELERATE_USE_CPU")  # Accelerate does not heed it here
    return PartialState(cpu=forced or not torch.accelerator.is_available())


def accelerator() -> Accelerator:
    """Accelerate's handle on the device or devices, in the precision that is fast there."""
    device = processes().device
    if device.type == "cpu":
        keep_memory()
    torch.backends.cudnn.benchmark = True  # the fastest algorithm for every shape, found by trying
    return Accelerator(mixed_precision=precision(device))


def workers() -> int:
    """How many processes load images for this one: none for a CPU, which would have to share.

    For a GPU, as many as this process may use CPUs, up to 8; processes on one host share them.
    """
    if processes().device.type != "cuda":
        return 0
    known = hasattr(os, "sched_getaffinity")  # Linux alone says which CPUs a process may use
    cpus = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min(8, cpus // get_int_from_env(["LOCAL_WORLD_SIZE"], 1)))


def keep_memory() -> None:
    """Make glibc keep freed activations for the next step, which else pays a page fault a page."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # One heap for the threads of both directions, and nothing given back.
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            libc.mallopt(name, value)


def describe(device: torch.device) -> str:
    """The device's name for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()}, {device.type}"  # as in "arm64, mps"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    threads = torch.get_num_threads()
    return f"{name or 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, channels last in memory where its `forward` allows that.

    Channels last is what convolutions are fast with; `view` refuses it, and on Macs PyTorch's
    gradients of it are wrong up to version 2.13 at least (its issues 175189 and 175190).
    """
    if device.type == "mps":
        return model.to(device)
    model.to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, 32, 32, device=next(model.parameters()).device)
    try:
        with at_rest(model):
            model(laid_out(images, model))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
    return model.to(device)


def laid_out(images: Tensor, model: nn.Module) -> Tensor:
    """Images (N, 3, H, W) in memory as the weights of the network are."""
    last = any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
