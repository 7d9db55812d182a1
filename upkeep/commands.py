"""The commands that look at networks (check, summary) and notebooks, and at what was kept."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from helpers.settings import ROOT, Settings, cifar10_root, one_of

app = typer.Typer()


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
    from helpers import models
    from helpers.anatomy import receptive_field, summary
    from tracing.layers import layers

    model = models.build(net)
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
    runs = {run: m for run, m in tables.kept(folder).items() if m["notebook"] in names}
    print(f"\n{tables.table(runs)}\n\nFigures, weights and metrics are in {folder}")


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
    """Write the hand-in of one kept run, or the tables and hand-ins of all, into READMEs."""
    from upkeep import handin, tables

    if run:
        print(handin.of_run(run))
    else:
        tables.report()
        handin.of_notebooks()
