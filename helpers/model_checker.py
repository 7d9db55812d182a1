"""Load models by name or from a user's file, and check them against an assignment."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from types import ModuleType

import pandas as pd
import torch
from torch import nn

from helpers import requirements, results
from helpers.config import validate_choice
from helpers.files import corruption_guard, format_error
from helpers.inspection import count_parameters, format_size, receptive_field
from helpers.models import get_model, validate_model


def load_named_model(name: str) -> nn.Module:
    """Return a new model, by its name in MODELS or from a class in a file.

    Args:
        name: A key of MODELS, or "folder/file.py:Class". The file is executed, and the class is
            called without arguments.

    Returns:
        A model that maps images (N, 3, 32, 32) to logits (N, 10).

    Raises:
        ValueError: If there is no such model, the file or the class fails, or the model does not
            map images to logits of these shapes.
    """
    if ":" in name:
        return validate_model(_load_from_file(name))
    return get_model(name)


def _load_from_file(name: str) -> nn.Module:
    """Return a new model of the class at "folder/file.py:Class"."""
    path, _, class_name = name.rpartition(":")
    file = Path(path).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{name}: there is no such file; expected FILE.py:CLASS")
    # The space keeps this name from hiding an importable module.
    spec = importlib.util.spec_from_file_location(f"network from {file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        with _isolated_imports(file.parent):
            sys.modules[spec.name] = module  # dataclasses look their module up there
            spec.loader.exec_module(module)
            model = getattr(module, class_name)()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name} cannot be built: {format_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gives a {type(model).__name__}; expected a torch.nn.Module")
    return model


@contextlib.contextmanager
def _isolated_imports(folder: Path) -> Iterator[None]:
    """Import modules from a folder inside the block, and restore the global state after it.

    Modules of the folder are forgotten, because the next folder may have modules of the same names.
    The import path, the working directory and PyTorch's default dtype, default device and gradient
    mode are restored.
    """
    modules_before = set(sys.modules)
    import_path = sys.path[:]
    working_directory = Path.cwd()
    dtype = torch.get_default_dtype()
    grad_enabled = torch.is_grad_enabled()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = import_path
        os.chdir(working_directory)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(grad_enabled)
        for name in sys.modules.keys() - modules_before:
            if _is_under(folder, sys.modules[name]):
                del sys.modules[name]


def _is_under(folder: Path, module: ModuleType) -> bool:
    """Return whether a module or a package was loaded from a folder or its subfolders."""
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(path and Path(path).is_relative_to(folder) for path in paths)


def check_models(notebook: str, names: list[str], run_dir: Path | None, csv: Path | None) -> int:
    """Check models against the requirements of a notebook and print the outcome of each.

    A model that cannot be checked is reported on stderr; the others are still checked.

    Args:
        notebook: A key of REQUIREMENTS.
        names: Names as `load_named_model` takes them. The file's path may have the wildcards * and
            ? of `glob`.
        run_dir: A folder with the metrics.json of a run. If given, the requirements on the run are
            checked as well.
        csv: A file to write, with a row for each model.

    Returns:
        The exit code: 0 if all requirements are met, 1 if not, 2 if a model cannot be checked.

    Raises:
        ValueError: If the notebook is unknown or metrics.json is damaged.
        FileNotFoundError: If `run_dir` has no metrics.json.
    """
    validate_choice("notebook", notebook, requirements.REQUIREMENTS)
    metrics = results.read_metrics(run_dir) if run_dir else None
    exit_code = 0
    rows = []
    for model_name in _expand_wildcards(names):
        print(f"{model_name}: requirements of {notebook}", flush=True)
        try:
            model = load_named_model(model_name)
            checked = requirements.check_model(notebook, model)
            sizes = _measure_sizes(model)
        except Exception as error:  # a model may fail in any way; check the others all the same
            message = str(error) if isinstance(error, ValueError) else format_error(error)
            print(f"error: {message}", file=sys.stderr)
            rows.append({"network": model_name, "error": message})
            exit_code = 2
            continue
        if run_dir:
            with corruption_guard(run_dir / "metrics.json"):
                checked = pd.concat([checked, requirements.check_run(notebook, metrics)])
        if not checked["passed"].all():
            exit_code = max(exit_code, 1)

        summary = sizes | {"requirements met": f"{checked['passed'].sum()} of {len(checked)}"}
        for label, value in summary.items():
            print(f"  {label}: {value}")
        for row in checked.itertuples():
            print(f"  {'passed' if row.passed else 'FAILED'}  {row.requirement}: {row.measured}")
        passed = dict(zip(checked["requirement"], checked["passed"], strict=True))
        rows.append({"network": model_name, **summary, **passed})
    if csv:
        pd.DataFrame(rows, dtype=object).to_csv(csv, index=False)
    return exit_code


def _expand_wildcards(names: list[str]) -> Iterator[str]:
    """Yield the names, with each "*/file.py:Class" replaced by the files that match.

    A shell does not expand such names, because of the class behind the colon.
    """
    for name in names:
        pattern, _, class_name = name.rpartition(":")
        files = sorted(glob(pattern))
        if files:
            yield from (f"{file}:{class_name}" for file in files)
        else:
            yield name


def _measure_sizes(model: nn.Module) -> dict[str, object]:
    """Return the number of parameters and the receptive fields, by their labels."""
    before_pooling, including_pooling = receptive_field(model)
    return {
        "parameters": count_parameters(model),
        "receptive field before the global pooling": format_size(before_pooling),
        "receptive field including it": format_size(including_pooling),
    }
