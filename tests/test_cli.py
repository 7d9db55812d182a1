"""The command line: quick help, clear refusals, and a run from end to end."""

import ast
import contextlib
import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import utils

from helpers import (
    cli,
    data,
    device,
    experiments,
    lr_finder,
    model_checker,
    notebook_runner,
    report,
    verification,
)
from helpers.__main__ import main
from helpers.config import ROOT, Settings
from helpers.experiments import EXPERIMENTS
from helpers.models import MODELS
from tests.test_training import Tiny

pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Completed:
    returncode: int
    stdout: str
    stderr: str


def run_process(*arguments, encoding="utf-8", **environment):
    """Run the command in a new process, which takes seconds to start."""
    environment["PYTHONIOENCODING"] = encoding
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200", **environment}, capture_output=True,
        encoding=encoding, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run the command in this process."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, **environment):
        monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as exit_info:
            main()
            sys.exit(0)
        return Completed(exit_info.value.code or 0, *capsys.readouterr())

    return run


def test_an_output_that_lacks_a_character_is_no_error(tmp_path):
    file = tmp_path / "names.py"
    file.write_text("class Net:\n    pass\nraise ValueError('Zoë → Ωμέγα ✅')")
    arguments = "check", "S7", f"{file}:Net"
    for encoding in ("cp1252", "ascii"):
        completed = run_process(*arguments, encoding=encoding)
        assert completed.returncode == 2
        assert "Traceback" not in completed.stdout + completed.stderr
        assert "error: " in completed.stdout


def test_a_network_from_a_file_is_trained_with_the_recipe_of_a_run(run_command, tmp_path, request):
    (tmp_path / "net.py").write_text(NETWORK)
    for folder in ("results/_smoke-sample", "checkpoints/smoke-sample"):
        request.addfinalizer(partial(shutil.rmtree, ROOT / folder / "S9" / "Small"))
    request.addfinalizer(partial(MODELS.pop, "Small"))
    environment = {"PROFILE": "smoke", "DATASET": "sample", "RESUME": "0"}
    completed = run_command("train", "S9/compact", f"{tmp_path}/net.py:Small", **environment)
    assert completed.returncode == 0, completed.stderr
    folder = ROOT / "results" / "_smoke-sample" / "S9" / "Small"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["params"] == 280
    expected = EXPERIMENTS["S9/compact"]
    assert metrics["recipe"]["transform"] == expected.transform.__name__
    assert metrics["optimizer"] == expected.config.optimizer
    completed = run_command("report", "S9/Small")
    assert completed.stdout.strip() == str(folder / "README.md"), "found in its profile's folder"


COMMANDS = ("data", "train", "run", "check", "summary", "seeds", "verify", "report")
VARIABLES = ("PROFILE", "QUICK_SECONDS", "DATASET", "CIFAR10_ROOT", "SEED", "RESUME", "REUSE")


def test_help_names_every_command_and_environment_variable():
    completed = run_process("--help")
    assert completed.returncode == 0
    commands = re.findall(r"^  ([a-z]+) {2,}", completed.stdout, re.MULTILINE)
    assert sorted(commands) == sorted(COMMANDS)
    variables = re.findall(r"^    ([A-Z0-9_]+) {2,}", completed.stdout, re.MULTILINE)
    assert sorted(variables) == sorted(VARIABLES)


def test_help_names_every_variable_that_the_settings_read():
    source = (ROOT / "helpers" / "config.py").read_text()
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    variables = {s for s in strings if re.fullmatch(r"[A-Z][A-Z0-9]+(_[A-Z]+)*", str(s))}
    assert variables == set(VARIABLES)


def test_help_does_not_wait_for_anything_heavy():
    code = (
        "import sys, helpers.__main__; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_command_has_the_name_of_a_module():
    modules = {path.stem for path in (ROOT / "helpers").iterdir()}
    functions = dict(inspect.getmembers(cli, inspect.isfunction))
    assert not modules & functions.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run_command, command):
    completed = run_command(command, "--help")
    assert completed.returncode == 0
    assert "Usage: python -m helpers " + command in completed.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["summary", "s8"], {}, "network=s8 is unknown; it is one of s7"),
        (["train", "S7/s8"], {}, "run=S7/s8 is unknown; it is one of S7/s7"),
        (["run", "S8"], {}, "notebook=S8 is unknown; it is one of"),
        (["report", "S9/never"], {}, "run=S9/never: there is no "),
        (["train", "S7/s7"], {"PROFILE": "fast"}, "PROFILE=fast is unknown"),
        (["train", "S7/s7"], {"SEED": "-1"}, "SEED=-1 is not a whole number from 0 on"),
        (["run"], {"QUICK_SECONDS": "1m"}, "QUICK_SECONDS=1m is not a whole number from 1 on"),
        (["train", "S7/s7", "--seeds", "0"], {}, "Invalid value for '--seeds'"),
        (["fly"], {}, "No such command 'fly'"),
    ],
)
def test_bad_arguments_are_named_with_exit_code_2(run_command, arguments, environment, message):
    completed = run_command(*arguments, **environment)
    assert completed.returncode == 2
    assert message in " ".join(completed.stderr.split())
    assert "Traceback" not in completed.stderr


