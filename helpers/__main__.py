"""The command line, `python -m helpers`: fetch the data, train, run notebooks, check and report."""

import contextlib
import os
import signal
import sys
from typing import Annotated

import psutil
import typer

from helpers.settings import Settings, cifar10_root, one_of
from upkeep import commands

app = typer.Typer(
    help="CIFAR-10 notebooks: fetch the data, train, run the notebooks, check and report.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,
)  # fmt: skip


@app.command()
def data() -> None:
    """Fetch CIFAR-10 into CIFAR10_ROOT (default: data/), unless it is there, and check it."""
    from helpers.images.data import cifar10

    mean, std = cifar10(cifar10_root()).statistics
    print(f"CIFAR-10 is in {cifar10_root()}; mean {mean.round(4)}, deviation {std.round(4)}")


@app.command()
def train(
    run: Annotated[str, typer.Argument(help="Which, as in 'S7/s7'.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from SEED on.")] = 1,
    validation: Annotated[bool, typer.Option(help="Train on 9 of 10, test on 1 of 10.")] = False,
    scale: Annotated[bool, typer.Option(help="A whole batch for each process.")] = False,
) -> None:
    """Train one run, or continue it, and keep its files.

    PROFILE, DATASET, SEED, RESUME and REUSE in the environment choose how. With --validation, the
    training images alone are split: choices are made there, not on the test images. Several
    processes (torchrun) share each batch, or with --scale take one each, at a higher rate.
    """
    from helpers import devices
    from helpers.evaluation import test_accuracy
    from helpers.images import data
    from helpers.runs import conductor, pace
    from helpers.runs.catalogue import RUNS

    chosen, settings = RUNS[one_of("run", run, RUNS)], Settings.from_environment()
    processes = devices.processes()
    # One process downloads, or one on each host; the others find the data there.
    with processes.main_process_first(), processes.local_main_process_first():
        images = data.load(settings, validation)
        images = pace.affordable(images, settings, run.split("/")[0])
    batches = processes.num_processes if scale else 1
    result = conductor.train(chosen, images, settings, seeds, batches)
    share, tested = test_accuracy(result.logits, images), len(result.logits)
    processes.print(f"{share:.2f} % of {tested:,} test images right; {result.folder}")
    processes.destroy_process_group()


app.add_typer(commands.app)  # check, summary, seeds, run, verify, report


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
