"""Profiles, the environment, and which folder a run may write to."""

from pathlib import Path

import pytest
import torch

from helpers.config import PROFILES, ROOT, Profile, Settings, cifar10_root


@pytest.mark.parametrize(
    ("gpu", "dataset", "name"),
    [(True, "auto", "full"), (False, "auto", "quick"), (True, "sample", "quick")],
)
def test_auto_is_full_with_a_gpu_and_quick_without(monkeypatch, gpu, dataset, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert Settings.from_env(dataset=dataset).profile.name == name


def test_the_environment_beats_the_form(monkeypatch):
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.setenv("DATASET", "sample")
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("RESUME", "0")
    settings = Settings.from_env("full", "cifar10")
    assert settings == Settings(PROFILES["smoke"], "sample", seed=7, resume=False)


def test_full_is_cifar10_and_nothing_else(monkeypatch):
    assert Settings.from_env("full").dataset == "cifar10"
    monkeypatch.setenv("DATASET", "sample")
    with pytest.raises(ValueError, match="PROFILE=full needs CIFAR-10"):
        Settings.from_env("full")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "fast"),
        ("DATASET", "mnist"),
        ("SEED", "-1"),
        ("RESUME", "yes"),
        ("REUSE", "2"),
        ("QUICK_SECONDS", "0"),
        ("QUICK_SECONDS", "1.5"),
    ],
)
def test_a_bad_value_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Settings.from_env("smoke")


def test_only_the_whole_assignment_writes_into_results(tmp_path):
    folders = {
        (profile, data): Settings(PROFILES[profile], output_dir=tmp_path).results_dir(data)
        for profile in PROFILES
        for data in ("cifar10", "sample", "cifar10-validation")
    }
    assert folders.pop(("full", "cifar10")) == tmp_path / "results"
    assert all(f.parent == tmp_path / "results" for f in folders.values())
    assert all(f.name.startswith("_") for f in folders.values())
    assert len(set(folders.values())) == len(folders)


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    assert cifar10_root() == ROOT / "data"
    monkeypatch.setenv("CIFAR10_ROOT", "~/images")
    assert cifar10_root() == Path.home() / "images"
    monkeypatch.setenv("CIFAR10_ROOT", "images")
    assert cifar10_root() == ROOT / "images"
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert cifar10_root() == tmp_path


def test_a_quick_look_takes_the_time_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("QUICK_SECONDS", "7")
    assert Settings.from_env("quick").profile.seconds == 7
    assert Settings.from_env("smoke").profile.seconds is None


def test_equal_profiles_are_the_same(tmp_path):
    settings = Settings(Profile("full"), "cifar10", output_dir=tmp_path)
    assert settings.is_full
    assert settings.results_dir("cifar10") == tmp_path / "results"
    assert not Settings(PROFILES["quick"]).is_full


def test_an_exercise_has_its_own_folder_and_a_smoke_test_stays_one(tmp_path):
    exercise = Settings(PROFILES["quick"], reuse=True).for_exercise(train_images=500, epochs=3)
    assert (exercise.profile.train_images, exercise.profile.epochs) == (500, 3)
    assert not exercise.reuse
    assert exercise.results_dir("cifar10").name == "_short-cifar10"
    smoke = Settings(PROFILES["smoke"]).for_exercise(train_images=500, epochs=3)
    assert smoke.profile == PROFILES["smoke"]


def test_a_first_try_is_kept_apart_from_full_runs(tmp_path):
    full = Settings(PROFILES["full"], "cifar10", reuse=True, output_dir=tmp_path)
    trial = full.for_short_run()
    assert (trial.profile.epochs, trial.reuse) == (2, False)
    assert trial.results_dir("cifar10") == tmp_path / "results" / "_trial-cifar10"
    assert trial.checkpoint_dir("cifar10") != full.checkpoint_dir("cifar10")
