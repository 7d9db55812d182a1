"""The command line: quick help, clear refusals, and a run from end to end."""

import json
import os
import re
import subprocess
import sys

import pytest

from helpers.settings import ROOT


def helpers(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


COMMANDS = ("data", "train", "run", "summary", "verify", "report")


def test_help_names_every_command():
    done = helpers("--help")
    assert done.returncode == 0
    assert all(re.search(rf"\b{command}\b", done.stdout) for command in COMMANDS)


def test_help_does_not_wait_for_anything_heavy():
    code = (
        "import sys, helpers.__main__; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = helpers(command, "--help")
    assert done.returncode == 0
    assert "Usage: python -m helpers " + command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["summary", "s8"], {}, "network=s8 is unknown; it is one of s7"),
        (["train", "S7/s8"], {}, "run=S7/s8 is unknown; it is one of S7/s7"),
        (["run", "S8"], {}, "notebook=S8 is unknown; it is one of"),
        (["train", "S7/s7"], {"PROFILE": "fast"}, "PROFILE=fast is unknown"),
        (["train", "S7/s7", "--seeds", "0"], {}, "Invalid value for '--seeds'"),
        (["fly"], {}, "No such command 'fly'"),
    ],
)
def test_bad_arguments_are_named_with_exit_code_2(arguments, environment, said):
    done = helpers(*arguments, **environment)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_summary_prints_all_three_tables():
    done = helpers("summary", "s7")
    assert done.returncode == 0
    assert "Total params: 439,808" in done.stdout
    assert "Mult-adds: 162.67 M" in done.stdout
    assert re.search(r"conv12 +1 +1 +0 +1 +1 +8 +98", done.stdout)


def test_data_that_cannot_be_had_is_one_clear_line(tmp_path):
    code = (
        "import sys; from helpers.images import downloads as d;"
        "d.download_cifar10.__defaults__ = ((),);"
        "from helpers.__main__ import main; sys.argv[1:] = ['data']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CIFAR10_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: CIFAR-10 is not in")
    assert done.stderr.count("\n") == 1


def test_a_run_from_end_to_end(tmp_path):
    environment = {"PROFILE": "smoke", "DATASET": "digits", "RESUME": "0"}
    done = helpers("train", "S7/s7_dropout", "--validation", **environment)
    assert done.returncode == 0, done.stderr
    assert "epoch  2/2" in done.stdout
    [folder] = re.findall(r"% of the test images right; (.*)", done.stdout)
    metrics = json.loads((ROOT / folder / "metrics.json").read_text())
    assert metrics["test_images"] == 143
    assert metrics["dataset"].endswith("(validation split)")
