"""The command line: quick help, clear refusals, and a run from end to end."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest
from accelerate import utils

from helpers.__main__ import main
from helpers.images import downloads
from helpers.models import MODELS
from helpers.runs import search
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT
from tests.test_training import Tiny
from upkeep import execution, grading

pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


def helpers(*arguments, **environment):
    """The command in a process of its own, which takes seconds to start."""
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200", **environment}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def called(monkeypatch, capsys):
    """The command in this process."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, **environment):
        monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        return Ended(end.value.code or 0, *capsys.readouterr())

    return call


COMMANDS = ("data", "train", "run", "check", "summary", "seeds", "verify", "report")


def test_help_names_every_command():
    done = helpers("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  ([a-z]+) {2,}", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_help_does_not_wait_for_anything_heavy():
    code = (
        "import sys, helpers.__main__; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(called, command):
    done = called(command, "--help")
    assert done.returncode == 0
    assert "Usage: python -m helpers " + command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["summary", "s8"], {}, "network=s8 is unknown; it is one of s7"),
        (["train", "S7/s8"], {}, "run=S7/s8 is unknown; it is one of S7/s7"),
        (["run", "S8"], {}, "notebook=S8 is unknown; it is one of"),
        (["report", "S9/never"], {}, "run=S9/never: there is no "),
        (["train", "S7/s7"], {"PROFILE": "fast"}, "PROFILE=fast is unknown"),
        (["train", "S7/s7"], {"SEED": "-1"}, "SEED=-1 is not a whole number from 0 on"),
        (["run"], {"QUICK_SECONDS": "1m"}, "QUICK_SECONDS=1m is not a whole number from 0 on"),
        (["train", "S7/s7", "--seeds", "0"], {}, "Invalid value for '--seeds'"),
        (["fly"], {}, "No such command 'fly'"),
    ],
)
def test_bad_arguments_are_named_with_exit_code_2(called, arguments, environment, said):
    done = called(*arguments, **environment)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_summary_prints_all_three_tables(called):
    done = called("summary", "s7")
    assert done.returncode == 0
    assert "Total params: 439,808" in done.stdout
    assert "Mult-adds: 162.67 M" in done.stdout
    assert re.search(r"conv12 +1 +1 +0 +1 +1 +8 +98", done.stdout)


def test_a_bad_argument_of_a_process_is_one_line_and_exit_code_2():
    done = helpers("train", "S7/s8")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: run=S7/s8 is unknown; it is one of S7/s7")


def test_data_that_cannot_be_had_is_one_clear_line(called, monkeypatch, tmp_path):
    monkeypatch.setattr(downloads.download_cifar10, "__defaults__", ((),))
    done = called("data", CIFAR10_ROOT=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: CIFAR-10 is not in")
    assert done.stderr.count("\n") == 1


def test_a_run_from_end_to_end(tmp_path):
    environment = {"PROFILE": "smoke", "DATASET": "digits", "RESUME": "0"}
    done = helpers("train", "S7/s7_dropout", "--validation", **environment)
    assert done.returncode == 0, done.stderr
    assert "epoch  2/2" in done.stdout
    [folder] = re.findall(r"% of 50 test images right; (.*)", done.stdout)
    metrics = json.loads((ROOT / folder / "metrics.json").read_text())
    assert metrics["test_images"] == 50
    assert metrics["dataset"].endswith("(validation split), first 50 test images")


def test_a_run_that_asks_for_it_is_trained_at_a_rate_that_short_runs_found(
    called, monkeypatch, request
):
    name = "S7/tiny"
    run = dataclasses.replace(RUNS["S7/s7"], name=name, net="tiny", find_rate=True)
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.setitem(RUNS, name, run)
    folder = ROOT / "results" / "_smoke-digits" / name
    for place in (folder, ROOT / "checkpoints" / "smoke-digits" / name):
        request.addfinalizer(partial(shutil.rmtree, place))
    done = called("train", name, PROFILE="smoke", DATASET="digits", RESUME="0")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "rate_search.json").read_text())["short_runs"]
    trained = json.loads((folder / "metrics.json").read_text())["max_lr"]
    assert trained == pytest.approx(search.best_rate(dict(map(tuple, found))))
    assert done.stdout.count("A short run for a learning rate of") == len(found)


@pytest.mark.parametrize(("seconds", "share"), [("70", 35), ("1", 1)])
def test_notebooks_that_run_together_share_the_time_of_one(seconds, share, called, monkeypatch):
    given = []

    def execute(_, settings):
        given.append(settings.profile.seconds)
        return ROOT / "results"

    monkeypatch.setattr(execution, "execute", execute)
    environment = {"PROFILE": "quick", "DATASET": "digits", "QUICK_SECONDS": seconds}
    assert called("run", "S7", "S9", **environment).returncode == 0
    assert given == [share, share]


