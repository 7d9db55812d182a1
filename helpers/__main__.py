"""The command line, `python -m helpers`: fetch the data, train, run notebooks, check and report."""

import contextlib
import os
import signal
import sys

import psutil

from upkeep.commands import app


def _stop(number: int, _: object) -> None:
    # Ended at once, as by a kill, which all files survive: kernels and loaders first, without
    # which the tear-down of libraries would end in tracebacks.
    os.write(2, b"\nStopped. The same command goes on after the last whole epoch.\n")
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(RuntimeError):  # where something was just being written to it
        sys.stdout.flush()
    os._exit(128 + number)  # as shells count


def main() -> None:
    """Run the command line; what is wrong outside the code is one line, and exit code 1 or 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(prog_name="python -m helpers")
    except (ValueError, OSError, FloatingPointError) as error:
        print("error:", *f"{error}".split(), file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)  # 2: an argument or a variable


if __name__ == "__main__":
    main()
