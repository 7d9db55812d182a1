"""Whether the kept networks are what their metrics.json files say, measured again."""

from pathlib import Path

import pandas as pd

from helpers import devices
from helpers.images.data import ImageData
from helpers.models import MODELS
from helpers.runs import results
from helpers.runs.catalogue import RUNS

POINTS, CLASS_POINTS = 0.05, 0.5  # how far an accuracy may be off, in percentage points


def verify(root: Path, data: ImageData, tta: bool = False) -> list[str]:
    """Evaluate every kept run of `root`/results, print a table; return what does not hold.

    `tta` evaluates the mirror images too. Whatever differs is named with both values.
    """
    wrong = []
    folders = sorted((root / "results").glob("[!_]*/*/"))  # a run each
    for folder in folders:
        name = "/".join(folder.parts[-2:])
        print(f"\n{name}: evaluating on {len(data.test_labels):,} test images", flush=True)
        try:
            stated = results.metrics_of(folder)
            if name not in RUNS and stated["net"] not in MODELS:
                print(f"not verified: {stated['net']} is a network of your own")
                continue
            rows = _compare(folder, stated, data, tta)
        except Exception as error:  # damage has many faces; the other runs are still looked at
            wrong.append(f"{name}: cannot be evaluated: {type(error).__name__} {error}")
            continue
        print(rows.to_string())
        off = rows[~rows["holds"]]
        wrong += [f"{name}: {r.Index} is {r.measured}, not {r.stated}" for r in off.itertuples()]
    return wrong if folders else [f"there are no kept runs in {root / 'results'}"]


def _compare(folder: Path, stated: dict, data: ImageData, tta: bool) -> pd.DataFrame:
    weights, device = results.weights_of(folder, stated), devices.accelerator().device
    model = results.with_weights(stated["net"], weights, device)
    measured, _ = results.measure(model, data, tta)
    wrong = {k: v for k, v in measured.items() if not _holds(k, stated[k], v)}
    measured["requirements"] = results.judged(model, stated | wrong)
    stated = _flat({key: stated[key] for key in measured})
    table = pd.DataFrame({"stated": stated, "measured": _flat(measured)}, dtype=object)
    return table.assign(holds=[_holds(*row) for row in table.itertuples(name=None)])


def _flat(figures: dict) -> dict:
    verdicts = {
        row["demand"]: f"{row['measured']}: {'passes' if row['passed'] else 'fails'}"
        for row in figures["requirements"]
    }
    return pd.json_normalize(figures | {"requirements": verdicts}, sep=": ").to_dict("records")[0]


def _holds(figure: str, stated: object, measured: object) -> bool:
    if isinstance(stated, float) and isinstance(measured, float):  # only accuracies are
        tolerance = CLASS_POINTS if figure.startswith("class_accuracy") else POINTS
        return abs(stated - measured) <= tolerance
    return stated == measured
