"""Writing files so that none is half there, and saying what is in the way."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout


def write(path: Path, content: str | bytes) -> None:
    """Write a file aside, then rename it, so that it is never half there.

    Raises OSError with the room that is needed and there is; what was written aside is gone then.
    """
    content = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, len(content), torn=partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)


@contextlib.contextmanager
def writing(path: Path, size: int, torn: Path) -> Iterator[None]:
    """Remove what is `torn` where writing fails; OSError then names the file, why, and the room."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            torn.unlink()
        raise cannot_write(path, size, error) from error


def cannot_write(path: Path, size: int, error: OSError) -> OSError:
    """An error that names the file, the reason, and the room in MB."""
    folder = next(place for place in path.absolute().parents if place.exists())
    room = f"it takes {size / 1e6:.1f} MB, {shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
    return OSError(f"{path} cannot be written: {error.strerror or error}; {room}")


class Damaged(ValueError):
    """A file is not what was written."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise Damaged, with the name of the file, for whatever fails on what stands in it."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {file}: train the run first") from None
    except (OSError, Damaged):  # which say what they are about
        raise
    except Exception as error:  # damage has many faces
        raise Damaged(f"{file} is damaged ({line(error)}): train the run again") from error


@contextlib.contextmanager
def alone(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Let nobody else on this machine work on a folder; a process that dies lets go of it.

    Waits so many seconds (-1: for ever), then raises BlockingIOError where somebody still does.
    """
    name = digest(f"{folder.absolute()} {psutil.Process().username()}".encode())
    lock = FileLock(Path(tempfile.gettempdir()) / f"cifar10-notebooks-{name[:16]}.lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        problem = f"another process is training the run in {folder}"
        raise BlockingIOError(f"{problem}: wait until it is done, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def digest(content: bytes) -> str:
    """The SHA-256 sum of some bytes."""
    return hashlib.sha256(content).hexdigest()


def line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
