"""The package stays what it says: importable without effects, one-way, and small."""

import ast
import re
import subprocess
import sys

import pytest

from helpers.settings import ROOT

PACKAGES = ("tracing", "helpers", "upkeep")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# From the ground up: a module imports from those before it only.
ORDER = [
    "tracing.views", "tracing.calls", "tracing.operations", "tracing.layers",
    "tracing.order",
    "settings", "files", "devices",
    "images.downloads", "images.data", "images.batches", "images.transforms",
    "models",
    "anatomy.receptive_field", "anatomy.summary", "anatomy.judges", "anatomy.demands",
    "anatomy.requirements",
    "evaluation",
    "training.muon", "training.recipes", "training.initialisation", "training.checkpoints",
    "training.loop", "training.range_test",
    "figures.plots", "figures.fields", "figures.grad_cam",
    "runs.catalogue", "runs.results", "runs.conductor", "runs.search", "runs.pace",
    "notebook",
    "upkeep.networks", "upkeep.execution", "upkeep.grading", "upkeep.verification",
    "upkeep.seeds", "upkeep.tables", "upkeep.handin", "upkeep.commands", "__main__",
]  # fmt: skip


def place(module):
    """Where in the order a dotted name stands; a folder's own name stands for its first module."""
    names = [name for name in ORDER if f"{module}.".startswith(f"{name}.")]
    names = names or [name for name in ORDER if name.startswith(f"{module}.")]
    return ORDER.index(names[0])


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            module = node.module.removeprefix("helpers").strip(".")
            for alias in node.names:  # a module, or something in one
                whole = f"{module}.{alias.name}".strip(".")
                known = any(f"{whole}.".startswith(f"{name}.") for name in ORDER)
                yield whole if known else module


def test_imports_run_one_way():
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("helpers.")
        if name.endswith("__init__") and name != "models.__init__":
            assert not list(imported(path)), f"{name} imports"
            continue
        later = [other for other in imported(path) if place(other) > place(name)]
        assert not later, f"{name} imports {later}"


@pytest.mark.slow
def test_importing_prints_nothing_opens_nothing_and_draws_nothing():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = f"""
import sys, torch, random
import numpy as np
import matplotlib.font_manager  # which writes its cache, once a machine
opened = []
watched = lambda event, args: opened.append(args) if event == "open" and "w" in str(args[1]) else (
    opened.append(args) if event == "socket.connect" else None)
state, numbers, python = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
sys.addaudithook(watched)
import {", ".join(names)}
assert torch.equal(state, torch.get_rng_state())
assert (numbers == np.random.get_state()[1]).all()
assert python == random.getstate()
assert not opened, opened
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def code_lines(path):
    """Lines that are neither blank nor comment nor docstring."""
    text = path.read_text()
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in prose
    ]


def test_a_reader_gets_through_it_in_one_sitting():
    lines = {path: len(code_lines(path)) for path in MODULES}
    assert sum(n for path, n in lines.items() if path.is_relative_to(ROOT / "helpers")) <= 1_900
    assert max(lines.values()) <= 150


def test_tracing_stands_on_its_own():
    for path in (ROOT / "tracing").glob("*.py"):
        assert "helpers" not in path.read_text()


def test_readme_lists_every_module():
    readme = (ROOT / "README.md").read_text()
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    for path in (path for path in files if path.suffix != ".pyc"):
        if not path.name.startswith("__") and path.parent.name not in ("models", "templates"):
            indent = " " * 2 * len(path.relative_to(ROOT).parent.parts)
            slash = "/" if path.is_dir() else ""
            assert re.search(rf"^{indent}{path.stem}{slash} ", readme, re.MULTILINE), path


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_locks_pin_every_package_with_hashes_and_without_addresses(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    entries = re.findall(r"^[\w.-]+(?:\[\w+\])?==", text, re.MULTILINE)
    blocks = re.findall(r"^[\w.-]+(?:\[\w+\])?==[^\n]*\\\n +--hash=sha256:", text, re.MULTILINE)
    assert len(entries) == len(blocks) > 50
