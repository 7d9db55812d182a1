"""Kills commands at random moments: the same command then ends as if there had been no kill.

`make drill` runs it; the environment variable KILLS is the number of kills. After a kill every file
is complete, except for one of two checkpoints and for downloads. The same command then produces the
same files, weights and figures, to the last bit, as a run that was never killed.
"""

import hashlib
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from helpers.config import ROOT
from tests import tiny_cifar10

# The scenarios: in which folder, or at what time, a command is killed.
COMMANDS = {
    "train": ["train", "S7/tiny"],
    "checkpoints": ["train", "S7/tiny"],
    "results": ["train", "S7/tiny"],
    "run": ["run", "N"],
    "downloads": ["data"],
}
# How many times a command opens a file for writing in a folder of this name.
OPEN_COUNTS = {"checkpoints": 6, "results": 7, "downloads": 8}
TIMES = ["seconds", "images_per_second"]
# It stays if the kill comes between unpacking and removing it.
ARCHIVE = "downloads/cifar-10-python.tar.gz"
NOTEBOOK_CELL = """
import sys
sys.path[:0] = [".."]
import tiny_cli
from helpers import colab, data, experiments, plotting
settings = colab.setup()
sample = data.load_data(settings)
result = experiments.run_experiment(experiments.EXPERIMENTS["S7/tiny"], sample, settings)
figure, _ = plotting.new_figure(3, 3, "a figure")
colab.save_and_show(figure, result.folder / "figure.png");
"""


class Mirror:
    """Serves a tiny CIFAR-10 slowly; `attributes` make torchvision accept it."""

    def __init__(self):
        archive, self.attributes = tiny_cifar10.packed(images=40)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(archive)))
                self.end_headers()
                for start in range(0, len(archive), 50_000):
                    time.sleep(0.01)
                    self.wfile.write(archive[start : start + 50_000])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # the client was killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/cifar-10-python.tar.gz"


@pytest.fixture(scope="module")
def mirror():
    mirror = Mirror()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def copy_project(folder):
    shutil.copytree(
        ROOT / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "requirements.lock", folder)
    shutil.copy(Path(__file__).with_name("tiny_cli.py"), folder)
    content = nbformat.v4.new_notebook()
    content.cells = [nbformat.v4.new_code_cell(NOTEBOOK_CELL.strip())]
    (folder / "notebooks").mkdir()
    nbformat.write(content, folder / "notebooks" / "N.ipynb")
    return folder


def run_command(folder, scenario, mirror, kill=""):
    environment = {
        **os.environ,
        "PROFILE": "smoke",
        "DATASET": "sample",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CIFAR10_ROOT": str(folder / "downloads"),
        "CIFAR10_ATTRIBUTES": json.dumps(mirror.attributes),
        "MIRROR": mirror.url,
        "KILL": kill,
    }
    return subprocess.run(
        [sys.executable, "tiny_cli.py", *COMMANDS[scenario]], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def digest_files(folder):
    """Return the files that the command wrote, by name, with a digest of their content."""
    digests = {}
    for name in ("results", "checkpoints", "downloads"):
        for path in sorted((folder / name).rglob("*")):
            if path.is_file() and not {"_running", ".locks"} & set(path.parts):
                digests[str(path.relative_to(folder))] = digest(path)
    return digests


def digest(path):
    """Return what two runs have in common: times differ from run to run."""
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns=TIMES).to_csv()
    if path.name == "metrics.json":
        metrics = json.loads(path.read_text())
        return {k: v for k, v in metrics.items() if k not in ("wall_seconds", *TIMES)}
    if path.suffix == ".ipynb":
        return len(nbformat.read(path, as_version=4).cells)
    if path.suffix in (".pt", ".txt", ".png"):
        return path.suffix  # contains times, or the continued run checks it
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def never_killed(mirror, tmp_path_factory):
    """For each scenario: the files of a run without a kill, and the seconds it took."""
    expected = {}
    for scenario in COMMANDS:
        folder = copy_project(tmp_path_factory.mktemp("never") / "killed")
        start = time.monotonic()
        completed = run_command(folder, scenario, mirror)
        assert completed.returncode == 0, completed.stderr
        expected[scenario] = digest_files(folder), time.monotonic() - start
        assert ARCHIVE not in expected[scenario][0]
    return expected


@pytest.mark.parametrize("number", range(int(os.environ.get("KILLS", "100"))))
def test_after_a_kill_the_same_command_ends_as_if_there_had_been_none(
    number, never_killed, mirror, tmp_path
):
    rng = random.Random(number)
    scenario = list(COMMANDS)[number % len(COMMANDS)]
    expected, seconds = never_killed[scenario]
    if scenario in OPEN_COUNTS:
        open_count = rng.randint(1, OPEN_COUNTS[scenario])
        kill = f"{scenario}:{open_count}:{rng.choice([0, rng.uniform(0, 0.02)])}"
    else:
        kill = f"time:{rng.uniform(0, seconds)}"
    folder = copy_project(tmp_path / "nets")
    killed = run_command(folder, scenario, mirror, kill)
    assert killed.returncode in (-9, 0), killed.stderr
    assert killed.returncode == -9 or scenario in ("train", "run"), "the kill must happen"
    for name, content in digest_files(folder).items():
        may_be_partial = "/." in name or "downloads" in name  # never read without a check
        assert may_be_partial or content == expected[name], f"{name} is neither old nor new"
    completed = run_command(folder, scenario, mirror)
    assert completed.returncode == 0, completed.stderr
    digests = digest_files(folder)
    digests.pop(ARCHIVE, None)
    assert digests == expected
    for process in psutil.process_iter(["cmdline"]):  # a kernel notices within a second
        if str(folder) in " ".join(process.info["cmdline"] or []):
            process.wait(timeout=30)
