"""Checkpoints that survive a kill at any moment, and are used by the run they belong to only."""

from pathlib import Path

import torch


class Checkpoint:
    """The newest state of one run, in one file.

    It is written beside that and renamed, so that there is always a whole one. `fingerprint` says
    what makes the run what it is: a checkpoint of another is set aside, as is any with
    `resume=False`.
    """

    def __init__(self, file: Path, fingerprint: dict, resume: bool = True):
        self.file, self.fingerprint, self.resume = file, fingerprint, resume

    def load(self) -> dict | None:
        """The state that a run of this fingerprint saved last, on the CPU, or None."""
        if not self.file.exists():
            return None
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            theirs, ours = content["fingerprint"], self.fingerprint
        except Exception as error:  # a damaged file fails in many ways, all to one end
            return self._set_aside(f"it cannot be read ({error})")
        if other := [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
            return self._set_aside(f"it is of another {', another '.join(other)}")
        return content["state"] if self.resume else self._set_aside("RESUME=0: a fresh start")

    def save(self, state: dict) -> None:
        """Save a state of tensors and plain values in place of the one before."""
        partial = self.file.with_suffix(".partial")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"fingerprint": self.fingerprint, "state": state}, partial)
        partial.replace(self.file)

    def _set_aside(self, why: str) -> None:
        aside = self.file.with_suffix(".aside")
        self.file.replace(aside)
        print(f"Not continuing from {self.file}: {why}. It is now {aside.name}")
