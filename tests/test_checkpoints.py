"""Checkpoints: found again, never mixed up, set aside with a reason, and sparing with room."""

import errno
import json
import os
import random
import resource
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch

from helpers import files
from helpers.training.checkpoints import Checkpoint
from helpers.training.recipes import Recipe

MINE = {"run": "S7/s7", "seed": 0, "recipe": {"max_lr": 0.3}, "processes": 1}
STATE = {"weights": torch.arange(5.0), "history": {"rows": [{"loss": 0.1 + 0.2}]}}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "S7" / "s7" / "seed-0.pt"
    checkpoint = Checkpoint(file, MINE)
    checkpoint.save({"epoch": 1})
    checkpoint.save(STATE)
    return file


def test_what_was_saved_last_comes_back(file):
    checkpoint = Checkpoint(file, MINE)
    checkpoint.load()
    for number in (2, 10, 3):
        checkpoint.save(STATE | {"epoch": number})
    loaded = Checkpoint(file, MINE).load()
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["history"] == STATE["history"]
    assert loaded["epoch"] == 3
    assert {path.name for path in file.parent.iterdir()} == {"seed-0.pt", "seed-0-2.pt"}


def test_without_a_file_there_is_nothing_to_continue(tmp_path):
    assert Checkpoint(tmp_path / "seed-0.pt", MINE).load() is None


def test_a_write_cut_short_leaves_the_one_before(file, capsys):
    file.write_bytes(file.read_bytes()[:100])
    checkpoint = Checkpoint(file, MINE)
    assert checkpoint.load() == {"epoch": 1}
    assert "seed-0.pt is damaged and not used" in capsys.readouterr().out
    checkpoint.save({"epoch": 2})
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    assert capsys.readouterr().out == ""


def test_a_shorter_state_leaves_nothing_of_a_longer_one(file):
    checkpoint = Checkpoint(file, MINE)
    checkpoint.load()
    for rows in (10_000, 10_000, 1, 2):
        checkpoint.save({"rows": list(range(rows))})
    assert checkpoint.load() == {"rows": [0, 1]}


