"""`verify` names each value that was changed and each run whose weights were replaced."""

import dataclasses
import json
import re
import shutil
import statistics

import numpy as np
import pytest

from helpers import data as data_module
from helpers import report, requirements, results
from helpers.config import ROOT, SMOKE, Settings
from helpers.experiments import EXPERIMENTS, run_experiment
from helpers.files import sha256
from helpers.models import get_model
from helpers.verification import verify_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(200, 360)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample):
    settings = Settings(SMOKE, "sample", output_dir=tmp_path_factory.mktemp("output"))
    return run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, settings).folder


@pytest.fixture
def root(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "results" / "S7" / "s7_dropout")
    return tmp_path


def run_dir(root):
    return root / "results" / "S7" / "s7_dropout"


def change_metrics(root, **values):
    path = run_dir(root) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_unchanged_run_matches(root, sample, capsys):
    assert verify_results(root, sample, tta=True) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    accuracy = json.loads((run_dir(root) / "metrics.json").read_text())["test_accuracy"]
    [holds, values] = re.match(
        rf"  (\d+) of (\d+) values hold, {accuracy:.2f} %", lines[1]
    ).groups()
    assert holds == values


def test_saved_logits_of_other_weights_are_named(root, sample):
    metrics = json.loads((run_dir(root) / "metrics.json").read_text())
    logits = results.serialize_logits(np.eye(10)[np.arange(len(sample.test_labels)) % 10])
    (run_dir(root) / "test_logits.npy").write_bytes(logits)
    assert "test_logits.npy does not match the checksum" in verify_results(root, sample)[0]
    change_metrics(root, test_logits_sha256=sha256(logits), date=metrics["date"])
    assert any(
        "predictions from the saved logits that differ" in line
        for line in verify_results(root, sample)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test_accuracy", 98.31),
        ("params", 99_999),
        ("mult_adds", 1),
        ("receptive_field", {"before_pooling": 36, "including_pooling": 98}),
        ("class_accuracy", dict.fromkeys(data_module.CLASSES, 100.0)),
        ("test_images", 10_000),
        ("requirements", []),
    ],
)
def test_a_changed_value_is_named(root, sample, key, value):
    change_metrics(root, **{key: value})
    problems = verify_results(root, sample)
    assert any(line.startswith(f"S7/s7_dropout: {key}") for line in problems)
    assert all(key in line for line in problems)


@pytest.mark.parametrize(
    ("key", "difference", "matches"),
    [
        ("test_accuracy", 0.04, True),
        ("test_accuracy", -0.06, False),
        ("class_accuracy", 0.4, True),
        ("class_accuracy", -0.6, False),
    ],
)
def test_accuracies_may_differ_by_the_tolerance(root, sample, key, difference, matches):
    """The lines on requirements do not count: their texts show the accuracy to two decimals."""
    metrics = json.loads((run_dir(root) / "metrics.json").read_text())
    if key == "class_accuracy":
        value = {name: share + difference for name, share in metrics[key].items()}
    else:
        value = metrics[key] + difference
    change_metrics(root, **{key: value})
    problems = [line for line in verify_results(root, sample) if f": {key}" in line]
    assert (not problems) == matches


def test_requirements_are_checked_on_the_measured_values(root, sample):
    """An accuracy and the requirement on it are both changed: both are named."""
    metrics = json.loads((run_dir(root) / "metrics.json").read_text())
    accuracy = f"{metrics['test_accuracy']:.2f} %"
    [row] = [row for row in metrics["requirements"] if accuracy in row["measured"]]
    row["measured"] = row["measured"].replace(accuracy, "98.31 %")
    change_metrics(root, test_accuracy=98.31, requirements=metrics["requirements"])
    [line] = [line for line in verify_results(root, sample) if "requirements" in line]
    assert f"is {accuracy}" in line
    assert "not 98.31 %" in line


def test_flip_tta_is_verified_only_on_request(root, sample):
    change_metrics(root, test_accuracy_flip_tta=99.9)
    assert verify_results(root, sample) == []
    assert "test_accuracy_flip_tta" in verify_results(root, sample, tta=True)[0]


