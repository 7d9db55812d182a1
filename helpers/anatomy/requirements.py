"""Whether a network and its run meet what the assignments demand."""

import pandas as pd
from torch import nn

from helpers.anatomy.demands import DEMANDS
from helpers.anatomy.judges import Network
from helpers.anatomy.summary import parameter_count
from tracing.layers import watched


def of_network(notebook: str, model: nn.Module) -> pd.DataFrame:
    """The notebook's demands on the network: demand, measured, passed."""
    layers, used = watched(model)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    part = sum(trained[name] for name in trained.keys() & used)
    network = Network(layers, parameter_count(model), part)
    return _judge(DEMANDS[notebook][0], network)


def of_run(notebook: str, metrics: dict) -> pd.DataFrame:
    """The notebook's demands on the run whose `metrics.json` this is."""
    return _judge(DEMANDS[notebook][1], metrics)


def _judge(demands: dict[str, list], subject: Network | dict) -> pd.DataFrame:
    rows = [(demand, *judge(subject, *asked)) for demand, (judge, *asked) in demands.items()]
    return pd.DataFrame(rows, columns=["demand", "measured", "passed"])


def side_by_side(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Judged demands in rows, a column for each network: a mark and a word, then what was found."""
    words = {True: "✓ passed", False: "✗ failed"}
    columns = {
        name: {x.demand: f"{words[x.passed]}: {x.measured}" for x in table.itertuples()}
        for name, table in tables.items()
    }
    return pd.DataFrame(columns).rename_axis("demand").fillna("-")
