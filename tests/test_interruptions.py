"""What a user or a disk can do to a run: one line, the exit code of its kind, nothing lost."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from accelerate.state import AcceleratorState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from helpers import devices, files
from helpers.images import data as data_module
from helpers.images.batches import AugmentedImages
from helpers.runs import conductor
from helpers.runs.catalogue import RUNS
from helpers.settings import ROOT, Profile, Settings
from upkeep import commands, handin

pytestmark = pytest.mark.slow

OF_RUN = handin.of_run
BRIEF = Profile("smoke", train_images=64, epochs=1)


@pytest.fixture(scope="module")
def digits():
    data = data_module.digits().first(64)
    few = {"test_images": data.test_images[:40], "test_labels": data.test_labels[:40]}
    return dataclasses.replace(data, **few)


def started(home, *arguments):
    code = (
        "import sys, helpers.settings, pathlib\n"
        "chosen = helpers.settings.Settings.from_environment.__func__\n"
        "chosen.__defaults__ = 'auto', 'auto', pathlib.Path(sys.argv.pop(1)), False\n"
        "from helpers.__main__ import main\n"
        "main()"
    )
    environment = {**os.environ, "PROFILE": "smoke", "DATASET": "digits", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home), *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


STOPPED = "Stopped. The same command goes on after the last whole epoch or short run."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_training_in_one_line(number, tmp_path, digits):
    home = tmp_path / "a folder with ä space"
    run = started(home, "train", "S7/s7_dropout")
    while not run.stdout.readline().startswith("epoch  1/"):
        assert run.poll() is None
    under_way = files.alone(home / "results" / "_smoke-digits" / "S7" / "s7_dropout")
    with pytest.raises(BlockingIOError, match=r"another process is training the run in .*s7_dr"):
        under_way.__enter__()
    run.send_signal(number)
    _, error = run.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert run.returncode == (-number if killed else 128 + number)
    assert error.strip() == ("" if killed else STOPPED)
    with files.alone(home / "results" / "_smoke-digits" / "S7" / "s7_dropout"):
        pass  # the dead hold no lock


def test_a_run_that_is_under_way_is_not_started_twice(digits, tmp_path, monkeypatch):
    monkeypatch.delenv("USER", raising=False)  # as for a service
    brief = Settings(BRIEF, "digits", home=tmp_path)
    under_way = files.alone(brief.results("digits") / "S7/s7")  # as by another process
    monkeypatch.setenv("USER", "jane")
    said = pytest.raises(BlockingIOError, match=r"another process is training the run in .*s7")
    with under_way, said:
        conductor.train(RUNS["S7/s7"], digits, brief)
    assert not list(tmp_path.rglob("*.pt"))


KERNEL = """
import sys, pathlib
from upkeep import execution
execution.ROOT = pathlib.Path(sys.argv[1])
from helpers.__main__ import main
from helpers.images import data
data.load = lambda settings: data.digits()
sys.argv[1:] = ["run", "N"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_kernel_outlives_the_command_that_runs_a_notebook(number, tmp_path):
    content = nbformat.v4.new_notebook()
    source = "import os, time\nprint('kernel', os.getpid(), flush=True)\ntime.sleep(600)"
    content.cells = [nbformat.v4.new_code_cell(source)]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(content, tmp_path / "notebooks" / "N.ipynb")
    environment = {**os.environ, "PROFILE": "smoke", "DATASET": "digits"}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, str(tmp_path)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        said = ""
        while not said.startswith("kernel"):
            said = run.stdout.readline()
            assert run.poll() is None
        run.send_signal(number)
        _, error = run.communicate(timeout=60)
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in error
    assert (STOPPED in error) == (number == signal.SIGTERM)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(said.split()[1])).wait(timeout=30)


def test_an_error_of_a_transform_in_a_loader_is_shown_as_it_is(digits, tmp_path, monkeypatch):
    def broken(images, batch):
        raise RuntimeError("the student's own error")

    monkeypatch.setattr(devices, "workers", lambda: 1)
    monkeypatch.setattr(AugmentedImages, "__getitems__", broken)
    settings = Settings(Profile("smoke", train_images=64, epochs=1), "digits", home=tmp_path)
    with pytest.raises(RuntimeError, match="the student's own error"):
        conductor.train(RUNS["S7/s7_dropout"], digits, settings)


def test_a_killed_loader_is_said_and_the_same_run_goes_on(digits, tmp_path, monkeypatch):
    here, load = os.getpid(), AugmentedImages.__getitems__

    def killed(images, batch):
        if os.getpid() != here and (tmp_path / "checkpoints").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(images, batch)

    monkeypatch.setattr(devices, "workers", lambda: 1)
    twice = Settings(Profile("smoke", train_images=64, epochs=2), "digits", home=tmp_path)
    monkeypatch.setattr(AugmentedImages, "__getitems__", killed)
    began = time.monotonic()
    with pytest.raises(
        ChildProcessError, match=r"loads images was stopped or killed.* Run the same again"
    ):
        conductor.train(RUNS["S7/s7_dropout"], digits, twice)
    assert time.monotonic() - began < 30
    monkeypatch.setattr(AugmentedImages, "__getitems__", load)
    again = conductor.train(RUNS["S7/s7_dropout"], digits, twice)
    whole = dataclasses.replace(twice, home=tmp_path / "whole")
    never_killed = conductor.train(RUNS["S7/s7_dropout"], digits, whole)
    assert again.metrics["weights_sha256"] == never_killed.metrics["weights_sha256"]


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


