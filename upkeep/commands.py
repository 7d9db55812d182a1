"""The commands of `python -m helpers`."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer

from helpers.settings import ROOT, Settings, cifar10_root, one_of

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
    from accelerate.utils import gather_object

    from helpers import devices
    from helpers.evaluation import test_accuracy
    from helpers.images import data
    from helpers.runs import conductor, pace, search
    from helpers.runs.catalogue import RUNS

    chosen, settings = RUNS[one_of("run", run, RUNS)], Settings.from_environment()
    processes = devices.processes()
    # One process downloads, or one on each host; the others find the data there.
    with processes.main_process_first(), processes.local_main_process_first():
        images = data.load(settings, validation)
        images = pace.affordable(images, settings, run.split("/")[0])
    here = f"{len(images.train_labels):,} training images of {images.title} in "
    here += devices.precision(processes.device).replace("no", "float32")
    if len(found := set(gather_object([here]))) > 1:
        remedy = "set DATASET and PROFILE, and take GPUs of one kind (CUDA_VISIBLE_DEVICES)"
        raise ValueError(f"processes differ: {' and '.join(sorted(found))}; {remedy}")
    if chosen.find_rate and not settings.reuse:
        chosen = search.with_found_rate(chosen, images, settings)[0]
    batches = processes.num_processes if scale else 1
    result = conductor.train(chosen, images, settings, seeds, batches)
    share, tested = test_accuracy(result.logits, images), len(result.logits)
    processes.print(f"{share:.2f} % of {tested:,} test images right; {result.folder}")
    processes.destroy_process_group()


@app.command()
def check(
    notebook: Annotated[str, typer.Argument(help="Whose demands, as in 'S9'.")],
    networks: Annotated[list[str], typer.Argument(help="As in 's9' or 'my_network.py:Net'.")],
    run: Annotated[
        Path | None, typer.Option(help="Its run's folder: adds the demands on it.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write a row for each network.")] = None,
) -> None:
    """Judge networks by what an assignment demands; a file of your own is imported for that.

    The exit code is 0 where all demands are met, 1 where not, 2 where a network cannot be judged.
    """
    from upkeep import grading

    sys.exit(grading.grade(notebook, networks, run, csv))


@app.command()
def summary(
    net: Annotated[str, typer.Argument(help="Which, as in 's7' or 'my_network.py:Net'.")],
) -> None:
    """Print a network's layer table, mult-adds and receptive fields."""
    from helpers.anatomy import receptive_field, summary
    from tracing.layers import layers
    from upkeep import networks

    model = networks.named(net)
    print(summary.layer_table(model))
    print(f"Mult-adds: {summary.mult_adds(model) / 1e6:,.2f} M\n")
    print(receptive_field.table(layers(model)).to_string())


@app.command()
def seeds(
    run: Annotated[str, typer.Argument(help="Which kept run, as in 'S7/s7'.")],
    number: Annotated[int, typer.Argument(min=2, help="How many there are to be in all.")] = 3,
) -> None:
    """Train further seeds of a kept run; their accuracies are put beside its own."""
    from upkeep import seeds

    print(seeds.add(run, number, Settings.from_environment("full")))


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="As in 'S7'; or all.")] = None,
) -> None:
    """Execute notebooks from top to bottom, and say what was reached and where it lies."""
    from helpers.images import data
    from upkeep import execution, tables

    known = execution.names()
    names = [one_of("notebook", name, known) for name in notebooks or known]
    settings = Settings.from_environment()
    profile = settings.profile
    if profile.seconds:  # several notebooks share the time of one
        profile = dataclasses.replace(profile, seconds=max(1, profile.seconds // len(names)))
    # Else every notebook would ask the net for the data again.
    settings = dataclasses.replace(settings, profile=profile, dataset=data.load(settings).key)
    for name in names:
        folder = execution.execute(name, settings)
    kept = tables.kept(ROOT / "results" if settings.reuse else folder)
    runs = {run: m for run, m in kept.items() if m["notebook"] in names}
    made = "Figures are" if settings.reuse else "Figures, weights and metrics are"
    print(f"\n{tables.table(runs)}\n\n{made} in {folder}")


@app.command()
def verify(tta: Annotated[bool, typer.Option("--tta", help="Mirror images too.")] = False) -> None:
    """Evaluate every kept network again, and compare with what its metrics.json says."""
    from helpers.images import data
    from upkeep import verification

    wrong = verification.verify(ROOT, data.cifar10(cifar10_root()), tta)
    print("\n".join(f"WRONG: {figure}" for figure in wrong) or "Everything holds.")
    sys.exit(1 if wrong else 0)


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(help="As in 'S9/mine'; or all pages.")] = None,
) -> None:
    """Write the report of one kept run, or the tables and reports of all, into READMEs."""
    from upkeep import handin, tables

    if run:
        print(handin.of_run(run))
    else:
        tables.report()
        handin.of_notebooks()


def _stop(owner: int, number: int, _: object) -> None:
    if os.getpid() != owner:  # one that loads images, which a terminal tells as well
        os._exit(128 + number)
    # Ended at once, as by a kill, which all files survive: kernels and loaders first, without
    # which the tear-down of libraries would end in tracebacks.
    os.write(2, b"\nStopped. The same command goes on after the last whole epoch or short run.\n")
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(RuntimeError):  # where something was just being written to it
        sys.stdout.flush()
    os._exit(128 + number)  # as shells count


def main() -> None:
    """Run the command line; what is wrong outside the code is one line, and exit code 1 or 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, functools.partial(_stop, os.getpid()))
    try:
        app(prog_name="python -m helpers")
    except (ValueError, OSError, FloatingPointError) as error:
        print("error:", *f"{error}".split(), file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)  # 2: an argument or a variable
