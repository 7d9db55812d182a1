"""Whether the kept networks are what their metrics.json files say, measured again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from helpers import devices, results
from helpers.data import ImageData

POINTS, CLASS_POINTS = 0.05, 0.5  # how far an accuracy may be off, in percentage points


def verify(root: Path, data: ImageData, tta: bool = False) -> list[str]:
    """Evaluate every kept run of `root`/results, print a table; return what does not hold.

    `tta` evaluates the mirror images too. Whatever differs is named with both values.
    """
    wrong = []
    files = sorted((root / "results").glob("[!_]*/*/metrics.json"))
    for file in files:
        name = "/".join(file.parts[-3:-1])
        print(f"{name}: evaluating on {len(data.test_labels):,} test images", flush=True)
        try:
            rows = pd.DataFrame(_compare(file, data, tta))
        except (KeyError, ValueError, RuntimeError, SafetensorError, OSError) as error:
            wrong.append(f"{name}: cannot be evaluated: {type(error).__name__} {error}")
            continue
        print(rows.to_string(index=False))
        off = rows[~rows["holds"]]
        wrong += [f"{name}: {r.figure} is {r.measured}, not {r.stated}" for r in off.itertuples()]
    return wrong if files else [f"there are no kept runs in {root / 'results'}"]


def _compare(file: Path, data: ImageData, tta: bool) -> Iterator[dict[str, Any]]:
    stated = json.loads(file.read_text())
    model = results.with_weights(stated["net"], (file.parent / "model.safetensors").read_bytes())
    measured, _ = results.measure(model.to(devices.accelerator().device), data, tta)
    measured["requirements"] = results.judged(model, stated)
    for figure, value in measured.items():
        holds = _holds(figure, stated[figure], value)
        yield {"figure": figure, "stated": stated[figure], "measured": value, "holds": holds}


def _holds(figure: str, stated: Any, measured: Any) -> bool:
    if figure == "class_accuracy":
        near = (abs(stated[c] - measured[c]) <= CLASS_POINTS for c in measured)
        return stated.keys() == measured.keys() and all(near)
    if figure.startswith("test_accuracy"):
        return abs(stated - measured) <= POINTS
    return stated == measured
