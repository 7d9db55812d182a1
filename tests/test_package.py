"""The structure of the code: imports, docstrings, and lock files."""

import ast
import graphlib
import json
import os
import re
import subprocess
import sys

import pytest

import helpers
from helpers.config import ROOT

HELPERS = sorted((ROOT / "helpers").rglob("*.py"))
TOOLS = [path for path in sorted((ROOT / "tools").rglob("*.py")) if "fakes" not in path.parts]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
# The modules in the order of the package's docstring.
ORDER = re.findall(r"^ {4}(\w+) {2,}\S", helpers.__doc__, re.MULTILINE)


def module_name(path):
    """Return a dotted name; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in HELPERS + TOOLS}


def imported_names(source):
    """Return the dotted names of all imports, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(path):
    """Return the modules of this repository that a file imports."""
    modules = set()
    for name in imported_names(path.read_text()):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        modules |= {name} if name else set()
    return modules - {module_name(path)}


def notebook_source(path):
    """Return the code of a notebook without the lines for IPython."""
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = "\n".join(code).splitlines()
    return "\n".join(re.sub(r"^( *)[!%].*", r"\1pass", line) for line in lines)


def local_packages(names):
    """Return the folders of this repository among the imported names."""
    return {name.partition(".")[0] for name in names} & {"helpers", "tools", "tests", "notebooks"}


def test_the_docstring_of_helpers_lists_all_modules():
    folder = ROOT / "helpers"
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == modules | packages


def test_each_module_of_helpers_imports_only_from_those_listed_above_it():
    for path in HELPERS:
        parts = module_name(path).split(".")
        if len(parts) == 1 or parts[1] == "__main__":
            continue
        module = parts[1]
        imported = {name.split(".")[1] for name in imported_modules(path) if "." in name}
        later = {name for name in imported if ORDER.index(name) > ORDER.index(module)}
        assert not later, f"{path.name} imports {later}"


def test_no_imports_are_circular():
    graph = {module_name(path): imported_modules(path) for path in HELPERS + TOOLS}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_helpers_imports_nothing_else_of_the_repository():
    for path in HELPERS:
        assert local_packages(imported_names(path.read_text())) <= {"helpers"}, path


def test_tools_import_only_helpers_and_tools():
    for path in TOOLS:
        assert local_packages(imported_names(path.read_text())) <= {"helpers", "tools"}, path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: "/".join(path.parts[-2:]))
def test_notebooks_import_only_helpers(path):
    assert local_packages(imported_names(notebook_source(path))) == {"helpers"}


@pytest.mark.slow
def test_importing_prints_nothing_writes_nothing_asks_nobody_and_draws_no_random_numbers():
    names = sorted(name for name in MODULES if not name.endswith("__main__"))
    code = f"""
import sys, torch, random
import numpy as np
import matplotlib.font_manager  # writes its cache once on a machine
import sklearn.metrics  # rich, which it imports, draws a random number
events = []

def record(event, args):
    if event == "open" and "w" in str(args[1]) or event == "socket.connect":
        events.append(args)

torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
python_state = random.getstate()
sys.addaudithook(record)
import {", ".join(names)}
assert torch.equal(torch_state, torch.get_rng_state())
assert (numpy_state == np.random.get_state()[1]).all()
assert python_state == random.getstate()
assert not events, events
"""
    # Albumentations asks the network for updates, unless `helpers` sets this variable.
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_every_module_begins_with_one_line_about_it():
    for path in HELPERS + TOOLS:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert "\n" not in docstring.split("\n\n")[0], path


def public_functions(path):
    """Yield public functions and methods with the docstring that describes their arguments.

    Commands of typer are left out, because their docstring is the text of --help. So is `forward`,
    whose contract is that of every network: images (N, 3, 32, 32) to logits (N, 10).
    """
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    if method.name == "__init__":
                        docstring = f"{ast.get_docstring(node)} {ast.get_docstring(method)}"
                        yield method, f"{node.name}", docstring
                    elif not method.name.startswith("_") and method.name != "forward":
                        yield method, f"{node.name}.{method.name}", ast.get_docstring(method)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            is_command = any("command" in ast.unparse(item) for item in node.decorator_list)
            if not is_command and node.name != "main":
                yield node, node.name, ast.get_docstring(node)


# Named as in torch.nn, whose users know them.
KNOWN_PARAMETERS = {
    "channels", "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"
}  # fmt: skip


def parameter_names(function):
    """Return the names of the parameters that need a description."""
    arguments = function.args
    parameters = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    names = {parameter.arg for parameter in parameters}
    return sorted(names - KNOWN_PARAMETERS - {"self", "cls"})


def raises(function):
    """Return whether a function raises an exception in its own body."""
    pending = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)
    return False


def test_docstrings_describe_arguments_and_exceptions():
    missing = []
    for path in HELPERS + TOOLS:
        module_docstring = ast.get_docstring(ast.parse(path.read_text()))
        for function, name, docstring in public_functions(path):
            for parameter in parameter_names(function):
                # In the Args section, in the one line that says it all or, if all functions of a
                # module share a parameter, in the module's docstring.
                if not re.search(rf"\b{parameter}\b", f"{docstring} {module_docstring}"):
                    missing.append(f"{module_name(path)}.{name}: {parameter}")
            if raises(function) and not re.search(r"^Raises:$", docstring or "", re.MULTILINE):
                missing.append(f"{module_name(path)}.{name}: Raises")
    assert not missing, "\n".join(["not described", *missing])


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_locks_pin_every_package_with_hashes_and_without_addresses(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    entries = re.findall(r"^[\w.-]+(?:\[\w+\])?==", text, re.MULTILINE)
    blocks = re.findall(r"^[\w.-]+(?:\[\w+\])?==[^\n]*\\\n +--hash=sha256:", text, re.MULTILINE)
    assert len(entries) == len(blocks) > 50


def declared_packages():
    """Return the names in the dependencies of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    return set(re.findall(r'^ +"([\w-]+)', dependencies, re.MULTILINE))


PACKAGES_OF_MODULES = {  # if the names differ
    "IPython": "ipython",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pytorch_grad_cam": "grad-cam",
    "sklearn": "scikit-learn",
    "torch_lr_finder": "torch-lr-finder",
}


def test_every_package_that_helpers_imports_is_declared():
    declared = declared_packages()
    for path in HELPERS:
        for name in imported_names(path.read_text()):
            module = name.partition(".")[0]
            if module not in {"helpers", "google", *sys.stdlib_module_names}:
                package = PACKAGES_OF_MODULES.get(module, module)
                assert package in declared, f"{path.name} imports {module}"


def test_every_declared_package_is_needed():
    """By an import, or by name: papermill starts kernels of ipykernel."""
    imported = {
        name.partition(".")[0] for path in HELPERS for name in imported_names(path.read_text())
    }
    packages = {PACKAGES_OF_MODULES.get(module, module) for module in imported}
    assert declared_packages() - packages <= {"ipykernel"}


def test_each_lower_bound_is_in_the_lowest_lock():
    text = (ROOT / "pyproject.toml").read_text()
    lock = (ROOT / "requirements-lowest.lock").read_text()
    bounds = re.findall(r'^ +"([\w-]+)>=([\d.]+)', text, re.MULTILINE)
    assert len(bounds) > 20
    for package, version in bounds:
        locked = re.search(rf"^{package}==([\d.]+)", lock, re.MULTILINE)[1]
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", locked), f"{package} {locked}"
