"""The command line: quick help, clear refusals, and a run from end to end."""

import re
import subprocess
import sys
import time

import pytest

from helpers.settings import ROOT


def helpers(*arguments, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


COMMANDS = ("data", "train", "run", "summary", "verify", "report", "badges")


def test_help_names_every_command_and_does_not_wait_for_torch():
    started = time.monotonic()
    done = helpers("--help")
    assert time.monotonic() - started < 5  # torch alone takes longer on a busy machine
    assert done.returncode == 0
    assert all(re.search(rf"\b{command}\b", done.stdout) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = helpers(command, "--help")
    assert done.returncode == 0
    assert "Usage: python -m helpers " + command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["summary", "s8"], {}, "no network is called s8; there are s7"),
        (["train", "S7/s8"], {}, "no run is called S7/s8; there are S7/s7"),
        (["run", "S8"], {}, "no notebook is called S8; there are"),
        (["train", "S7/s7"], {"PROFILE": "fast"}, "PROFILE=fast is unknown"),
        (["train", "S7/s7", "--seeds", "0"], {}, "Invalid value for '--seeds'"),
        (["badges", "nonsense"], {}, "'nonsense' is not of the form owner/name"),
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
        "import sys; from helpers import data; data._answering = lambda sources: [];"
        "from helpers.__main__ import main; sys.argv[1:] = ['data']; main()"
    )
    import os

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