def test_runs_that_take_the_place_of_training_are_in_the_table(called, monkeypatch, tmp_path):
    monkeypatch.setattr(execution, "execute", lambda *_: tmp_path)
    done = called("run", "S7", REUSE="1", PROFILE="quick", DATASET="digits")
    kept = json.loads((ROOT / "results" / "S7" / "s7" / "metrics.json").read_text())
    assert f"| S7/s7 | **{kept['test_accuracy_mean']:.2f}" in done.stdout
    assert f"Figures are in {tmp_path}" in done.stdout


NETWORK = """
from torch import nn

class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Wide(Small):
    def __init__(self):
        super().__init__()
        self[0] = nn.Conv2d(3, 100, 3)
"""

LONG = """
class Long(nn.Sequential):
    def __init__(self):
        super().__init__(*Small(), nn.ReLU())
"""


def test_check_judges_networks_in_files(called, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    small, wide = f"{tmp_path}/net.py:Small", f"{tmp_path}/net.py:Wide"
    csv = tmp_path / "grades.csv"
    done = called("check", "ResNet18_GradCAM", small, wide, "compact", "--csv", str(csv))
    assert done.returncode == 2
    assert "FAILED  six depthwise separable convolutions: none" in done.stdout
    assert "passed  transition 3: a stride of 2: conv5" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "Wide gives (2, 100) float32 for 2 images" in done.stderr
    rows = pd.read_csv(csv).set_index("network")
    assert rows.loc["compact", "demands met"] == "6 of 6"
    assert rows.loc[small, "parameters"] == 280
    assert not rows.loc[small, "six depthwise separable convolutions"]
    assert "100" in rows.loc[wide, "error"]


def test_one_network_that_fails_costs_the_others_nothing(called, tmp_path, monkeypatch):
    of_network = grading.requirements.of_network

    def failing(notebook, model):
        return of_network(notebook, model) if len(model) == 3 else 1 / 0

    monkeypatch.setattr(grading.requirements, "of_network", failing)
    (tmp_path / "net.py").write_text(f"{NETWORK}\n{LONG}")
    small, long = f"{tmp_path}/net.py:Small", f"{tmp_path}/net.py:Long"
    csv = tmp_path / "grades.csv"
    done = called("check", "ResNet18_GradCAM", long, small, "--csv", str(csv))
    assert done.returncode == 2
    assert "error: ZeroDivisionError: division by zero" in done.stderr
    rows = pd.read_csv(csv).set_index("network")
    assert rows.loc[small, "parameters"] == 280
    assert "ZeroDivisionError" in rows.loc[long, "error"]


def test_check_takes_the_run_into_account(called):
    run = ROOT / "results" / "S9" / "compact"
    done = called("check", "S9", "compact", "--run", str(run))
    assert done.returncode == 1
    assert "passed  bonus: >= 87 % with < 100,000 parameters: " in done.stdout
    assert done.stdout.count("FAILED") == done.stdout.count("FAILED  runs on the GPU") == 1


def test_a_network_that_meets_all_demands_ends_well(called):
    assert called("check", "S7", "s7").returncode == 0


def test_check_finds_a_classs_folder_by_a_pattern(called, tmp_path):
    for student in ("ada", "bo"):
        (tmp_path / student).mkdir()
        (tmp_path / student / "net.py").write_text(NETWORK)
    csv = tmp_path / "grades.csv"
    assert called("check", "S9", f"{tmp_path}/*/net.py:Small", "--csv", str(csv)).returncode == 1
    names = [f"{tmp_path}/{student}/net.py:Small" for student in ("ada", "bo")]
    assert pd.read_csv(csv)["network"].to_list() == names


def test_hosts_that_found_different_data_end_in_one_line(called, monkeypatch):
    monkeypatch.setattr(utils, "gather_object", lambda here: [*here, "9 training images of mice"])
    done = called("train", "S7/s7_dropout", PROFILE="smoke", DATASET="digits")
    assert done.returncode == 2
    assert "processes differ: 32 training images of scikit-learn's digits" in done.stderr


def test_processes_of_another_precision_end_in_one_line(called, monkeypatch):
    """As they would average gradients of which some are scaled."""
    monkeypatch.setattr("helpers.devices.precision", lambda device: "bf16")
    monkeypatch.setattr(
        utils, "gather_object", lambda here: [*here, here[0].replace("bf16", "fp16")]
    )
    done = called("train", "S7/s7_dropout", PROFILE="smoke", DATASET="digits")
    assert done.returncode == 2
    assert " in bf16 and 32 training images" in done.stderr
    assert "take GPUs of one kind" in done.stderr
