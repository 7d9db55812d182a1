"""Kills at random moments: what was begun ends as if nothing had happened. Run by `make drill`.

KILLS in the environment is their number. Whatever file is there after a kill is whole, but for one
of two checkpoints; the same command then leaves the same files, weights and figures, to the last
bit, as a run that was never killed.
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

from helpers.settings import ROOT
from tests import tiny_cifar10

COMMANDS = {
    "train": ["train", "S7/tiny"], "checkpoints": ["train", "S7/tiny"],
    "results": ["train", "S7/tiny"], "run": ["run", "N"], "downloads": ["data"],
}  # fmt: skip
TIMES = ["seconds", "images_per_second"]
CELLS = """
import sys
sys.path[:0] = [".."]
import brief
from helpers import notebook
from helpers.figures import plots
from helpers.images import data
from helpers.runs import conductor, catalogue
settings = notebook.set_up()
images = data.load(settings)
result = conductor.train(catalogue.RUNS["S7/tiny"], images, settings)
notebook.show(plots.empty_figure(3, 3, "a figure")[0], result.folder / "figure.png");
"""


class Archive:
    """A tiny CIFAR-10, served slowly, and what torchvision must know to accept it."""

    def __init__(self):
        packed, self.sums = tiny_cifar10.packed(images=40)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(packed)))
                self.end_headers()
                for start in range(0, len(packed), 50_000):
                    time.sleep(0.01)
                    self.wfile.write(packed[start : start + 50_000])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # whoever asked was killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.source = f"http://127.0.0.1:{self.server.server_port}/cifar-10-python.tar.gz"


@pytest.fixture(scope="module")
def archive():
    archive = Archive()
    yield archive
    archive.server.shutdown()
    archive.server.server_close()


def clone(place):
    for name in ("helpers", "tracing", "upkeep"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", place)
    shutil.copy(Path(__file__).with_name("brief.py"), place)
    content = nbformat.v4.new_notebook()
    content.cells = [nbformat.v4.new_code_cell(CELLS.strip())]
    (place / "notebooks").mkdir()
    nbformat.write(content, place / "notebooks" / "N.ipynb")
    return place


def started(place, scene, archive, kill=""):
    environment = {
        **os.environ, "PROFILE": "smoke", "DATASET": "digits", "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true", "CIFAR10_ROOT": str(place / "downloads"), "KILL": kill,
        "SUMS": json.dumps(archive.sums), "SOURCE": archive.source,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "brief.py", *COMMANDS[scene]], cwd=place, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def files(place):
    """All that the command left: names and, where it does not tell the time, content."""
    found = {}
    for folder in ("results", "checkpoints", "downloads"):
        for path in sorted((place / folder).rglob("*")):
            name = str(path.relative_to(place))
            if path.is_file() and "_running" not in name:
                found[name] = digest(path)
    return found


def digest(path):
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns=TIMES).to_csv()
    if path.name == "metrics.json":
        metrics = json.loads(path.read_text())
        return {k: v for k, v in metrics.items() if k not in ("wall_seconds", *TIMES)}
    if path.suffix == ".ipynb":
        return len(nbformat.read(path, as_version=4).cells)
    if path.suffix in (".pt", ".txt", ".png"):
        return path.suffix  # they tell the time, or are looked at by the run that goes on
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def never_killed(archive, tmp_path_factory):
    """For each scene: the files of a run that was left alone, and the seconds it took."""
    found = {}
    for scene in COMMANDS:
        place = clone(tmp_path_factory.mktemp("never") / "killed")
        began = time.monotonic()
        done = started(place, scene, archive)
        assert done.returncode == 0, done.stderr
        found[scene] = files(place), time.monotonic() - began
    return found


@pytest.mark.parametrize("number", range(int(os.environ.get("KILLS", "100"))))
def test_after_a_kill_the_same_command_ends_as_if_there_had_been_none(
    number, never_killed, archive, tmp_path
):
    draw, scene = random.Random(number), list(COMMANDS)[number % len(COMMANDS)]
    expected, seconds = never_killed[scene]
    opened = {"checkpoints": 6, "results": 7, "downloads": 8}.get(scene)
    kill = f"time:{draw.uniform(0, seconds)}"
    if opened:
        kill = f"{scene}:{draw.randint(1, opened)}:{draw.choice([0, draw.uniform(0, 0.02)])}"
    place = clone(tmp_path / "nets")
    killed = started(place, scene, archive, kill)
    assert killed.returncode in (-9, 0), killed.stderr
    assert killed.returncode == -9 or scene in ("train", "run"), "the moment must come"
    for name, content in files(place).items():
        passing = "/." in name or "downloads" in name  # written aside, or checked before use
        assert passing or content == expected[name], f"{name} is neither the old nor the new one"
    done = started(place, scene, archive)
    assert done.returncode == 0, done.stderr
    left = {name for name in files(place) if "/.download/" not in name}
    assert left == set(expected)
    assert {name: files(place)[name] for name in left} == expected
    for process in psutil.process_iter(["cmdline"]):  # a kernel notices within a second
        if str(place) in " ".join(process.info["cmdline"] or []):
            process.wait(timeout=30)
