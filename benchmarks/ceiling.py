"""What the machine can do at best: the fastest of several large products, and a large copy."""

import time
from collections.abc import Callable

import torch

from helpers import devices

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
SIZES = (1024, 2048, 4096)
CONVOLUTIONS = ((128, 32), (256, 16), (512, 8))  # channels, pixels a side


def ceiling(seconds: float = 0.3) -> dict[str, float | str]:
    """FLOP/s of the fastest product, in the precision that trains here, and bytes/s of a copy.

    Each is repeated for so many seconds, and its shortest time counts.
    """
    device = devices.accelerator().device
    options = {"device": device, "dtype": DTYPES[devices.precision(device)]}
    speeds = {}
    for size in SIZES:
        a, b = torch.randn(size, size, **options), torch.randn(size, size, **options)
        flop = 2 * size**3
        speeds[f"matrix product, {size}"] = flop / _shortest(lambda a=a, b=b: a @ b, seconds)
    for channels, side in CONVOLUTIONS:
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, **options)
        conv = conv.to(memory_format=torch.channels_last)
        maps = torch.randn(128, channels, side, side, **options)
        maps = maps.to(memory_format=torch.channels_last)
        flop = 2 * 128 * side**2 * channels**2 * 9
        with torch.inference_mode():
            shortest = _shortest(lambda conv=conv, maps=maps: conv(maps), seconds)
        speeds[f"3x3 convolution, {channels} channels"] = flop / shortest
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copied = 2 * len(source) / _shortest(lambda: target.copy_(source), seconds)
    best = max(speeds, key=speeds.get)
    return {"flops": speeds[best], "by": best, "copy_bytes": copied}


def _shortest(work: Callable, seconds: float) -> float:
    work()
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 3:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)
