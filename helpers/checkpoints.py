"""Checkpoints that survive a kill at any moment and are used only by the run they belong to."""

import io
from pathlib import Path

import torch

from helpers.files import sha256, write_guard

CHECKSUM_LENGTH = 64  # characters of a SHA-256 sum in hexadecimal


class CheckpointManager:
    """Save and load the states of one run.

    It alternates between two files so that one is always valid. A SHA-256 checksum identifies it.
    Files are overwritten in place because Google Drive counts deleted files against the quota:
    with a temporary file and `os.replace`, every epoch would leave one in the trash.

    Args:
        file: The first file. The second one has "-2" added to its stem.
        fingerprint: Describes the run. A checkpoint with another fingerprint is archived.
        resume: If False, existing checkpoints are archived.
        archive: If False, a checkpoint of another network is replaced instead of archived.
    """

    def __init__(self, file: Path, fingerprint: dict, resume: bool = True, archive: bool = True):
        self.files = (file, file.with_stem(f"{file.stem}-2"))
        self.fingerprint = fingerprint
        self.resume = resume
        self.archive = archive
        self.step = 0

    def load(self) -> dict | None:
        """Load the state that a run with this fingerprint saved last.

        Returns:
            The state with its tensors on the CPU, or None if there is none.

        Raises:
            OSError: If a file exists but cannot be read. No file is archived in that case.
        """
        existing = [file for file in self.files if file.exists()]
        if not existing:
            return None
        if not self.resume:
            self._archive("RESUME=0: a fresh start")
            return None
        valid = []
        for file in existing:
            try:
                valid.append(read_checkpoint(file))
            except OSError as error:  # an unreadable disk does not mean a damaged file
                raise OSError(
                    f"{file} cannot be read: {error.strerror or error}; "
                    "nothing is lost, run the same again, or afresh with RESUME=0"
                ) from error
            except ValueError as error:
                print(f"{file} is not used: {error}")
        if not valid:
            self._archive("no valid checkpoint is left")
            return None
        newest = max(valid, key=lambda content: content["step"])
        stored = newest["fingerprint"]
        differing = [
            name
            for name in {**stored, **self.fingerprint}
            if stored.get(name) != self.fingerprint.get(name)
        ]
        if differing == ["network"] and not self.archive:
            print("The network has changed: training starts afresh.")
            for file in existing:
                file.unlink()
            return None
        if differing:
            self._archive(f"it has another {', another '.join(differing)}")
            return None
        self.step = newest["step"]
        return newest["state"]

    def save(self, state: dict) -> None:
        """Save a state.

        Args:
            state: Tensors and plain Python values.

        Raises:
            OSError: If the file cannot be written. The message states the free disk space.
            FileNotFoundError: If the folder of the earlier checkpoints is gone.
        """
        if self.step and not self.files[0].parent.is_dir():  # do not make it on another disk
            raise FileNotFoundError(
                f"{self.files[0].parent} is gone. Is its disk still there, for example Google "
                "Drive? Mount it again and run the same again: training continues from there"
            )
        self.step += 1
        file = self.files[self.step % 2]
        buffer = io.BytesIO()
        torch.save(
            {"step": self.step, "fingerprint": self.fingerprint, "state": state},
            buffer,
        )
        content = buffer.getvalue()
        with write_guard(file, len(content), partial=file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("r+b" if file.exists() else "wb") as opened:
                opened.write(sha256(content).encode() + content)
                opened.truncate()

    def _archive(self, reason: str) -> None:
        """Rename both files, and say why. Files that were renamed earlier are replaced."""
        for file in self.files:
            if file.exists():
                file.replace(file.with_suffix(".aside"))
        print(
            f"Not continuing from {self.files[0]}: {reason}. "
            "The checkpoint files were renamed to end in .aside; only the last ones are kept"
        )


def read_checkpoint(file: Path) -> dict:
    """Read one checkpoint file.

    Args:
        file: The file.

    Returns:
        "step": the number of the save, "fingerprint" and "state".

    Raises:
        ValueError: If the file is damaged or was written by an older version.
        OSError: If the file cannot be read.
    """
    content = file.read_bytes()
    checksum, content = content[:CHECKSUM_LENGTH], content[CHECKSUM_LENGTH:]
    if sha256(content).encode() != checksum:
        raise ValueError("its content does not match its checksum")
    checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if "step" not in checkpoint:
        raise ValueError("it was written by an older version of this project")
    return checkpoint
