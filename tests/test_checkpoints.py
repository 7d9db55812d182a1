"""Checkpoints: found again, never mixed up, set aside with a reason."""

import pytest
import torch

from helpers.training.checkpoints import Checkpoint

MINE = {"run": "S7/s7", "seed": 0, "recipe": {"max_lr": 0.3}, "device": ["cpu", "bf16", 1]}
STATE = {"weights": torch.arange(5.0), "history": {"rows": [{"loss": 0.1 + 0.2}]}}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "S7" / "s7" / "seed-0.pt"
    Checkpoint(file, MINE).save(STATE)
    return file


def test_what_was_saved_last_comes_back_and_only_that_stays(file):
    for number in (2, 10):
        Checkpoint(file, MINE).save(STATE | {"epoch": number})
    loaded = Checkpoint(file, MINE).load()
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["history"] == STATE["history"]
    assert loaded["epoch"] == 10
    assert list(file.parent.iterdir()) == [file]


def test_without_a_file_there_is_nothing_to_continue(tmp_path):
    assert Checkpoint(tmp_path / "seed-0.pt", MINE).load() is None


def test_a_write_cut_short_is_not_taken_for_a_checkpoint(file):
    file.with_suffix(".partial").write_bytes(b"half")
    checkpoint = Checkpoint(file, MINE)
    assert checkpoint.load() is not None
    checkpoint.save({"epoch": 4})
    assert checkpoint.load() == {"epoch": 4}


def test_another_fingerprint_is_set_aside_and_the_difference_named(file, capsys):
    assert Checkpoint(file, MINE | {"recipe": {"max_lr": 0.1}}).load() is None
    assert "another recipe" in capsys.readouterr().out
    assert not file.exists()
    assert torch.load(file.with_suffix(".aside"))["fingerprint"] == MINE


def test_a_fresh_start_sets_aside(file, capsys):
    assert Checkpoint(file, MINE, resume=False).load() is None
    assert "RESUME=0" in capsys.readouterr().out
    assert file.with_suffix(".aside").is_file()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_set_aside(file, capsys, content):
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert Checkpoint(file, MINE).load() is None
    assert "cannot be read" in capsys.readouterr().out
