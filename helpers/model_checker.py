"""Load models by name or from a user's file, and check them against an assignment."""

import ast
import contextlib
import csv
import importlib.util
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from types import ModuleType

import pandas as pd
import torch
from torch import nn

from helpers import requirements, results
from helpers.config import validate_choice
from helpers.files import corruption_guard, format_error
from helpers.inspection import format_size, receptive_field_of
from helpers.models import get_model, validate_model
from helpers.requirements import ModelFacts

FILE_NAME = re.compile(
    r"(?P<file>.+\.(py|ipynb))(:(?P<class_name>\w+)(\((?P<arguments>.*)\))?)?", re.DOTALL
)
EXPECTED = "expected FILE.py, FILE.py:CLASS or FILE.ipynb:CLASS"
SIZES = (
    "parameters",
    "receptive field before the global pooling",
    "receptive field including it",
)
COUNTS = {  # by the kind of requirement
    "required": "requirements met",
    "bonus": "bonuses met",
    "claimed": "claims met",
}
MAX_ROOT_DEPTH = 5  # so many folders above a file may be the root of its repository


def load_named_model(name: str) -> nn.Module:
    """Return a new model, by its name in MODELS or from a class in a file.

    Args:
        name: A key of MODELS, "folder/file.py", or "folder/file.py:Class(dropout=0.1)". Of a
            notebook ("file.ipynb"), only definitions, imports and constants are executed, of a
            file everything. Without a class, the one whose output is (N, 10) is taken. Arguments
            are literals.

    Returns:
        A model that maps images (N, 3, 32, 32) to logits (N, 10).

    Raises:
        ValueError: If there is no such model, the file or the class fails, or the model does not
            map images to logits of these shapes.
    """
    if not FILE_NAME.fullmatch(name) and ":" not in name:
        return get_model(name)
    match = FILE_NAME.fullmatch(name)
    if not match or not Path(match["file"]).is_file():
        raise ValueError(f"{name}: there is no such file; {EXPECTED}")
    file = Path(match["file"]).resolve()
    args, kwargs = _parse_arguments(name, match["arguments"] or "")
    # What a file prints does not belong between the outcomes.
    with contextlib.redirect_stdout(sys.stderr), _isolated_imports(file):
        try:
            module = _run_notebook(file) if file.suffix == ".ipynb" else _import_file(file)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{name} cannot be built: {format_error(error)}") from error
        if not match["class_name"]:
            return _find_model(name, module)
        try:
            model = getattr(module, match["class_name"])(*args, **kwargs)
        except AttributeError as error:
            if hasattr(module, match["class_name"]):
                raise ValueError(f"{name} cannot be built: {format_error(error)}") from error
            candidates = _list_candidates(module)
            raise ValueError(f"{name}: there is no such class; {candidates}") from None
        except (Exception, SystemExit) as error:
            raise ValueError(f"{name} cannot be built: {format_error(error)}") from error
        if not isinstance(model, nn.Module):
            raise ValueError(f"{name} gives a {type(model).__name__}; expected a torch.nn.Module")
        return validate_model(model)


