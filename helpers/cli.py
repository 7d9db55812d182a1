"""The commands of `python -m helpers`."""

import contextlib
import dataclasses
import functools
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from helpers.config import ROOT, Settings, cifar10_root, validate_choice

# The commands import what they need themselves, so that `--help` does not wait for PyTorch.
if TYPE_CHECKING:
    from helpers.data import ImageData
    from helpers.experiments import Experiment

# In help texts, \b keeps the line breaks of a paragraph.
ENVIRONMENT_HELP = """
\b
Environment variables:
  PROFILE        full, quick, smoke or auto: the amount of work
                 (auto, the default: full with an NVIDIA GPU, else quick)
  QUICK_SECONDS  time budget of the quick profile in seconds (70)
  DATASET        cifar10, sample or auto
                 (auto, the default: the sample if CIFAR-10 is not available)
  CIFAR10_ROOT   folder of cifar-10-batches-py (data/)
  SEED           whole number from 0 on (0)
  RESUME         1: continue from a checkpoint, 0: start from scratch (1)
  REUSE          1: load the saved run instead of training (0)

\b
Example:
  PROFILE=full SEED=1 python -m helpers train S7/s7
"""

STOP_MESSAGE = (
    "Stopped. Run the same command again to continue after the last complete epoch or short run."
)

