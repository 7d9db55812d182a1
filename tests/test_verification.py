"""`verify` finds a figure that was changed and weights that were swapped, and names them."""

import dataclasses
import json
import shutil
import statistics

import pytest

from helpers.files import digest
from helpers.images import data as data_module
from helpers.models import build
from helpers.runs import results
from helpers.runs.catalogue import RUNS
from helpers.runs.conductor import train
from helpers.settings import ROOT, SMOKE, Settings
from upkeep import tables
from upkeep.verification import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    return data_module.digits().first(200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    home = tmp_path_factory.mktemp("home")
    return train(RUNS["S7/s7_dropout"], digits, Settings(SMOKE, "digits", home=home)).folder


@pytest.fixture
def root(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "results" / "S7" / "s7_dropout")
    return tmp_path


def folder(root):
    return root / "results" / "S7" / "s7_dropout"


def change(root, **figures):
    path = folder(root) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | figures))


def test_an_honest_run_holds(root, digits, capsys):
    assert verify(root, digits, tta=True) == []
    assert "test_accuracy_flip_tta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("test_accuracy", 98.31),
        ("params", 99_999),
        ("mult_adds", 1),
        ("receptive_field", {"before_pooling": 36, "including_pooling": 98}),
        ("class_accuracy", dict.fromkeys("0123456789", 100.0)),
        ("test_images", 10_000),
        ("requirements", []),
    ],
)
def test_a_changed_figure_is_named(root, digits, figure, value):
    change(root, **{figure: value})
    wrong = verify(root, digits)
    assert any(line.startswith(f"S7/s7_dropout: {figure}") for line in wrong)
    assert all(figure in line for line in wrong)


def test_requirements_are_judged_on_what_was_measured(root, digits):
    """Raise an accuracy and the requirement that rests on it: both are found."""
    metrics = json.loads((folder(root) / "metrics.json").read_text())
    honest = f"{metrics['test_accuracy']:.2f} %"
    [judged] = [row for row in metrics["requirements"] if honest in row["measured"]]
    judged["measured"] = judged["measured"].replace(honest, "98.31 %")
    change(root, test_accuracy=98.31, requirements=metrics["requirements"])
    [line] = [line for line in verify(root, digits) if "requirements" in line]
    assert f"is {honest}" in line
    assert "not 98.31 %" in line


def test_flip_tta_is_checked_when_asked_for(root, digits):
    change(root, test_accuracy_flip_tta=99.9)
    assert verify(root, digits) == []
    assert "test_accuracy_flip_tta" in verify(root, digits, tta=True)[0]


def test_weights_of_another_training_are_found(root, digits):
    weights = results.weight_bytes(build("s7_dropout"))
    (folder(root) / "model.safetensors").write_bytes(weights)
    [line] = verify(root, digits)
    assert "model.safetensors is not the file that metrics.json is about" in line
    change(root, weights_sha256=digest(weights))
    assert any("class_accuracy" in line for line in verify(root, digits))


def test_weights_of_another_network_are_found(root, digits):
    weights = results.weight_bytes(build("s7"))
    (folder(root) / "model.safetensors").write_bytes(weights)
    change(root, weights_sha256=digest(weights))
    [line] = verify(root, digits)
    assert "S7/s7_dropout: cannot be evaluated: RuntimeError" in line


@pytest.mark.parametrize("file", ["model.safetensors", "metrics.json"])
def test_a_truncated_file_is_found(root, digits, file):
    path = folder(root) / file
    path.write_bytes(path.read_bytes()[:-50])
    [line] = verify(root, digits)
    assert line.startswith("S7/s7_dropout: cannot be evaluated")


@pytest.mark.parametrize("content", [None, "[]", '{"net": null}'])
def test_metrics_that_are_missing_or_of_another_form_are_named(root, digits, content):
    path = folder(root) / "metrics.json"
    path.unlink()
    if content:
        path.write_text(content)
    [line] = verify(root, digits)
    assert line.startswith("S7/s7_dropout: cannot be evaluated")


def test_the_committed_means_are_those_of_the_seeds():
    for metrics in tables.kept(ROOT / "results").values():
        accuracies = [of_seed["test_accuracy"] for of_seed in metrics["seeds"]]
        assert accuracies[0] == metrics["test_accuracy"]
        assert metrics["seeds"][0]["seed"] == metrics["seed"]
        assert metrics["test_accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        assert metrics["test_accuracy_std"] == pytest.approx(deviation)


def test_nothing_kept_is_not_a_success(tmp_path, digits):
    assert verify(tmp_path, digits) == [f"there are no kept runs in {tmp_path / 'results'}"]


def test_report_writes_the_mean_over_seeds_between_the_markers(root):
    readme = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    (root / "README.md").write_text(readme)
    seeds = [{"seed": seed, "test_accuracy": 90.0} for seed in range(5)]
    change(root, test_accuracy_mean=91.234, test_accuracy_std=0.1, seeds=seeds)
    tables.report(root)
    text = (root / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for written in (text, (root / "results" / "README.md").read_text()):
        assert "**91.23 ± 0.10 %** (5 seeds)" in written
        assert "671,690" in written


def test_report_without_markers_is_a_clear_error(root):
    (root / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        tables.report(root)


def test_a_network_of_ones_own_is_said_and_the_rest_holds(root, digits, capsys):
    own = shutil.copytree(folder(root), folder(root).with_name("mine"))
    metrics = json.loads((own / "metrics.json").read_text())
    (own / "metrics.json").write_text(json.dumps(metrics | {"net": "mine"}))
    assert verify(root, digits) == []
    assert "not verified: mine is a network of your own" in capsys.readouterr().out


@pytest.mark.parametrize("name", RUNS)
def test_the_committed_verdicts_are_those_of_todays_judges(name):
    metrics = json.loads((ROOT / "results" / name / "metrics.json").read_text())
    assert results.judged(build(metrics["net"]), metrics) == metrics["requirements"]
    recipe = dataclasses.asdict(RUNS[name].recipe) | {"transform": RUNS[name].transform.__name__}
    if RUNS[name].find_rate:
        recipe["max_lr"] = metrics["max_lr"]
    assert metrics["recipe"] == recipe
    assert metrics["published_test_accuracy"] == RUNS[name].published
