"""Tables of short runs, filled row by row: what is there already is not measured again."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from helpers.runs import results


def fill(file: Path, seed: int, measure: dict[str, Callable[[], dict]]) -> None:
    """Measure every name that the CSV file does not have with this seed, and keep each at once."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["name", "seed"])
    for name, measured in measure.items():
        if ((table["name"] == name) & (table["seed"] == seed)).any():
            continue
        print(f"\n{name}, seed {seed}")
        row = pd.DataFrame([{"name": name, "seed": seed} | measured()])
        table = pd.concat([table, row]) if len(table) else row
        results.write(file, table.to_csv(index=False))
