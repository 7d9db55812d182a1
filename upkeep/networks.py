"""Networks by their names: those of the series, and anybody's from a file."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from helpers.files import line
from helpers.models import build, checked


def named(name: str) -> nn.Module:
    """A new network: one of MODELS, or of the class at "folder/file.py:Class", which is executed.

    Raises ValueError where there is none, where the file, the class or its construction without
    arguments fails, or where it does not map (N, 3, 32, 32) to (N, 10).
    """
    return checked(_from_file(name)) if ":" in name else build(name)


def _from_file(place: str) -> nn.Module:
    path, _, name = place.rpartition(":")
    file = Path(path).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{place}: there is no such file; expected FILE.py:CLASS")
    # A name that hides no other module; dataclasses look their own up by it.
    spec = importlib.util.spec_from_file_location(f"network from {file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        with _imports_from(file.parent):
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            model = getattr(module, name)()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place} cannot be built: {line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{place} gives a {type(model).__name__}; expected a torch.nn.Module")
    return model


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Import modules from a folder, and forget them: another folder's have the same names.

    What a file may have changed for all that come after it is as before, too.
    """
    before, path, here = set(sys.modules), sys.path[:], Path.cwd()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        os.chdir(here)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(gradients)
        for name in sys.modules.keys() - before:
            if _lies_in(folder, sys.modules[name]):
                del sys.modules[name]


def _lies_in(folder: Path, module: ModuleType) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(place and Path(place).is_relative_to(folder) for place in places)