def test_summary_prints_all_three_tables(run_command):
    completed = run_command("summary", "s7")
    assert completed.returncode == 0
    assert "Total params: 439,808" in completed.stdout
    assert "Mult-adds: 162.67 M" in completed.stdout
    assert re.search(r"conv12 +1 +1 +0 +1 +1 +8 +98", completed.stdout)


def test_a_bad_argument_of_a_process_is_one_line_and_exit_code_2():
    completed = run_process("train", "S7/s8")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith("error: run=S7/s8 is unknown; it is one of S7/s7")


def test_data_that_cannot_be_downloaded_is_one_clear_line(run_command, monkeypatch, tmp_path):
    monkeypatch.setattr(data.download_cifar10, "__defaults__", ((),))
    completed = run_command("data", CIFAR10_ROOT=str(tmp_path))
    assert completed.returncode == 1
    assert completed.stderr.startswith("error: CIFAR-10 is not in")
    assert completed.stderr.count("\n") == 1


def test_a_run_from_end_to_end(tmp_path):
    environment = {"PROFILE": "smoke", "DATASET": "sample", "RESUME": "0"}
    completed = run_process("train", "S7/s7_dropout", "--validation", **environment)
    assert completed.returncode == 0, completed.stderr
    assert "epoch  2/2" in completed.stdout
    [(accuracy, folder)] = re.findall(
        r"([\d.]+) % of 50 test images right; files in (.*)", completed.stdout
    )
    metrics = json.loads((ROOT / folder / "metrics.json").read_text())
    assert metrics["test_images"] == 50
    assert accuracy == f"{metrics['test_accuracy']:.2f}"
    assert metrics["dataset"].endswith("(validation split), first 50 validation images")


def test_a_run_with_find_lr_is_trained_at_the_learning_rate_that_short_runs_found(
    run_command, monkeypatch, request
):
    name = "S7/tiny"
    experiment = dataclasses.replace(EXPERIMENTS["S7/s7"], name=name, model="tiny", find_lr=True)
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.setitem(EXPERIMENTS, name, experiment)
    folder = ROOT / "results" / "_smoke-sample" / name
    for path in (folder, ROOT / "checkpoints" / "smoke-sample" / name):
        request.addfinalizer(partial(shutil.rmtree, path))
    completed = run_command("train", name, PROFILE="smoke", DATASET="sample", RESUME="0")
    assert completed.returncode == 0, completed.stderr
    lr_trials = json.loads((folder / "rate_search.json").read_text())["short_runs"]
    max_lr = json.loads((folder / "metrics.json").read_text())["max_lr"]
    assert max_lr == pytest.approx(lr_finder.interpolate_best_lr(dict(map(tuple, lr_trials))))
    assert completed.stdout.count("A short run for a learning rate of") == len(lr_trials)


@pytest.mark.parametrize(("seconds", "share"), [("70", 35), ("1", 1)])
def test_notebooks_of_one_command_share_the_time_of_one(seconds, share, run_command, monkeypatch):
    budgets = []

    def run_notebook(_, settings):
        budgets.append(settings.profile.seconds)
        return ROOT / "page.html"

    monkeypatch.setattr(notebook_runner, "run_notebook", run_notebook)
    environment = {"PROFILE": "quick", "DATASET": "sample", "QUICK_SECONDS": seconds}
    assert run_command("run", "S7", "S9", **environment).returncode == 0
    assert budgets == [share, share]


