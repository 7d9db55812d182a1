"""Checkpoints that survive a kill at any moment, and are used by the run they belong to only."""

import io
import itertools
from pathlib import Path

import torch

from helpers.files import digest, writing


class Checkpoint:
    """The newest states of one run, in two files that are written in turn.

    Each is written in place, which leaves nothing behind where deleted files count, as in Google
    Drive; while one is written, the other is whole, and a checksum tells which. `fingerprint` says
    what makes the run what it is: a checkpoint of another is set aside, as is any with
    `resume=False`.
    """

    def __init__(self, file: Path, fingerprint: dict, resume: bool = True):
        self.fingerprint, self.resume = fingerprint, resume
        self.files, self.saved = (file, file.with_stem(f"{file.stem}-2")), 0

    def load(self) -> dict | None:
        """The state that a run of this fingerprint saved last, on the CPU, or None.

        Raises OSError where a file is there but the disk does not give it: nothing is set aside.
        """
        there, whole = [file for file in self.files if file.exists()], []
        if there and not self.resume:
            return self._set_aside("RESUME=0: a fresh start")
        for file in there:
            try:
                whole.append(read(file))
            except OSError as error:  # a disk that does not answer is no damage
                hint = "nothing is lost, run the same again, or afresh with RESUME=0"
                why = f"{error.strerror or error}; {hint}"
                raise OSError(f"{file} cannot be read: {why}") from error
            except ValueError as error:
                print(f"{file} is damaged and not used: {error}")
        if not whole:
            return self._set_aside("no whole checkpoint is left") if there else None
        newest = max(whole, key=lambda content: content["saved"])
        theirs, ours = newest["fingerprint"], self.fingerprint
        if other := [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
            return self._set_aside(f"it is of another {', another '.join(other)}")
        self.saved = newest["saved"]
        return newest["state"]

    def save(self, state: dict) -> None:
        """Save a state of tensors and plain values. OSError says what is in the way."""
        self.saved += 1
        file, buffer = self.files[self.saved % 2], io.BytesIO()
        content = {"saved": self.saved, "fingerprint": self.fingerprint, "state": state}
        torch.save(content, buffer)
        content = buffer.getvalue()
        with writing(file, len(content), torn=file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("r+b" if file.exists() else "wb") as place:
                place.write(digest(content).encode() + content)
                place.truncate()

    def _set_aside(self, why: str) -> None:
        for number in itertools.count(1):
            aside = [file.with_suffix(f".aside-{number}") for file in self.files]
            if not any(file.exists() for file in aside):
                break
        for file, place in zip(self.files, aside, strict=True):
            if file.exists():
                file.replace(place)
        print(f"Not continuing from {self.files[0]}: {why}. It lies beside it, as .aside-{number}")


def read(file: Path) -> dict:
    """What a file of a checkpoint holds: `saved`, `fingerprint`, `state`; ValueError if damaged."""
    content = file.read_bytes()
    checksum, content = content[:64], content[64:]
    if digest(content).encode() != checksum:
        raise ValueError("it is not what was written")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
