"""Networks of anybody's, judged by what an assignment demands: one after the other, as a class."""

import itertools
import sys
from glob import glob
from pathlib import Path

import pandas as pd
from torch import nn

from helpers.anatomy import receptive_field, requirements
from helpers.anatomy.summary import parameter_count
from helpers.files import line, reading
from helpers.runs import results
from helpers.settings import one_of
from tracing.layers import layers
from upkeep.networks import named


def grade(notebook: str, networks: list[str], run: Path | None, csv: Path | None) -> int:
    """Judge networks, print each verdict, and write a row for each into `csv`; return exit code.

    Networks have the names of `networks.named`, with * and ? for any part of a file's name; the
    demands on a run are added from the metrics in the folder `run`. The code is 0 where all demands
    are met, 1 where not, 2 where a network cannot be judged. Raises ValueError for an unknown
    notebook or damaged metrics.
    """
    one_of("notebook", notebook, requirements.DEMANDS)
    metrics = results.metrics_of(run) if run else None
    code, rows = 0, []
    for network in itertools.chain.from_iterable(map(_meant, networks)):
        print(f"{network}, judged by the demands of {notebook}", flush=True)
        try:
            model = named(network)
            table, sizes = requirements.of_network(notebook, model), _sizes(model)
        except Exception as error:  # one network must not cost the others their verdicts
            why = str(error) if isinstance(error, ValueError) else line(error)
            print(f"error: {why}", file=sys.stderr)
            code = 2
            rows.append({"network": network, "error": why})
            continue
        if run:
            with reading(run / "metrics.json"):
                table = pd.concat([table, requirements.of_run(notebook, metrics)])
        code = max(code, int(not table["passed"].all()))
        met = {"demands met": f"{table['passed'].sum()} of {len(table)}"}
        verdicts = dict(zip(table["demand"], table["passed"], strict=True))
        rows.append({"network": network, **sizes, **met, **verdicts})
        print(*(f"  {name}: {value}" for name, value in (sizes | met).items()), sep="\n")
        for demand in table.itertuples():
            mark = "passed" if demand.passed else "FAILED"
            print(f"  {mark}  {demand.demand}: {demand.measured}")
    if csv:
        pd.DataFrame(rows, dtype=object).to_csv(csv, index=False)
    return code


def _meant(network: str) -> list[str]:
    """What "*/net.py:Class" stands for, which a shell cannot tell; any other name as it is."""
    files, _, name = network.rpartition(":")
    return [f"{file}:{name}" for file in sorted(glob(files))] or [network]


def _sizes(model: nn.Module) -> dict[str, object]:
    before, including = receptive_field.receptive_field(layers(model))
    return {
        "parameters": parameter_count(model),
        "receptive field before the global pooling": receptive_field.shown(before),
        "receptive field including it": receptive_field.shown(including),
    }