def test_a_run_of_notebooks_ends_with_both_accuracies_and_the_pages(
    run_command, monkeypatch, tmp_path
):
    page = tmp_path / "S9.html"
    monkeypatch.setattr(notebook_runner, "run_notebook", lambda *_: page)
    saved = json.loads((ROOT / "results" / "S9" / "s9" / "metrics.json").read_text())
    folder = tmp_path / "results" / "_smoke-sample" / "S9" / "s9"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**saved, "test_accuracy": 12.34}))
    monkeypatch.setattr(Settings, "results_dir", lambda *_: folder.parents[1])
    completed = run_command("run", "s9", PROFILE="smoke", DATASET="sample")
    rows = re.findall(r"^ *(S\S*/\S+) +(.*)", completed.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["S9/s9", "S9/compact"]
    assert rows[0][1].split()[0] == "12.34"
    assert f"{saved['test_accuracy_mean']:.2f} ± " in rows[0][1]
    assert rows[0][1].endswith("85.22 %")
    assert f"  {page}\n" in completed.stdout
    assert "make run NOTEBOOKS=S9 PROFILE=full" in completed.stdout
    reused = run_command("run", "s9", PROFILE="smoke", DATASET="sample", REUSE="1").stdout
    assert "12.34" not in reused, "nothing was trained"


@pytest.mark.parametrize(
    ("differences", "returncode", "message"),
    [([], 0, "All results are confirmed."), (["S7/s7: x"], 1, "WRONG: S7/s7: x")],
)
def test_verify_says_what_differs(differences, returncode, message, run_command, monkeypatch):
    monkeypatch.setattr(data, "load_cifar10", lambda _: None)
    monkeypatch.setattr(verification, "verify_results", lambda *_: differences)
    completed = run_command("verify")
    assert (completed.returncode, completed.stdout.strip()) == (returncode, message)


def test_report_without_a_run_writes_all_pages(run_command, monkeypatch):
    written = []
    monkeypatch.setattr(report, "write_results_tables", lambda: written.append("tables"))
    monkeypatch.setattr(report, "write_notebook_reports", lambda: written.append("reports"))
    assert run_command("report").returncode == 0
    assert written == ["tables", "reports"]


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


def test_check_takes_networks_from_files(run_command, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    small, wide = f"{tmp_path}/net.py:Small", f"{tmp_path}/net.py:Wide"
    csv = tmp_path / "grades.csv"
    completed = run_command("check", "ResNet18_GradCAM", small, wide, "compact", "--csv", str(csv))
    assert completed.returncode == 2
    separable = "claimed: six depthwise separable convolutions"
    assert f"FAILED  {separable}: none" in completed.stdout
    assert "passed  claimed: transition 3: a stride of 2: conv2, conv5" in completed.stdout
    assert completed.stderr == "", "outcomes and errors go to the same stream"
    assert "error: a network maps images" in completed.stdout
    assert "Wide gives (2, 100) float32 for 2 images" in completed.stdout
    assert re.search(r"compact +1 of 1 +5 of 5 *$", completed.stdout, re.MULTILINE)
    rows = pd.read_csv(csv).set_index("network")
    assert rows.loc["compact", "requirements met"] == "1 of 1"
    assert rows.loc["compact", "claims met"] == "5 of 5"
    assert rows.loc[small, "parameters"] == 280
    assert rows.loc[small, separable] == "FAILED: none"
    assert "100" in rows.loc[wide, "error"]


def test_one_network_that_fails_costs_the_others_nothing(run_command, tmp_path, monkeypatch):
    of_model = model_checker.ModelFacts.of_model

    def failing_trace(model):
        return of_model(model) if len(model) == 3 else 1 / 0

    monkeypatch.setattr(model_checker.ModelFacts, "of_model", failing_trace)
    (tmp_path / "net.py").write_text(f"{NETWORK}\n{LONG}")
    small, long = f"{tmp_path}/net.py:Small", f"{tmp_path}/net.py:Long"
    csv = tmp_path / "grades.csv"
    completed = run_command("check", "ResNet18_GradCAM", long, small, "--csv", str(csv))
    assert completed.returncode == 2
    assert "error: ZeroDivisionError: division by zero" in completed.stdout
    rows = pd.read_csv(csv).set_index("network")
    assert rows.loc[small, "parameters"] == 280
    assert "ZeroDivisionError" in rows.loc[long, "error"]


def test_check_takes_the_run_into_account(run_command):
    run = ROOT / "results" / "S9" / "compact"
    completed = run_command("check", "S9", "compact", "--run", str(run))
    assert completed.returncode == 1
    assert "passed  bonus: >= 87 % with < 100,000 parameters: " in completed.stdout
    failed = re.findall(r"FAILED  (.*?):", completed.stdout)
    assert failed == ["runs on the GPU"]
    assert "bonuses met: 4 of 4" in completed.stdout


def test_a_network_that_meets_all_requirements_ends_well(run_command):
    assert run_command("check", "S7", "s7").returncode == 0


def test_check_expands_the_pattern_of_a_classs_folder(run_command, tmp_path):
    for student in ("ada", "bo"):
        (tmp_path / student).mkdir()
        (tmp_path / student / "net.py").write_text(NETWORK)
    csv = tmp_path / "grades.csv"
    for suffix in (":Small", ""):
        pattern = f"{tmp_path}/*/net.py{suffix}"
        completed = run_command("check", "S9", pattern, "--csv", str(csv))
        assert completed.returncode == 1
        names = [f"{tmp_path}/{student}/net.py{suffix}" for student in ("ada", "bo")]
        rows = pd.read_csv(csv)
        assert rows["network"].to_list() == names
        assert rows["parameters"].to_list() == [280, 280]


def test_a_csv_that_cannot_be_written_fails_before_anything_is_checked(run_command, tmp_path):
    completed = run_command("check", "S7", "s7", "--csv", str(tmp_path / "none" / "x.csv"))
    assert completed.returncode == 1
    assert completed.stdout == ""
    assert completed.stderr.count("\n") == 1
    assert "none/x.csv" in completed.stderr


def test_rows_are_written_as_they_come(tmp_path):
    """The second file ends the process."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "ends.py").write_text("import os\nos._exit(0)")
    csv = tmp_path / "grades.csv"
    small = f"{tmp_path}/net.py:Small"
    run_process("check", "S7", small, f"{tmp_path}/ends.py", "--csv", str(csv))
    assert pd.read_csv(csv)["network"].to_list() == [small]


WARNS = """
import warnings
warnings.warn("old style")

class Warns(Small):
    def __init__(self):
        super().__init__()
        self.append(nn.Identity())
"""


def test_warnings_are_named_with_their_network(run_command, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK + WARNS)
    lines = run_command("check", "S7", f"{tmp_path}/net.py:Warns").stdout.splitlines()
    assert "net.py:Warns" in lines[0]
    assert lines[1] == "  warning: old style"


def test_a_network_that_ends_in_a_softmax_is_refused(run_command, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK + WARNS.replace("nn.Identity()", "nn.Softmax(1)"))
    completed = run_command("check", "S7", f"{tmp_path}/net.py:Warns")
    assert completed.returncode == 2
    assert "returns probabilities: return logits, leave out softmax" in completed.stdout


GIVEN_A_LIST = """
import torch
from torch import nn

class Cat(nn.Module):
    def forward(self, maps):
        return torch.cat(maps, 1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.cat = nn.Conv2d(3, 5, 3), Cat()

    def forward(self, x):
        return self.cat([self.conv(x), self.conv(input=x)]).mean((2, 3))
"""


def test_summary_leaves_out_a_table_that_cannot_be_made(run_command, tmp_path):
    (tmp_path / "net.py").write_text(GIVEN_A_LIST)
    completed = run_command("summary", f"{tmp_path}/net.py:Net")
    assert completed.returncode == 0
    assert "This network has no summary: " in completed.stdout
    assert "Mult-adds: 0.25 M" in completed.stdout
    assert re.search(r"conv2 +32 +3 +0 +1 +30 +1 +3", completed.stdout)


def test_hosts_with_different_data_end_in_one_line(run_command, monkeypatch):
    monkeypatch.setattr(
        utils, "gather_object", lambda setups: [*setups, "9 training images of mice"]
    )
    completed = run_command("train", "S7/s7_dropout", PROFILE="smoke", DATASET="sample")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert "processes differ: 32 training images of CIFAR-10 sample" in completed.stderr


def test_processes_with_different_precisions_end_in_one_line(run_command, monkeypatch):
    """They would average gradients of which some are scaled."""
    monkeypatch.setattr("helpers.device.mixed_precision", lambda device: "bf16")
    monkeypatch.setattr(
        utils, "gather_object", lambda setups: [*setups, setups[0].replace("bf16", "fp16")]
    )
    completed = run_command("train", "S7/s7_dropout", PROFILE="smoke", DATASET="sample")
    assert completed.returncode == 2
    assert " in bf16 and 32 training images" in completed.stderr
    assert "take GPUs of one kind" in completed.stderr


@pytest.mark.parametrize(("options", "scale"), [([], 1), (["--scale"], 2)])
def test_scale_gives_each_process_a_full_batch(options, scale, run_command, monkeypatch):
    class State:
        device = torch.device("cpu")
        num_processes = 2
        main_process_first = local_main_process_first = contextlib.nullcontext
        print = staticmethod(print)

        def destroy_process_group(self):
            pass

    def run_experiment(experiment, data, settings, seeds, batch_size_scale):
        calls.append((experiment.name, seeds, batch_size_scale))
        logits = np.eye(10)[data.test_labels]
        return types.SimpleNamespace(logits=logits, folder="there")

    calls = []
    monkeypatch.setattr(device, "distributed_state", State)
    monkeypatch.setattr(utils, "gather_object", lambda setups: 2 * setups)
    monkeypatch.setattr(experiments, "run_experiment", run_experiment)
    arguments = ["train", "S7/s7", "--seeds", "3", *options]
    completed = run_command(*arguments, PROFILE="smoke", DATASET="sample")
    assert completed.returncode == 0, completed.stderr
    assert calls == [("S7/s7", 3, scale)]
    assert "100.00 % of 50 test images right; files in there" in completed.stdout