def _parse_arguments(name: str, text: str) -> tuple[list, dict]:
    """Return the positional and keyword arguments in a text such as "3, dropout=0.1"."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        args = [ast.literal_eval(value) for value in call.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{name}: the arguments ({text}) are not understood; expected literals such as "
            "(dropout=0.1, norm='bn')"
        ) from None
    return args, kwargs


def _find_model(name: str, module: ModuleType) -> nn.Module:
    """Return a model of the only class of a module whose output is (N, 10)."""
    models = {}
    problems = []
    for class_name, model_class in _model_classes(module).items():
        try:
            models[class_name] = validate_model(model_class())
        except (Exception, SystemExit) as error:  # a class may fail in any way
            message = str(error) if isinstance(error, ValueError) else format_error(error)
            problems.append(f"{class_name} ({message})")
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        raise ValueError(f"{name} has several networks: choose one, {name}:{' or :'.join(models)}")
    reasons = f": {'; '.join(problems)}" if problems else ""
    raise ValueError(
        f"{name}: no class gives (N, 10) without arguments{reasons}; {_list_candidates(module)}"
    )


def _model_classes(module: ModuleType) -> dict[str, Callable[[], nn.Module]]:
    """Return the classes of networks that a module defines, or else those that it imports."""
    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and not value.__module__.startswith("torch")
    }
    own = {name: value for name, value in classes.items() if value.__module__ == module.__name__}
    return own or classes


def _list_candidates(module: ModuleType) -> str:
    """Return the classes and functions that a module defines, as text."""
    functions = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]
    names = ", ".join(dict.fromkeys([*_model_classes(module), *functions])) or "none"
    left_out = getattr(module, "left_out", [])
    note = f"; left out: {'; '.join(left_out)}" if left_out else ""
    return f"its classes and functions are: {names}{note}"


def _import_file(file: Path) -> ModuleType:
    """Execute a file as a part of the package that it lies in, so that it may import relatively."""
    package = file.parent.relative_to(_find_root(file)).parts
    # The space keeps this name from hiding an importable module.
    name = ".".join([*package, f"network from {file.stem}"])
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _run_notebook(file: Path) -> ModuleType:
    """Execute the definitions, imports and constants of a notebook, but not its other lines.

    What fails is left out: a notebook may import what is on its own machine only.
    """
    module = ModuleType(f"network from {file.stem}")
    module.left_out = []
    sys.modules[module.__name__] = module
    notebook = json.loads(file.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        # Magics and shell commands are no Python.
        code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)
        try:
            statements = ast.parse(code).body
        except SyntaxError as error:
            module.left_out.append(format_error(error))
            continue
        for statement in filter(_is_definition, statements):
            # Not the path of the file: its lines are those of JSON.
            program = compile(ast.Module([statement], []), f"<{file.name}>", "exec")
            try:
                exec(program, vars(module))
            except (Exception, SystemExit) as error:
                module.left_out.append(format_error(error))
    return module


def _is_definition(statement: ast.stmt) -> bool:
    """Return whether a statement is an import, a class, a function or a literal constant."""
    if isinstance(statement, ast.Assign):
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            return False
        return True
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef)


def _find_root(file: Path) -> Path:
    """Return the root of a file's repository, or of its package; else the folder above its own."""
    folders = list(file.parents)[:MAX_ROOT_DEPTH]
    for folder in folders:
        if (folder / ".git").exists():
            return folder
    packages = [folder for folder in folders if (folder / "__init__.py").is_file()]
    return packages[-1].parent if packages else file.parent.parent


@contextlib.contextmanager
def _isolated_imports(file: Path) -> Iterator[None]:
    """Import from a file's folder and those above it inside the block; restore the state after it.

    Modules of these folders are forgotten, because the next file may import others of the same
    names. The import path, the working directory and PyTorch's default dtype, default device and
    gradient mode are restored.
    """
    root = _find_root(file)
    folders = [folder for folder in file.parents if folder.is_relative_to(root)]
    modules_before = set(sys.modules)
    import_path = sys.path[:]
    working_directory = Path.cwd()
    dtype = torch.get_default_dtype()
    grad_enabled = torch.is_grad_enabled()
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = import_path
        os.chdir(working_directory)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(grad_enabled)
        for name in sys.modules.keys() - modules_before:
            if not name.startswith("helpers.") and _is_under(root, sys.modules[name]):
                del sys.modules[name]


def _is_under(folder: Path, module: ModuleType) -> bool:
    """Return whether a module was loaded from a folder, and is not one of an environment there."""
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(
        path and Path(path).is_relative_to(folder) and "site-packages" not in Path(path).parts
        for path in paths
    )


