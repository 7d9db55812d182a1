"""Checkpoints: loaded again, never mixed up, archived with a reason, and sparing with space."""

import errno
import io
import json
import os
import random
import resource
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import files
from helpers.checkpoints import CheckpointManager, read_checkpoint
from helpers.optim import TrainConfig

FINGERPRINT = {"run": "S7/s7", "seed": 0, "recipe": {"max_lr": 0.3}, "processes": 1}
STATE = {"weights": torch.arange(5.0), "history": {"epochs": [{"loss": 0.1 + 0.2}]}}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "S7" / "s7" / "seed-0.pt"
    checkpoint = CheckpointManager(file, FINGERPRINT)
    checkpoint.save({"epoch": 1})
    checkpoint.save(STATE)
    return file


def test_the_state_saved_last_is_loaded(file):
    checkpoint = CheckpointManager(file, FINGERPRINT)
    checkpoint.load()
    for number in (2, 10, 3):
        checkpoint.save(STATE | {"epoch": number})
    loaded = CheckpointManager(file, FINGERPRINT).load()
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["history"] == STATE["history"]
    assert loaded["epoch"] == 3
    assert {path.name for path in file.parent.iterdir()} == {"seed-0.pt", "seed-0-2.pt"}


def test_without_a_file_there_is_nothing_to_continue(tmp_path):
    assert CheckpointManager(tmp_path / "seed-0.pt", FINGERPRINT).load() is None


def test_an_interrupted_write_leaves_the_state_before(file, capsys):
    file.write_bytes(file.read_bytes()[:100])
    checkpoint = CheckpointManager(file, FINGERPRINT)
    assert checkpoint.load() == {"epoch": 1}
    assert "seed-0.pt is not used" in capsys.readouterr().out
    checkpoint.save({"epoch": 2})
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    assert capsys.readouterr().out == ""


def test_a_shorter_state_leaves_nothing_of_a_longer_one(file):
    checkpoint = CheckpointManager(file, FINGERPRINT)
    checkpoint.load()
    for rows in (10_000, 10_000, 1, 2):
        checkpoint.save({"rows": list(range(rows))})
    assert checkpoint.load() == {"rows": [0, 1]}


def test_every_flipped_bit_is_noticed(file):
    content, rng = file.read_bytes(), random.Random(0)
    for position in [rng.randrange(len(content)) for _ in range(40)]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        assert CheckpointManager(file, FINGERPRINT).load() == {"epoch": 1}


def test_an_unreadable_disk_is_no_damage(file, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(file), "read_bytes", failing)
        with pytest.raises(OSError, match=r"seed-0\.pt cannot be read: Input/output error.* again"):
            CheckpointManager(file, FINGERPRINT).load()
    assert {path.name for path in file.parent.iterdir()} == {"seed-0.pt", "seed-0-2.pt"}
    assert CheckpointManager(file, FINGERPRINT).load()["history"] == STATE["history"]
    monkeypatch.setattr(type(file), "read_bytes", failing)
    fresh = CheckpointManager(file, FINGERPRINT, resume=False)
    assert fresh.load() is None, "RESUME=0 does not read it"
    assert file.with_suffix(".aside").exists()


def test_a_lack_of_memory_is_no_damage(file, monkeypatch):
    def out_of_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", out_of_memory)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            CheckpointManager(file, FINGERPRINT).load()
    assert CheckpointManager(file, FINGERPRINT).load()["history"] == STATE["history"]


def test_numpy_scalars_in_a_config_are_saved_as_python_numbers(tmp_path):
    lr = np.geomspace(0.01, 1, 3)[1]
    config = TrainConfig(np.int64(2), batch_size=np.int32(8), max_lr=lr, peak_epoch=np.float32(1))
    checkpoint = CheckpointManager(tmp_path / "seed-0.pt", asdict(config))
    checkpoint.save(asdict(config))
    assert CheckpointManager(tmp_path / "seed-0.pt", asdict(config)).load() == asdict(config)
    assert json.loads(json.dumps(asdict(config)))["max_lr"] == pytest.approx(0.1)


