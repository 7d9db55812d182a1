"""The package stays what it says: importable without effects, one-way, and small."""

import ast
import re
import subprocess
import sys

import pytest

from helpers.settings import ROOT

MODULES = sorted((ROOT / "helpers").rglob("*.py"))
# From the ground up: a module imports from those before it only.
ORDER = [
    "settings", "downloads", "data", "batches", "transforms", "models", "recipes",
    "initialisation", "receptive_field", "summary", "requirements", "devices", "evaluation",
    "checkpoints", "training", "range_test", "results", "runs", "plots", "grad_cam",
    "verification", "reporting", "notebook", "__main__",
]  # fmt: skip


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            yield node.module.split(".")[1]


def test_imports_run_one_way():
    for path in MODULES:
        name = path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        later = [other for other in imported(path) if ORDER.index(other) > ORDER.index(name)]
        assert not later, f"{name} imports {later}"


def test_importing_prints_nothing_opens_nothing_and_draws_nothing():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = f"""
import sys, torch, random
import numpy as np
opened = []
watched = lambda event, args: opened.append(args) if event == "open" and "w" in str(args[1]) else (
    opened.append(args) if event == "socket.connect" else None)
state, numbers, python = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
sys.addaudithook(watched)
import {", ".join(names)}
assert torch.equal(state, torch.get_rng_state())
assert (numbers == np.random.get_state()[1]).all()
assert python == random.getstate()
opened = [entry for entry in opened if ".pyc" not in str(entry[0])]
assert not opened, opened
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
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
    lines = {path.stem: len(code_lines(path)) for path in MODULES}
    assert sum(lines.values()) < 1_500
    assert max(lines.values()) <= 150


def test_readme_lists_every_module():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "helpers").iterdir():
        if not path.name.startswith("__"):
            assert re.search(rf"^  {path.stem}/? ", readme, re.MULTILINE), path.stem


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_locks_pin_every_package_with_hashes_and_without_addresses(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    entries = re.findall(r"^[\w.-]+(?:\[\w+\])?==", text, re.MULTILINE)
    blocks = re.findall(r"^[\w.-]+(?:\[\w+\])?==[^\n]*\\\n +--hash=sha256:", text, re.MULTILINE)
    assert len(entries) == len(blocks) > 50
