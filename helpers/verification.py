"""Evaluate the saved models again and compare with their metrics.json files."""

from pathlib import Path

import pandas as pd

from helpers import evaluation, requirements, results
from helpers.data import ImageData
from helpers.device import create_accelerator
from helpers.experiments import EXPERIMENTS
from helpers.models import MODELS

# The largest differences that are accepted, in percentage points.
ACCURACY_TOLERANCE = 0.05
CLASS_ACCURACY_TOLERANCE = 0.5
PREDICTION_TOLERANCE = 20  # of 10,000 images; devices round differently


def verify_results(root: Path, data: ImageData, tta: bool = False) -> list[str]:
    """Evaluate all saved runs again and print two lines for each.

    Runs of models that are not in MODELS are skipped, because their code is not saved.

    Args:
        root: The folder whose `results` has a folder for each run, as in results/S7/s7. Folders
            whose names begin with _ are skipped.
        data: The data set that the runs were evaluated on.
        tta: Whether to verify the accuracy with mirrored images as well.

    Returns:
        A line for each value that differs, with the saved and the measured value, and for each run
        that cannot be evaluated. Empty if everything matches.
    """
    run_dirs = sorted((root / "results").glob("[!_]*/*/"))
    if not run_dirs:
        return [f"there are no saved runs in {root / 'results'}"]
    problems = []
    for run_dir in run_dirs:
        name = f"{run_dir.parent.name}/{run_dir.name}"
        print(f"{name}: evaluating {len(data.test_labels):,} test images", flush=True)
        try:
            metrics = results.read_metrics(run_dir)
            if name not in EXPERIMENTS and metrics["net"] not in MODELS:
                print(f"  not verified: {metrics['net']} is not one of the models of this project")
                continue
            table = _compare_with_saved(run_dir, metrics, data, tta)
        except Exception as error:  # a damaged file can raise any error; go on with the other runs
            problems.append(f"{name}: cannot be evaluated: {type(error).__name__} {error}")
            continue
        print(
            f"  {table['matches'].sum()} of {len(table)} values hold, "
            f"{table.loc['test_accuracy', 'measured']:.2f} %"
        )
        for row in table[~table["matches"]].itertuples():
            problems.append(f"{name}: {row.Index} is {row.measured}, not {row.saved}")
    return problems


def _compare_with_saved(run_dir: Path, metrics: dict, data: ImageData, tta: bool) -> pd.DataFrame:
    """Return a table of all values that can be measured: saved, measured and whether they match."""
    weights = results.read_weights(run_dir, metrics)
    model = results.load_model(metrics["net"], weights, create_accelerator().device)
    measured, logits = evaluation.evaluate_model(model, data, tta)
    saved_logits = results.read_logits(run_dir, metrics)

    # Check the requirements on the measured values, but keep the saved ones if they match: their
    # last digits depend on the device, and the texts of the requirements show them.
    checked_metrics = dict(metrics)
    for key, value in measured.items():
        if not _matches(key, metrics[key], value):
            checked_metrics[key] = value
    measured["requirements"] = requirements.check_result(model, checked_metrics)

    saved = {key: metrics[key] for key in measured}
    columns = {"saved": _flatten(saved), "measured": _flatten(measured)}
    table = pd.DataFrame(columns, dtype=object)
    table.loc["predictions from the saved logits that differ"] = [
        0,
        int((saved_logits.argmax(axis=1) != logits.argmax(axis=1)).sum()),
    ]
    table["matches"] = [_matches(*row) for row in table.itertuples(name=None)]
    return table


def _flatten(metrics: dict) -> dict[str, object]:
    """Return the metrics with nested keys joined, as in "class_accuracy: cat"."""
    outcomes = {}
    for row in metrics["requirements"]:
        outcome = "passes" if row["passed"] else "fails"
        outcomes[row["requirement"]] = f"{row['measured']}: {outcome}"
    nested = metrics | {"requirements": outcomes}
    return pd.json_normalize(nested, sep=": ").to_dict("records")[0]


def _matches(name: str, saved: object, measured: object) -> bool:
    """Return whether a measured value equals the saved one; predictions may differ a little."""
    if name.startswith("predictions"):
        return measured <= PREDICTION_TOLERANCE
    if isinstance(saved, float) and isinstance(measured, float):  # only accuracies are floats
        is_class_accuracy = name.startswith("class_accuracy")
        tolerance = CLASS_ACCURACY_TOLERANCE if is_class_accuracy else ACCURACY_TOLERANCE
        return abs(saved - measured) <= tolerance
    return saved == measured