def test_every_flipped_byte_is_found(file):
    whole, draw = file.read_bytes(), random.Random(0)
    for place in [draw.randrange(len(whole)) for _ in range(40)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        assert Checkpoint(file, MINE).load() == {"epoch": 1}


def test_a_disk_that_does_not_answer_is_no_damage(file, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as once:
        once.setattr(type(file), "read_bytes", failing)
        with pytest.raises(OSError, match=r"seed-0\.pt cannot be read: Input/output error.* again"):
            Checkpoint(file, MINE).load()
    assert {path.name for path in file.parent.iterdir()} == {"seed-0.pt", "seed-0-2.pt"}
    assert Checkpoint(file, MINE).load()["history"] == STATE["history"]
    monkeypatch.setattr(type(file), "read_bytes", failing)
    assert Checkpoint(file, MINE, resume=False).load() is None, "a way out, where it never does"
    assert file.with_suffix(".aside-1").exists()


def test_a_lack_of_memory_is_no_damage(file, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as once:
        once.setattr(torch, "load", full)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            Checkpoint(file, MINE).load()
    assert Checkpoint(file, MINE).load()["history"] == STATE["history"]


def test_numbers_of_numpy_in_a_recipe_are_plain_ones(tmp_path):
    rate = np.geomspace(0.01, 1, 3)[1]
    recipe = Recipe(np.int64(2), batch_size=np.int32(8), max_lr=rate, peak_epoch=np.float32(1))
    checkpoint = Checkpoint(tmp_path / "seed-0.pt", asdict(recipe))
    checkpoint.save(asdict(recipe))
    assert Checkpoint(tmp_path / "seed-0.pt", asdict(recipe)).load() == asdict(recipe)
    assert json.loads(json.dumps(asdict(recipe)))["max_lr"] == pytest.approx(0.1)


def test_another_fingerprint_is_set_aside_and_the_difference_named(file, capsys):
    assert Checkpoint(file, MINE | {"recipe": {"max_lr": 0.1}}).load() is None
    assert "another recipe" in capsys.readouterr().out
    assert not file.exists()
    aside = file.with_suffix(".aside-1").rename(file)
    assert torch.equal(Checkpoint(aside, MINE).load()["weights"], STATE["weights"])


def test_what_is_set_aside_is_never_overwritten(file):
    first = file.read_bytes()
    for number in (1, 2, 3):
        assert Checkpoint(file, MINE, resume=False).load() is None
        assert file.with_suffix(f".aside-{number}").is_file()
        assert not file.exists()
        for epoch in (1, 2):
            again = Checkpoint(file, MINE)
            again.saved = epoch - 1
            again.save({"epoch": number * 10 + epoch})
    assert file.with_suffix(".aside-1").read_bytes() == first


def test_a_number_is_free_for_both_files_of_a_pair(file):
    """Also where some that were set aside are gone."""
    pair = file, file.with_stem("seed-0-2")
    earlier = pair[0].with_suffix(".aside-1"), pair[1].with_suffix(".aside-2")
    for other in earlier:
        other.write_text("kept")
    contents = [each.read_bytes() for each in pair]
    assert Checkpoint(file, MINE, resume=False).load() is None
    assert [each.with_suffix(".aside-3").read_bytes() for each in pair] == contents
    assert [other.read_text() for other in earlier] == ["kept", "kept"]


def test_a_fresh_start_sets_aside(file, capsys):
    assert Checkpoint(file, MINE, resume=False).load() is None
    assert "RESUME=0" in capsys.readouterr().out
    assert file.with_suffix(".aside-1").is_file()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_alone_is_set_aside(file, capsys, content):
    file.with_stem("seed-0-2").unlink()
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert Checkpoint(file, MINE).load() is None
    assert "no whole checkpoint is left" in capsys.readouterr().out
    assert file.with_suffix(".aside-1").is_file()


def test_a_full_disk_is_one_line_and_the_last_state_stays(file, monkeypatch):
    checkpoint = Checkpoint(file, MINE)
    checkpoint.load()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left .* MB are free$"):
        checkpoint.save({"weights": torch.zeros(1_000_000)})
    monkeypatch.undo()
    assert torch.equal(Checkpoint(file, MINE).load()["weights"], STATE["weights"])


def test_a_full_disk_leaves_nothing_torn_of_a_first_file(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint = Checkpoint(tmp_path / "seed-0.pt", MINE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # as if there were no more room
    try:
        with pytest.raises(OSError, match=r"cannot be written: File too large; it takes 4\.0 MB"):
            checkpoint.save({"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


class Trash:
    """As Google Drive's: what is deleted, emptied or replaced counts on, as large as it was."""

    def __init__(self, drive):
        self.drive, self.bytes, self.watches = str(drive), 0, True
        sys.addaudithook(self.hears)  # of every call, by whatever library

    def hears(self, event, args):
        if not self.watches:
            return
        if event in ("os.remove", "os.truncate"):
            self.throws(args[0])
        elif event == "os.rename":
            self.throws(args[1])
        elif event == "open" and isinstance(args[2], int) and args[2] & os.O_TRUNC:
            self.throws(args[0])

    def throws(self, path):
        if str(path).startswith(self.drive) and os.path.isfile(path):
            self.bytes += os.path.getsize(path)


def test_a_run_in_full_leaves_little_where_deleted_files_count(tmp_path):
    """Checkpoints of 24 epochs, as those of `s10`: they alone are written more than once a run."""
    trash = Trash(tmp_path)
    checkpoint = Checkpoint(tmp_path / "seed-0.pt", MINE)
    weights = {"weights": torch.zeros(100_000)}
    for epoch in range(24):
        checkpoint.save(weights | {"epoch": epoch})
    there = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert 2 * 400_000 < there < 2 * 410_000
    assert trash.bytes == 0
    (tmp_path / "x").write_bytes(bytes(1000))
    for _ in range(2):
        files.write(tmp_path / "x", bytes(1000))
    (tmp_path / "x").unlink()
    trash.watches = False
    assert trash.bytes == 3000, "the stand-in counts"
    assert checkpoint.load()["epoch"] == 23
