"""Checkpoints that survive a kill at any moment, and are used by the run they belong to only."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch


class Checkpoints:
    """The checkpoints of one run, alone in their folder.

    Each is a folder `epoch-NNN`, written under another name and renamed; only then the one before
    is removed. `fingerprint` (JSON values) says what makes the run what it is: a checkpoint of
    another is set aside, as is any with `resume=False`.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any], resume: bool = True):
        self.folder, self.resume = folder, resume
        self.fingerprint = json.loads(json.dumps(fingerprint))

    def load(self) -> dict[str, Any] | None:
        """The newest state that a run of this fingerprint saved, on the CPU, or None."""
        newest = max(self.folder.glob("epoch-???"), default=None)
        if newest is None:
            return None
        try:
            theirs = json.loads((newest / "fingerprint.json").read_text())
            state = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways, all to one end
            return self._set_aside(f"it cannot be read ({error})")
        ours = self.fingerprint
        if other := [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
            return self._set_aside(f"it is of another {', another '.join(other)}")
        return state if self.resume else self._set_aside("RESUME=0 asks for a fresh start")

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Save the state after an epoch (tensors and plain values), then remove the one before."""
        path = self.folder / f"epoch-{epoch:03d}"
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        torch.save(state, partial / "state.pt")
        (partial / "fingerprint.json").write_text(json.dumps(self.fingerprint, indent=1))
        partial.rename(path)
        for old in self.folder.glob("epoch-*"):
            if old != path:
                shutil.rmtree(old)

    def _set_aside(self, why: str) -> None:
        aside = self.folder.with_name(f"{self.folder.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        self.folder.rename(aside)
        print(f"Not continuing from {self.folder}: {why}. It now lies in {aside.name}")