app = typer.Typer(
    help="CIFAR-10 notebooks: download the data, train, run the notebooks, check and report.",
    epilog=ENVIRONMENT_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("data")
def data_command() -> None:
    """Download CIFAR-10 if necessary and check it.

    The data are in CIFAR10_ROOT, by default data/.
    """
    from helpers.data import load_cifar10

    root = cifar10_root()
    cifar10 = load_cifar10(root)
    print(f"CIFAR-10 is in {root}; mean {cifar10.mean.round(4)}, std {cifar10.std.round(4)}")


@app.command("train")
def train_command(
    run: Annotated[str, typer.Argument(help="The run to train, for example 'S7/s7'.")],
    network: Annotated[
        str | None,
        typer.Argument(help="A network to train in its place, for example 'my_network.py:Net'."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="The number of seeds, from SEED on.")] = 1,
    validation: Annotated[
        bool, typer.Option(help="Train on 9/10 of the training images, test on the others.")
    ] = False,
    scale: Annotated[
        bool, typer.Option(help="Give each process a full batch and scale the learning rate.")
    ] = False,
) -> None:
    """Train a run or continue it, and save its files.

    The environment variables PROFILE, DATASET, SEED, RESUME and REUSE apply. Use --validation to
    make choices without the test images. Several processes (torchrun) share each batch, unless
    --scale is given.

    With a NETWORK, its class is trained with the augmentation and hyperparameters of the run. The
    file is executed.
    """
    from helpers import device, experiments
    from helpers.evaluation import test_accuracy

    experiment = experiments.EXPERIMENTS[validate_choice("run", run, experiments.EXPERIMENTS)]
    if network:
        experiment = _with_network(experiment, network)
    settings = Settings.from_env()
    state = device.distributed_state()
    data = _load_training_data(experiment, settings, validation)
    _check_processes_agree(data)
    result = experiments.run_experiment(
        experiment,
        data,
        settings,
        seeds=seeds,
        batch_size_scale=state.num_processes if scale else 1,
    )
    accuracy = test_accuracy(result.logits, data)
    state.print(
        f"{accuracy:.2f} % of {len(result.logits):,} test images right; files in {result.folder}"
    )
    state.destroy_process_group()


def _with_network(experiment: "Experiment", network: str) -> "Experiment":
    """Return the experiment with a network from a file, named after its class."""
    from helpers.model_checker import load_named_model
    from helpers.models import MODELS

    name = type(load_named_model(network)).__name__
    MODELS[name] = functools.partial(load_named_model, network)
    return dataclasses.replace(
        experiment,
        name=f"{experiment.notebook}/{name}",
        model=name,
        config=dataclasses.replace(experiment.config, dropout=None),
        reference_accuracy=None,
        find_lr=False,
    )


def _load_training_data(
    experiment: "Experiment", settings: Settings, validation: bool
) -> "ImageData":
    """Load the data for training; the quick profile limits the number of images."""
    from helpers import device
    from helpers.data import load_data
    from helpers.quick_profile import limit_to_time_budget

    state = device.distributed_state()
    # One process downloads (on each host, unless hosts share their disk). The others find the
    # files on the disk.
    with state.main_process_first(), state.local_main_process_first():
        data = load_data(settings, validation=validation)
        return limit_to_time_budget(data, settings, experiment.notebook)


def _check_processes_agree(data: "ImageData") -> None:
    """Raise ValueError if the processes have different data or precisions."""
    from accelerate.utils import gather_object

    from helpers import device

    precision = device.precision_name(device.mixed_precision(device.distributed_state().device))
    setup = f"{len(data.train_labels):,} training images of {data.title} in {precision}"
    setups = sorted(set(gather_object([setup])))
    if len(setups) > 1:
        raise ValueError(
            f"processes differ: {' and '.join(setups)}; "
            "set DATASET and PROFILE, and take GPUs of one kind (CUDA_VISIBLE_DEVICES)"
        )


@app.command("check")
def check_command(
    notebook: Annotated[
        str, typer.Argument(help="The notebook with the requirements, for example 'S9'.")
    ],
    networks: Annotated[
        list[str],
        typer.Argument(
            help="Networks, for example 's9', 'my_network.py', 'S9.ipynb:Mine', "
            "'my_network.py:Net(dropout=0.1)' or 'class/*/net.py'."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="The folder of a run: also check the requirements on training."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row per network to this file.")] = None,
) -> None:
    """Check networks against an assignment.

    A file is executed with all rights of yours. Without a class, the one whose output is (N, 10)
    is taken. Of a notebook only definitions, imports and constants are executed. Bonuses and
    claims are counted apart. The exit code is 0 if all requirements are met, 1 if not, 2 if a
    network cannot be checked.
    """
    from helpers.model_checker import check_models

    sys.exit(check_models(notebook, networks, run, csv))


@app.command("summary")
def summary_command(
    network: Annotated[
        str, typer.Argument(help="The network, for example 's7' or 'my_network.py:Net'.")
    ],
) -> None:
    """Print the layers and receptive fields of a network."""
    from helpers.files import try_or_none
    from helpers.inspection import torchsummary_text, trace, trace_table
    from helpers.model_checker import load_named_model

    model = load_named_model(network)
    if summary := try_or_none("summary", lambda: torchsummary_text(model)):
        print(summary)
    if traced := try_or_none("number of multiply-adds and table of layers", lambda: trace(model)):
        print(f"Mult-adds: {traced.mult_adds / 1e6:,.2f} M\n")
        print(trace_table(traced.layers).to_string())


@app.command("seeds")
def seeds_command(
    run: Annotated[str, typer.Argument(help="The saved run, for example 'S7/s7'.")],
    number: Annotated[int, typer.Argument(min=2, help="The total number of seeds.")] = 3,
) -> None:
    """Train further seeds of a saved run.

    Their accuracies are added to the metrics of the run; its weights stay.
    """
    from helpers.experiments import add_seeds

    print(add_seeds(run, number, Settings.from_env("full")))


@app.command("run")
def run_command(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Notebooks, for example 'S7'. Default: the four lessons."),
    ] = None,
) -> None:
    """Execute notebooks and print their results.

    The notebooks of one command share the time budget of the quick profile.
    """
    from helpers.data import load_data
    from helpers.notebook_runner import ORDER, notebook_names, run_notebook
    from helpers.report import accuracy_table

    available = notebook_names()
    spelling = {name.casefold(): name for name in available}
    chosen = [spelling.get(name.casefold(), name) for name in notebooks or ORDER]
    names = [validate_choice("notebook", name, available) for name in chosen]
    settings = _share_time_budget(Settings.from_env(), len(names))
    # Choose the data once. Otherwise every notebook would try to download them.
    settings = dataclasses.replace(settings, dataset=load_data(settings).key)
    pages = [run_notebook(name, settings) for name in names]
    if any(name in ORDER for name in names):  # the playground has no runs of its own
        print(f"\n{accuracy_table(names, settings)}")
    print()
    print("Open these pages in a browser:")
    for page in pages:
        print(f"  {page}")
    if not settings.is_full and not settings.reuse:
        print(f"Next: train in full with `make run NOTEBOOKS={names[0]} PROFILE=full`.")


def _share_time_budget(settings: Settings, num_notebooks: int) -> Settings:
    """Divide the time budget of the quick profile among the notebooks."""
    if not settings.profile.seconds:
        return settings
    seconds = max(1, settings.profile.seconds // num_notebooks)
    profile = dataclasses.replace(settings.profile, seconds=seconds)
    return dataclasses.replace(settings, profile=profile)


@app.command("verify")
def verify_command(
    tta: Annotated[bool, typer.Option("--tta", help="Also evaluate the mirror images.")] = False,
) -> None:
    """Evaluate all saved networks again.

    The results are compared with metrics.json. The exit code is 1 if they differ.
    """
    from helpers.data import load_cifar10
    from helpers.verification import verify_results

    differences = verify_results(ROOT, load_cifar10(cifar10_root()), tta)
    for difference in differences:
        print(f"WRONG: {difference}")
    if not differences:
        print("All results are confirmed.")
    sys.exit(1 if differences else 0)


@app.command("report")
def report_command(
    run: Annotated[
        str | None, typer.Argument(help="A run, for example 'S9/mine'. Default: all pages.")
    ] = None,
) -> None:
    """Write the reports of saved runs.

    With a RUN, writes README.md into its folder. Otherwise writes the tables and reports of all
    saved runs into README.md and results/.
    """
    from helpers import report

    if run:
        print(report.write_run_report(run))
    else:
        report.write_results_tables()
        report.write_notebook_titles()
        report.write_notebook_reports()


def _exit_on_signal(main_pid: int, signal_number: int, _: FrameType | None) -> None:
    """End the process and its children at once, with one line and the exit code of shells."""
    exit_code = 128 + signal_number
    if os.getpid() != main_pid:  # a forked data loader: a terminal signals it, too
        os._exit(exit_code)
    # Exit without cleaning up, as after a kill: all files survive that. Kill kernels and data
    # loaders first; otherwise the libraries' shutdown would print tracebacks.
    os.write(2, f"\n{STOP_MESSAGE}\n".encode())
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(RuntimeError):  # the signal interrupted a write to stdout
        sys.stdout.flush()
    os._exit(exit_code)


def main() -> None:
    """Run the command line.

    An error outside the code is printed as one line. The exit code is 2 for a bad argument,
    variable or file content, and 1 for any other of these errors.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an output in cp1252 lacks some characters
            stream.reconfigure(errors="replace")
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, functools.partial(_exit_on_signal, os.getpid()))
    try:
        app(prog_name="python -m helpers")
    except (ValueError, OSError, FloatingPointError) as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