def check_models(
    notebook: str, names: list[str], run_dir: Path | None, csv_file: Path | None
) -> int:
    """Check models against the requirements of a notebook and print the outcome of each.

    A model that cannot be checked is reported; the others are still checked. A table of all ends
    the output.

    Args:
        notebook: A key of REQUIREMENTS.
        names: Names as `load_named_model` takes them. The file's path may have the wildcards * and
            ? of `glob`.
        run_dir: A folder with the metrics.json of a run. If given, the requirements on the run are
            checked as well.
        csv_file: A file to write, with a row for each model. A row is written as soon as its model
            is checked.

    Returns:
        The exit code: 0 if all that is required is met, 1 if not, 2 if a model cannot be checked.

    Raises:
        ValueError: If the notebook is unknown or metrics.json is damaged.
        FileNotFoundError: If `run_dir` has no metrics.json.
        OSError: If `csv_file` cannot be written.
    """
    validate_choice("notebook", notebook, requirements.REQUIREMENTS)
    metrics = results.read_metrics(run_dir) if run_dir else None
    required = requirements.REQUIREMENTS[notebook]
    texts = [each.text for each in (*required.model, *(required.run if metrics else []))]
    rows = []
    with open(csv_file or os.devnull, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["network", *SIZES, *COUNTS.values(), *texts, "error"])
        writer.writeheader()
        for name in _expand_wildcards(names):
            print(f"{name}: requirements of {notebook}", flush=True)
            rows.append({"network": name, **_check_model(notebook, name, run_dir, metrics)})
            writer.writerow(rows[-1])
            file.flush()
    table = pd.DataFrame(rows, columns=["network", *COUNTS.values(), "error"], dtype=object)
    table["error"] = table["error"].str.slice(0, 60)
    print(f"\n{table.dropna(axis='columns', how='all').fillna('').to_string(index=False)}")
    if any("error" in row for row in rows):
        return 2
    counts = [row.get(COUNTS["required"], "").split(" of ") for row in rows]
    return int(any(count[0] != count[-1] for count in counts))


def _check_model(notebook: str, name: str, run_dir: Path | None, metrics: dict | None) -> dict:
    """Check a model, print the outcome, and return its row of the CSV file."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            model = load_named_model(name)
            with contextlib.redirect_stdout(sys.stderr):
                facts = ModelFacts.of_model(model)
            checked = requirements.check_facts(notebook, facts)
        except Exception as error:  # a model may fail in any way; check the others all the same
            message = str(error) if isinstance(error, ValueError) else format_error(error)
            message = message.removeprefix(f"{name}: ")
            print(f"  error: {message}", flush=True)
            return {"error": message}
    notes = [f"warning: {' '.join(str(warning.message).split())}" for warning in caught]
    for note in dict.fromkeys(notes):
        print(f"  {note}")
    if metrics:
        with corruption_guard(run_dir / "metrics.json"):
            checked = pd.concat([checked, requirements.check_run(notebook, metrics)])

    sizes = map(format_size, receptive_field_of(facts.layers))
    summary = dict(zip(SIZES, [facts.parameter_count, *sizes], strict=True))
    for kind, label in COUNTS.items():
        passed = checked["passed"][checked["kind"] == kind]
        if len(passed):
            summary[label] = f"{passed.sum()} of {len(passed)}"
    for label, value in summary.items():
        print(f"  {label}: {value}")
    outcomes = {}
    for row in checked.itertuples():
        outcome = "passed" if row.passed else "FAILED"
        print(f"  {outcome}  {row.requirement}: {row.measured}")
        outcomes[row.requirement] = f"{outcome}: {row.measured}"
    return summary | outcomes


def _expand_wildcards(names: list[str]) -> Iterator[str]:
    """Yield the names, with each "*/file.py:Class" replaced by the files that match.

    A shell does not expand such names, because of the class behind the colon.
    """
    for name in names:
        match = FILE_NAME.fullmatch(name)
        files = sorted(glob(match["file"])) if match else []
        yield from (f"{file}{name[match.end('file') :]}" for file in files) if files else [name]