def test_a_notebook_shows_no_traceback_for_a_full_disk(shell, capsys):
    shell.run_cell("from helpers import notebook\nnotebook.set_up('smoke', 'digits')")
    capsys.readouterr()
    cell = "try:\n    open('/none/x')\nexcept OSError as e:\n    raise OSError('disk full') from e"
    assert not shell.run_cell(cell).success  # so that no further cell is run
    said = capsys.readouterr().out
    said = re.sub(r"\x1b\[[\d;]*m", "", said).split("\n")
    assert [line for line in said if line][1:] == ["OSError: disk full"], "after a hint at %tb"
    shell.run_cell("raise KeyError('of a student')")
    assert "Traceback" in capsys.readouterr().out


def test_an_interruption_says_that_the_same_cell_goes_on(digits, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(conductor, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        conductor.train(RUNS["S7/s7"], digits, Settings(BRIEF, "digits", home=tmp_path))
    assert "Run the same again, and it goes on" in capsys.readouterr().out


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    files.write(file, "old")
    write_bytes = type(file).write_bytes

    def full(path, content):
        write_bytes(path, content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", full)
    expected = (
        r"metrics\.json cannot be written: No space left on device; it takes 2\.0 MB, .* free$"
    )
    with pytest.raises(OSError, match=expected):
        files.write(file, b"x" * 2_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert file.read_text() == "old"


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "S7").write_text("")
    with pytest.raises(OSError, match=r"curves\.png cannot be written: "):
        files.write(tmp_path / "S7" / "curves.png", b"")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    source = ROOT / "results" / "S7" / "s7_dropout"
    shutil.copytree(source, root / "results" / "S7" / "s7_dropout")
    return root


KEYS = list(json.loads((ROOT / "results/S7/s7_dropout/metrics.json").read_text()))
DAMAGE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"[]", b"null", b"3", b'{"net": null}', b"{", b"\xff\xfe"]),
    st.sampled_from(KEYS),  # a figure that is missing
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE, command=st.sampled_from(["report", "check"]))
def test_damaged_metrics_end_a_command_in_one_line(damage, command, kept, monkeypatch, capsys):
    file = kept / "results" / "S7" / "s7_dropout" / "metrics.json"
    whole = (ROOT / "results/S7/s7_dropout/metrics.json").read_text()
    if isinstance(damage, str):
        damage = json.dumps({k: v for k, v in json.loads(whole).items() if k != damage}).encode()
    file.write_bytes(damage)
    monkeypatch.setattr(handin, "of_run", lambda run: OF_RUN(run, kept))
    arguments = {
        "report": ["report", "S7/s7_dropout"],
        "check": ["check", "S7", "missing.py:Net", "--run", str(file.parent)],
    }[command]
    monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    code = 0
    try:
        commands.main()
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code in (0, 1, 2, None)
    assert len(error.strip().splitlines()) == (1 if code else 0), error
    assert "Traceback" not in error


def test_reuse_names_weights_that_were_not_measured(digits, tmp_path):
    brief = Settings(BRIEF, "digits", home=tmp_path)
    folder = conductor.train(RUNS["S7/s7_dropout"], digits, brief).folder
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    shutil.copytree(
        tmp_path / "results" / "_smoke-digits", tmp_path / "results", dirs_exist_ok=True
    )
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that metrics"):
        conductor.train(RUNS["S7/s7_dropout"], digits, dataclasses.replace(brief, reuse=True))


@pytest.mark.parametrize("now", [{"device": "Tesla T4"}, {"numpy": "9.9"}, {"precision": "bf16"}])
def test_another_device_precision_or_version_goes_on_and_says_so(
    now, digits, tmp_path, monkeypatch, capsys
):
    def here(**changed):
        monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # it knows one precision
        found = {"device": "CPU", "precision": "no", "numpy": "1"} | changed
        monkeypatch.setattr(devices, "describe", lambda _: found["device"])
        monkeypatch.setattr(devices, "precision", lambda _: found["precision"])
        monkeypatch.setattr(devices, "versions", lambda: {"numpy": found["numpy"]})

    here()
    twice = Settings(Profile("smoke", train_images=64, epochs=2), "digits", home=tmp_path)
    fit = conductor.fit

    def cut_short(model, data, transform, recipe, **options):
        checkpoint = options["checkpoint"]
        save = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", lambda state: (save(state), 1 / 0))
        return fit(model, data, transform, recipe, **options)

    monkeypatch.setattr(conductor, "fit", cut_short)
    with pytest.raises(ZeroDivisionError):
        conductor.train(RUNS["S7/s7_dropout"], digits, twice)
    monkeypatch.setattr(conductor, "fit", fit)
    here(**now)
    capsys.readouterr()
    result = conductor.train(RUNS["S7/s7_dropout"], digits, twice)
    lines = capsys.readouterr().out.splitlines()
    assert "Continuing after epoch 1 of 2" in lines
    [said] = [line for line in lines if line.startswith("Changed since the last checkpoint: ")]
    before, after = result.metrics["trained_on"]
    changed = [f"{name} {before[name]} -> {new}" for name, new in now.items()]
    assert said.split(": ", 1)[1] == ", ".join(changed)
    assert before | now == after
    here(device="a third one", precision="fp16", numpy="10")
    opened = conductor.train(RUNS["S7/s7_dropout"], digits, twice)
    assert "Nothing left to train" in capsys.readouterr().out
    for name in ("device", "device_type", "precision", "processes", "versions", "trained_on"):
        assert opened.metrics[name] == result.metrics[name], "it is where it was trained"
