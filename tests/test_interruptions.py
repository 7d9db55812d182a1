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
from concurrent import futures

import nbformat
import psutil
import pytest
from accelerate.state import AcceleratorState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from helpers import cli, device, experiments, files, report
from helpers import data as data_module
from helpers.config import ROOT, Profile, Settings
from helpers.experiments import EXPERIMENTS
from helpers.loaders import AugmentedDataset

pytestmark = pytest.mark.slow

WRITE_RUN_REPORT = report.write_run_report
ONE_EPOCH = Profile("smoke", train_images=64, epochs=1)
TWO_EPOCHS = Profile("smoke", train_images=64, epochs=2)


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(64, 40)


# Runs a command with another folder for results and checkpoints.
CLI_IN_FOLDER = """
import pathlib, sys
from helpers import config
output_dir = pathlib.Path(sys.argv.pop(1))
config.Settings.from_env.__func__.__defaults__ = ("auto", "auto", output_dir, False)
from helpers.__main__ import main
main()
"""


def start_command(output_dir, *arguments):
    environment = {**os.environ, "PROFILE": "smoke", "DATASET": "sample", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CLI_IN_FOLDER, str(output_dir), *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_training_in_one_line(number, tmp_path):
    output_dir = tmp_path / "a folder with ä space"
    process = start_command(output_dir, "train", "S7/s7_dropout")
    while not process.stdout.readline().startswith("epoch  1/"):
        assert process.poll() is None
    run_dir = output_dir / "results" / "_smoke-sample" / "S7" / "s7_dropout"
    lock = files.file_lock(run_dir)
    with pytest.raises(BlockingIOError, match=r"another process is working in .*s7_dr"):
        lock.__enter__()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number)
    assert error.strip() == ("" if killed else cli.STOP_MESSAGE)
    with files.file_lock(run_dir):
        pass  # a dead process holds no lock


def test_a_signal_ends_a_forked_data_loader_without_a_word():
    code = "import os; from helpers import cli; cli._exit_on_signal(os.getppid(), 2, None)"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (130, b"", b"")


def test_a_run_in_progress_is_not_started_twice(sample, tmp_path):
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    lock = files.file_lock(settings.results_dir("sample") / "S7/s7")  # as another process does
    expected = pytest.raises(BlockingIOError, match=r"another process is working in .*s7")
    with lock, expected:
        experiments.run_experiment(EXPERIMENTS["S7/s7"], sample, settings)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_lock_leaves_no_file_and_holds_for_those_that_wait(tmp_path, monkeypatch):
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(locks))
    holders = []

    def work():
        with files.file_lock(tmp_path / "run", seconds=-1):
            holders.append(1)
            assert len(holders) == 1, "another thread holds the lock as well"
            time.sleep(0.01)
            holders.clear()

    with futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(40)]:
            done.result()
    assert list(locks.iterdir()) == []