def test_a_checkpoint_of_another_run_is_archived_and_the_difference_named(file, capsys):
    assert CheckpointManager(file, FINGERPRINT | {"recipe": {"max_lr": 0.1}}).load() is None
    assert "another recipe" in capsys.readouterr().out
    assert not file.exists()
    restored = file.with_suffix(".aside").rename(file)
    assert torch.equal(CheckpointManager(restored, FINGERPRINT).load()["weights"], STATE["weights"])


def test_a_trial_of_a_changed_network_replaces_the_checkpoint_and_says_so(tmp_path, capsys):
    file = tmp_path / "seed-0.pt"
    CheckpointManager(file, FINGERPRINT | {"network": "a"}).save(STATE)
    other = CheckpointManager(file, FINGERPRINT | {"network": "b"}, archive=False)
    assert other.load() is None
    assert capsys.readouterr().out == "The network has changed: training starts afresh.\n"
    assert not list(tmp_path.iterdir()), "nothing is set aside"
    other.save(STATE)
    # Another difference is no edit of the network: the checkpoint is archived.
    changed = FINGERPRINT | {"network": "b", "seed": 1}
    assert CheckpointManager(file, changed, archive=False).load() is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".aside"]


def test_of_archived_checkpoints_only_the_last_are_kept(file):
    for number in (1, 2, 3):
        last = [path.read_bytes() for path in (file, file.with_stem("seed-0-2"))]
        assert CheckpointManager(file, FINGERPRINT, resume=False).load() is None
        assert not file.exists()
        archived = file.with_suffix(".aside"), file.with_stem("seed-0-2").with_suffix(".aside")
        assert [path.read_bytes() for path in archived] == last
        for epoch in (1, 2):
            again = CheckpointManager(file, FINGERPRINT)
            again.step = epoch - 1
            again.save({"epoch": number * 10 + epoch})
    assert len(list(file.parent.iterdir())) == 4


def test_a_disk_that_is_gone_is_not_replaced_by_a_folder_on_another(tmp_path):
    folder = tmp_path / "drive" / "checkpoints"
    checkpoint = CheckpointManager(folder / "seed-0.pt", FINGERPRINT)
    checkpoint.save({"epoch": 1})
    shutil.rmtree(tmp_path / "drive")
    with pytest.raises(FileNotFoundError, match=r"checkpoints is gone.*Google Drive"):
        checkpoint.save({"epoch": 2})
    assert not (tmp_path / "drive").exists()


def test_a_fresh_start_archives_the_checkpoint(file, capsys):
    assert CheckpointManager(file, FINGERPRINT, resume=False).load() is None
    assert "RESUME=0" in capsys.readouterr().out
    assert file.with_suffix(".aside").is_file()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_alone_is_archived(file, capsys, content):
    file.with_stem("seed-0-2").unlink()
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert CheckpointManager(file, FINGERPRINT).load() is None
    assert "no valid checkpoint is left" in capsys.readouterr().out
    assert file.with_suffix(".aside").is_file()


def test_a_full_disk_is_one_line_and_the_last_state_remains(file, monkeypatch):
    checkpoint = CheckpointManager(file, FINGERPRINT)
    checkpoint.load()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left .* MB are free$"):
        checkpoint.save({"weights": torch.zeros(1_000_000)})
    monkeypatch.undo()
    assert torch.equal(CheckpointManager(file, FINGERPRINT).load()["weights"], STATE["weights"])


