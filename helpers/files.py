"""Atomic writes, file locks, and clear errors for damaged files and full disks."""

import contextlib
import getpass
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that it is never half-written.

    The content goes to a temporary file first, which then replaces the file.

    Args:
        path: The file. Missing folders are created.
        content: Text, written as UTF-8, or bytes.

    Raises:
        OSError: If the file cannot be written. The message states the size and the free space.
    """
    content = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    with write_guard(path, len(content), partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)


@contextlib.contextmanager
def write_guard(path: Path, size: int, partial: Path) -> Iterator[None]:
    """Delete the partial file and raise a clear error if writing inside the block fails.

    Args:
        path: The file that the error names.
        size: The number of bytes to write.
        partial: The file to delete after a failure.

    Raises:
        OSError: If the block raises one. The message states the size and the free space.
    """
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise disk_error(path, size, error) from error


def disk_error(path: Path, size: int, error: OSError) -> OSError:
    """Return an OSError that names the file, the cause and the free disk space in MB.

    Args:
        path: The file that cannot be written.
        size: The number of bytes to write.
        error: The original error.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return OSError(
        f"{path} cannot be written: {error.strerror or error}; "
        f"it takes {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
    )


class CorruptFileError(ValueError):
    """A file does not contain what was written to it."""


@contextlib.contextmanager
def corruption_guard(file: Path) -> Iterator[None]:
    """Convert any parsing error inside the block to a CorruptFileError that names the file.

    Args:
        file: The file that the block reads.

    Raises:
        FileNotFoundError: If the file is missing.
        CorruptFileError: If the content cannot be parsed.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {file}: train the run first") from None
    except (OSError, CorruptFileError):  # these name the file already
        raise
    except Exception as error:  # any exception type can indicate a corrupt file
        raise CorruptFileError(
            f"{file} is damaged ({format_error(error)}): train the run again"
        ) from error


@contextlib.contextmanager
def file_lock(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Hold an exclusive lock on a folder. The lock is released if the process dies.

    The lock file is in the system's temporary folder, because the folder itself may be read-only,
    or on Google Drive, which does not support locks.

    Args:
        folder: The folder to lock. It need not exist.
        seconds: How long to wait for another process. -1 waits forever.

    Raises:
        BlockingIOError: If another process still holds the lock after that time.
    """
    # Each user has lock files of their own: nobody may open those of another user.
    name = sha256(f"{folder.absolute()} {getpass.getuser()}".encode())[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"cifar10-notebooks-{name}.lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise BlockingIOError(
            f"another process is working in {folder}: wait until it is done, or stop it"
        ) from None
    try:
        yield
    finally:
        # Removed while it is held: a process that waits for it notices and makes a new one. Windows
        # does not remove open files.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def sha256(content: bytes) -> str:
    """Return the SHA-256 checksum in hexadecimal.

    Args:
        content: The bytes to hash.
    """
    return hashlib.sha256(content).hexdigest()


def format_error(error: BaseException) -> str:
    """Return the type of an error and the first line of its message.

    Args:
        error: The error to describe.
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]


def try_or_none(what: str, make: Callable[[], Any]) -> Any:
    """Call a function; if it fails, print the reason and return None.

    Libraries fail in many ways on models that they do not know. A trained model must not be lost
    because one of its tables cannot be made.

    Args:
        what: What the function makes, for the message.
        make: The function.
    """
    try:
        return make()
    except Exception as error:
        print(f"This network has no {what}: {format_error(error)}")
        return None