RUN_NOTEBOOK = """
import pathlib, sys
from helpers import data, notebook_runner
notebook_runner.ROOT = pathlib.Path(sys.argv[1])
data.load_data = lambda settings: data.load_sample()
from helpers.__main__ import main
sys.argv[1:] = ["run", "N"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_kernel_outlives_the_command_that_runs_a_notebook(number, tmp_path):
    content = nbformat.v4.new_notebook()
    source = "import os, time\nprint('epoch  1/1', os.getpid(), flush=True)\ntime.sleep(600)"
    content.cells = [nbformat.v4.new_code_cell(source)]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(content, tmp_path / "notebooks" / "N.ipynb")
    environment = {**os.environ, "PROFILE": "smoke", "DATASET": "sample"}
    with subprocess.Popen(
        [sys.executable, "-c", RUN_NOTEBOOK, str(tmp_path)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        line = ""
        while not line.startswith("  epoch"):
            line = process.stdout.readline()
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in error
    assert (cli.STOP_MESSAGE in error) == (number == signal.SIGTERM)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(line.split()[2])).wait(timeout=30)


def test_an_error_of_a_transform_in_a_loader_is_shown_unchanged(sample, tmp_path, monkeypatch):
    def fail(dataset, batch):
        raise RuntimeError("the student's own error")

    monkeypatch.setattr(device, "num_workers", lambda: 1)
    monkeypatch.setattr(AugmentedDataset, "__getitems__", fail)
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    with pytest.raises(RuntimeError, match="the student's own error"):
        experiments.run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, settings)


def test_a_killed_loader_is_reported_and_the_same_run_continues(sample, tmp_path, monkeypatch):
    main_pid = os.getpid()
    load_batch = AugmentedDataset.__getitems__

    def load_batch_or_die(dataset, batch):
        # Only in a loader, and not before the first checkpoint.
        if os.getpid() != main_pid and (tmp_path / "checkpoints").exists():
            (tmp_path / "killed at").write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        return load_batch(dataset, batch)

    monkeypatch.setattr(device, "num_workers", lambda: 1)
    settings = Settings(TWO_EPOCHS, "sample", output_dir=tmp_path)
    experiment = EXPERIMENTS["S7/s7_dropout"]
    monkeypatch.setattr(AugmentedDataset, "__getitems__", load_batch_or_die)
    with pytest.raises(ChildProcessError, match=r"loads images was stopped or killed") as error:
        experiments.run_experiment(experiment, sample, settings)
    assert experiments.RESUME_HINT in str(error.value)
    assert time.monotonic() - float((tmp_path / "killed at").read_text()) < 30
    monkeypatch.setattr(AugmentedDataset, "__getitems__", load_batch)
    resumed = experiments.run_experiment(experiment, sample, settings)
    elsewhere = dataclasses.replace(settings, output_dir=tmp_path / "elsewhere")
    never_killed = experiments.run_experiment(experiment, sample, elsewhere)
    assert resumed.metrics["weights_sha256"] == never_killed.metrics["weights_sha256"]


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


def test_a_notebook_shows_no_traceback_for_a_full_disk(shell, capsys, monkeypatch):
    monkeypatch.setenv("DATASET", "sample")
    assert shell.run_cell("from helpers import colab\ncolab.setup('smoke')").success
    capsys.readouterr()
    cell = "try:\n    open('/none/x')\nexcept OSError as e:\n    raise OSError('disk full') from e"
    assert not shell.run_cell(cell).success  # so that no further cell is run
    output = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert output.split() == ["OSError:", "disk", "full"]
    shell.run_cell("raise KeyError('of a student')")
    output = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert output.splitlines() == [
        "line 1 of the cell: raise KeyError('of a student')",
        "KeyError: 'of a student'",
    ]


def test_an_interruption_says_how_to_continue(sample, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "fit", interrupt)
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        experiments.run_experiment(EXPERIMENTS["S7/s7"], sample, settings)
    assert experiments.RESUME_HINT in capsys.readouterr().out


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    files.atomic_write(file, "old")
    write_bytes = type(file).write_bytes

    def write_to_full_disk(path, content):
        write_bytes(path, content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", write_to_full_disk)
    expected = (
        r"metrics\.json cannot be written: No space left on device; it takes 2\.0 MB, .* free$"
    )
    with pytest.raises(OSError, match=expected):
        files.atomic_write(file, b"x" * 2_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert file.read_text() == "old"


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "S7").write_text("")
    with pytest.raises(OSError, match=r"curves\.png cannot be written: "):
        files.atomic_write(tmp_path / "S7" / "curves.png", b"")


@pytest.fixture(scope="module")
def saved_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    source = ROOT / "results" / "S7" / "s7_dropout"
    shutil.copytree(source, root / "results" / "S7" / "s7_dropout")
    return root


KEYS = list(json.loads((ROOT / "results/S7/s7_dropout/metrics.json").read_text()))
DAMAGE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"[]", b"null", b"3", b'{"net": null}', b"{", b"\xff\xfe"]),
    st.sampled_from(KEYS),  # a key that is missing
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE, command=st.sampled_from(["report", "check"]))
def test_damaged_metrics_end_a_command_in_one_line(
    damage, command, saved_root, monkeypatch, capsys
):
    file = saved_root / "results" / "S7" / "s7_dropout" / "metrics.json"
    if isinstance(damage, str):
        metrics = json.loads((ROOT / "results/S7/s7_dropout/metrics.json").read_text())
        del metrics[damage]
        damage = json.dumps(metrics).encode()
    file.write_bytes(damage)
    monkeypatch.setattr(report, "write_run_report", lambda run: WRITE_RUN_REPORT(run, saved_root))
    arguments = {
        "report": ["report", "S7/s7_dropout"],
        "check": ["check", "S7", "missing.py:Net", "--run", str(file.parent)],
    }[command]
    monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    code = 0
    try:
        cli.main()
    except SystemExit as exit_info:
        code = exit_info.code
    captured = capsys.readouterr()
    # `check` prints what it says of a network, errors included, on standard output.
    printed = captured.out + captured.err
    assert code in (0, 1, 2, None)
    assert printed.count("error: ") == (1 if code else 0), captured
    assert "Traceback" not in printed


def test_reuse_names_weights_that_were_not_measured(sample, tmp_path):
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    folder = experiments.run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, settings).folder
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    shutil.copytree(
        tmp_path / "results" / "_smoke-sample", tmp_path / "results", dirs_exist_ok=True
    )
    with pytest.raises(ValueError, match="does not match the checksum"):
        experiments.run_experiment(
            EXPERIMENTS["S7/s7_dropout"], sample, dataclasses.replace(settings, reuse=True)
        )


@pytest.mark.parametrize(
    "changes", [{"device": "Tesla T4"}, {"numpy": "9.9"}, {"precision": "bf16"}]
)
def test_another_device_precision_or_version_continues_and_is_reported(
    changes, sample, tmp_path, monkeypatch, capsys
):
    def set_environment(device_name="CPU", precision="no", numpy="1"):
        monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # it allows one precision
        monkeypatch.setattr(device, "device_name", lambda _: device_name)
        monkeypatch.setattr(device, "mixed_precision", lambda _: precision)
        monkeypatch.setattr(device, "library_versions", lambda: {"numpy": numpy})

    def fail_after_first_checkpoint(model, data, transform, config, **options):
        checkpoint = options["checkpoint"]
        save = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", lambda state: (save(state), 1 / 0))
        return fit(model, data, transform, config, **options)

    experiment = EXPERIMENTS["S7/s7_dropout"]
    settings = Settings(TWO_EPOCHS, "sample", output_dir=tmp_path)
    fit = experiments.fit
    set_environment()
    monkeypatch.setattr(experiments, "fit", fail_after_first_checkpoint)
    with pytest.raises(ZeroDivisionError):
        experiments.run_experiment(experiment, sample, settings)
    monkeypatch.setattr(experiments, "fit", fit)
    set_environment(**{name.replace("device", "device_name"): v for name, v in changes.items()})
    capsys.readouterr()
    result = experiments.run_experiment(experiment, sample, settings)
    lines = capsys.readouterr().out.splitlines()
    assert "Continuing after epoch 1 of 2" in lines
    [line] = [line for line in lines if line.startswith("Changed since the last checkpoint: ")]
    before, after = result.metrics["trained_on"]
    expected = [f"{name} {before[name]} -> {value}" for name, value in changes.items()]
    assert line.split(": ", 1)[1] == ", ".join(expected)
    assert before | changes == after
    set_environment("a third one", "fp16", "10")
    reopened = experiments.run_experiment(experiment, sample, settings)
    assert "Nothing left to train" in capsys.readouterr().out
    for name in ("device", "device_type", "precision", "processes", "versions", "trained_on"):
        assert reopened.metrics[name] == result.metrics[name], "it is where it was trained"
