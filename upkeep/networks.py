"""Networks by their names: those of the series, and anybody's from a file."""

import importlib.util
import sys
from pathlib import Path

from torch import nn

from helpers.models import build
from helpers.networks import checked, line


def named(name: str) -> nn.Module:
    """A new network: one of MODELS, or of the class at "folder/file.py:Class", which is executed.

    Raises ValueError where there is none, where the file, the class or its construction without
    arguments fails, or where it does not map (N, 3, 32, 32) to (N, 10).
    """
    return checked(_from_file(name)) if ":" in name else build(name)


def _from_file(place: str) -> nn.Module:
    path, _, name = place.rpartition(":")
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{place}: there is no such file; expected FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
        model = getattr(module, name)()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place} cannot be built: {line(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{place} gives a {type(model).__name__}; expected a torch.nn.Module")
    return model