def test_weights_of_another_training_are_reported(root, sample):
    weights = results.serialize_weights(get_model("s7_dropout"))
    (run_dir(root) / "model.safetensors").write_bytes(weights)
    [line] = verify_results(root, sample)
    assert "model.safetensors does not match the checksum in metrics.json" in line
    change_metrics(root, weights_sha256=sha256(weights))
    assert any("class_accuracy" in line for line in verify_results(root, sample))


def test_weights_of_another_model_are_reported(root, sample):
    weights = results.serialize_weights(get_model("s7"))
    (run_dir(root) / "model.safetensors").write_bytes(weights)
    change_metrics(root, weights_sha256=sha256(weights))
    [line] = verify_results(root, sample)
    assert "S7/s7_dropout: cannot be evaluated: RuntimeError" in line


@pytest.mark.parametrize("file", ["model.safetensors", "metrics.json"])
def test_a_truncated_file_is_reported(root, sample, file):
    path = run_dir(root) / file
    path.write_bytes(path.read_bytes()[:-50])
    [line] = verify_results(root, sample)
    assert line.startswith("S7/s7_dropout: cannot be evaluated")


@pytest.mark.parametrize("content", [None, "[]", '{"net": null}'])
def test_missing_or_malformed_metrics_are_reported(root, sample, content):
    path = run_dir(root) / "metrics.json"
    path.unlink()
    if content:
        path.write_text(content)
    [line] = verify_results(root, sample)
    assert line.startswith("S7/s7_dropout: cannot be evaluated")


def test_the_committed_means_are_those_of_the_seeds():
    for metrics in report.load_all_metrics(ROOT / "results").values():
        accuracies = [of_seed["test_accuracy"] for of_seed in metrics["seeds"]]
        assert accuracies[0] == metrics["test_accuracy"]
        assert metrics["seeds"][0]["seed"] == metrics["seed"]
        assert metrics["test_accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        assert metrics["test_accuracy_std"] == pytest.approx(deviation)


def test_no_saved_runs_are_not_a_success(tmp_path, sample):
    [line] = verify_results(tmp_path, sample)
    assert line == f"there are no saved runs in {tmp_path / 'results'}"


def test_report_writes_the_mean_over_seeds_between_the_markers(root):
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    (root / "README.md").write_text(readme)
    accuracies = {"test_accuracy": 90.0, "test_accuracy_flip_tta": 90.0}
    seeds = [{"seed": seed} | accuracies for seed in range(5)]
    change_metrics(root, test_accuracy_mean=91.234, test_accuracy_std=0.1, seeds=seeds)
    report.write_results_tables(root)
    text = (root / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    written = (root / "results" / "README.md").read_text()
    assert "**91.23 ± 0.10 %** (5 seeds)" in written
    for page in (text, written):
        assert "**91.23 ± 0.10 %**" in page
        assert "671,690" in page


def test_report_without_markers_is_a_clear_error(root):
    (root / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        report.write_results_tables(root)


def test_a_model_of_the_users_is_skipped_and_the_other_runs_are_verified(root, sample, capsys):
    mine = shutil.copytree(run_dir(root), run_dir(root).with_name("mine"))
    metrics = json.loads((mine / "metrics.json").read_text())
    (mine / "metrics.json").write_text(json.dumps(metrics | {"net": "mine"}))
    assert verify_results(root, sample) == []
    assert "not verified: mine is not one of the models of this project" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_outcomes_are_those_of_the_current_checks(name):
    experiment = EXPERIMENTS[name]
    metrics = json.loads((ROOT / "results" / name / "metrics.json").read_text())
    model = get_model(metrics["net"])
    assert requirements.check_result(model, metrics) == metrics["requirements"]
    config = dataclasses.asdict(experiment.config)
    config["transform"] = experiment.transform.__name__
    if experiment.find_lr:
        config["max_lr"] = metrics["max_lr"]
    assert metrics["recipe"] == config
    assert metrics["published_test_accuracy"] == experiment.reference_accuracy