def test_a_full_disk_leaves_no_partial_first_file(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint = CheckpointManager(tmp_path / "seed-0.pt", FINGERPRINT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # like a full disk
    try:
        with pytest.raises(OSError, match=r"cannot be written: File too large; it takes 4\.0 MB"):
            checkpoint.save({"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


class DeletedBytes:
    """Counts the bytes of files that are deleted, truncated or replaced, as Google Drive does.

    It sees the calls of any library, by an audit hook.
    """

    def __init__(self, folder):
        self.folder = str(folder)
        self.bytes = 0
        self.active = True
        sys.addaudithook(self.on_event)

    def on_event(self, event, args):
        if not self.active:
            return
        if event in ("os.remove", "os.truncate"):
            self.count(args[0])
        elif event == "os.rename":
            self.count(args[1])
        elif event == "open" and isinstance(args[2], int) and args[2] & os.O_TRUNC:
            self.count(args[0])

    def count(self, path):
        if str(path).startswith(self.folder) and os.path.isfile(path):
            self.bytes += os.path.getsize(path)


def test_a_full_run_deletes_almost_nothing(tmp_path):
    """Checkpoints of 24 epochs, as those of `s10`, are the only files written more than once."""
    deleted = DeletedBytes(tmp_path)
    checkpoint = CheckpointManager(tmp_path / "seed-0.pt", FINGERPRINT)
    weights = {"weights": torch.zeros(100_000)}
    for epoch in range(24):
        checkpoint.save(weights | {"epoch": epoch})
    used = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert 2 * 400_000 < used < 2 * 410_000
    assert deleted.bytes == 0
    (tmp_path / "x").write_bytes(bytes(1000))
    for _ in range(2):
        files.atomic_write(tmp_path / "x", bytes(1000))
    (tmp_path / "x").unlink()
    deleted.active = False
    assert deleted.bytes == 3000, "the hook counts"
    assert checkpoint.load()["epoch"] == 23


def write_old_checkpoint(file, step):
    """Write a file as the first version of this project did: "saved" instead of "step"."""
    buffer = io.BytesIO()
    torch.save({"saved": step, "fingerprint": FINGERPRINT, "state": STATE}, buffer)
    content = buffer.getvalue()
    file.write_bytes(files.sha256(content).encode() + content)


def test_a_checkpoint_of_an_older_version_is_archived_and_said_in_one_line(file, capsys):
    other = file.with_stem("seed-0-2")
    write_old_checkpoint(file, 2)
    write_old_checkpoint(other, 1)
    contents = [path.read_bytes() for path in (file, other)]
    assert CheckpointManager(file, FINGERPRINT).load() is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # a line for each file, and one for the pair
    for line in lines[:2]:
        assert line.endswith("it was written by an older version of this project")
    assert "no valid checkpoint is left" in lines[2]
    archived = [path.with_suffix(".aside") for path in (file, other)]
    assert [path.read_bytes() for path in archived] == contents
    checkpoint = CheckpointManager(file, FINGERPRINT)
    checkpoint.save({"epoch": 1})
    assert CheckpointManager(file, FINGERPRINT).load() == {"epoch": 1}


@given(data=st.data())
def test_whatever_is_interrupted_the_newest_complete_state_is_loaded(tmp_path_factory, data):
    """Any sequence of saves, interrupted writes and restarts."""
    file = tmp_path_factory.mktemp("run") / "seed-0.pt"
    checkpoint = CheckpointManager(file, FINGERPRINT)
    complete = None
    for number in range(data.draw(st.integers(1, 6), "saves")):
        checkpoint.save({"number": number})
        written = checkpoint.files[checkpoint.step % 2]
        if complete is not None and data.draw(st.booleans(), "interrupted"):
            size = data.draw(st.integers(0, written.stat().st_size - 1), "bytes")
            written.write_bytes(written.read_bytes()[:size])
            restarted = True
        else:
            complete = number
            restarted = data.draw(st.booleans(), "restarted")
        if restarted:
            checkpoint = CheckpointManager(file, FINGERPRINT)
            assert checkpoint.load() == {"number": complete}
    assert CheckpointManager(file, FINGERPRINT).load() == {"number": complete}


def test_a_file_states_its_step_its_run_and_its_state(file):
    content = read_checkpoint(file.with_stem("seed-0-2"))
    assert content == {"step": 1, "fingerprint": FINGERPRINT, "state": {"epoch": 1}}
    assert read_checkpoint(file)["step"] == 2
    with pytest.raises(FileNotFoundError):
        read_checkpoint(file.with_name("other.pt"))


def test_every_difference_of_the_fingerprints_is_named(file, capsys):
    """Also of entries that only one of them has."""
    other = {"run": "S7/s7", "seed": 1, "recipe": {"max_lr": 0.3}, "network": "new"}
    assert CheckpointManager(file, other).load() is None
    out = capsys.readouterr().out
    assert "it has another seed, another processes, another network." in out
