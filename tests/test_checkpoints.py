"""Checkpoints: found again, never mixed up, set aside with a reason."""

import json

import pytest
import torch

from helpers.checkpoints import Checkpoints

MINE = {"run": "S7/s7", "seed": 0, "recipe": {"max_lr": 0.3}}


def saved(folder, epoch=3, fingerprint=MINE):
    state = {"weights": torch.arange(5.0), "history": {"rows": [{"loss": 0.1 + 0.2}]}}
    Checkpoints(folder, fingerprint).save(epoch, state)
    return state


def test_what_was_saved_comes_back_and_only_the_newest_stays(tmp_path):
    folder = tmp_path / "seed-0"
    assert Checkpoints(folder, MINE).load() is None
    for epoch in (1, 2, 10):
        state = saved(folder, epoch)
    loaded = Checkpoints(folder, MINE).load()
    assert torch.equal(loaded["weights"], state["weights"])
    assert loaded["history"] == state["history"]
    assert [path.name for path in folder.iterdir()] == ["epoch-010"]


@pytest.mark.parametrize("left_over", ["epoch-004.partial", "epoch-004.partial/state.pt"])
def test_a_write_cut_short_is_not_taken_for_a_checkpoint(tmp_path, left_over):
    saved(tmp_path / "run", 3)
    path = tmp_path / "run" / left_over
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if path.suffix == ".partial" else path.write_bytes(b"half")
    loaded = Checkpoints(tmp_path / "run", MINE)
    assert loaded.load() is not None
    loaded.save(4, {"epoch": 4})
    assert loaded.load() == {"epoch": 4}


def test_another_fingerprint_is_set_aside_and_the_difference_named(tmp_path, capsys):
    folder = tmp_path / "run"
    saved(folder)
    assert Checkpoints(folder, MINE | {"recipe": {"max_lr": 0.1}}).load() is None
    assert "another recipe" in capsys.readouterr().out
    assert not folder.exists()
    kept = json.loads((tmp_path / "run.aside" / "epoch-003" / "fingerprint.json").read_text())
    assert kept == MINE


def test_a_fresh_start_sets_aside(tmp_path, capsys):
    saved(tmp_path / "run")
    assert Checkpoints(tmp_path / "run", MINE, resume=False).load() is None
    assert "RESUME=0" in capsys.readouterr().out
    assert (tmp_path / "run.aside" / "epoch-003" / "state.pt").is_file()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys, content):
    saved(tmp_path / "run")
    path = tmp_path / "run" / "epoch-003" / "state.pt"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert Checkpoints(tmp_path / "run", MINE).load() is None
    assert "cannot be read" in capsys.readouterr().out
