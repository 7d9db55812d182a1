"""The peak speed of the machine: the fastest of several large products, and a large copy."""

import time
from collections.abc import Callable

import torch
from torch import nn

from helpers import device

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
MATRIX_SIZES = (1024, 2048, 4096)
CONVOLUTIONS = ((128, 32), (256, 16), (512, 8))  # channels; height and width in pixels
CONV_BATCH_SIZE = 128
COPY_BYTES = 2**28


def measure_roofline(seconds: float = 0.3) -> dict[str, float | str]:
    """Measure peak FLOP/s in the precision that trains on this machine, and peak memory bandwidth.

    Args:
        seconds: How long each operation is repeated. Its shortest time counts.

    Returns:
        "flops", FLOP/s of the fastest operation; "by", its name; "copy_bytes", bytes per second
        that a copy reads and writes.
    """
    target = device.create_accelerator().device
    options = {"device": target, "dtype": DTYPES[device.mixed_precision(target)]}
    flops = {}
    for size in MATRIX_SIZES:
        a = torch.randn(size, size, **options)
        b = torch.randn(size, size, **options)
        shortest = _shortest_time(lambda a=a, b=b: a @ b, seconds)
        flops[f"matrix product, {size}"] = 2 * size**3 / shortest
    for channels, side in CONVOLUTIONS:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, **options)
        conv = conv.to(memory_format=torch.channels_last)
        images = torch.randn(CONV_BATCH_SIZE, channels, side, side, **options)
        images = images.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            shortest = _shortest_time(lambda conv=conv, images=images: conv(images), seconds)
        flop = 2 * CONV_BATCH_SIZE * side**2 * channels**2 * 9
        flops[f"3x3 convolution, {channels} channels"] = flop / shortest
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=target)
    destination = torch.zeros_like(source)
    shortest = _shortest_time(lambda: destination.copy_(source), seconds)
    fastest = max(flops, key=flops.get)
    return {"flops": flops[fastest], "by": fastest, "copy_bytes": 2 * COPY_BYTES / shortest}


def _shortest_time(operation: Callable[[], object], seconds: float) -> float:
    """Repeat an operation and return its shortest time in seconds."""
    operation()  # warm-up
    times = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 3:
        operation_start = time.perf_counter()
        operation()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - operation_start)
    return min(times)
