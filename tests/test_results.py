"""The files of a run: complete, true to the saved weights, and reusable."""

import dataclasses
import io
import json
import random
import re
import shutil
import statistics
from functools import partial

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from helpers import data as data_module
from helpers import device, evaluation, experiments, requirements, results
from helpers.config import FULL, PROFILES, ROOT, SMOKE, Profile, Settings
from helpers.data import ImageData
from helpers.experiments import EXPERIMENTS, experiment_fingerprint, run_experiment
from helpers.files import CorruptFileError, atomic_write
from helpers.inspection.fingerprint import model_fingerprint, without_addresses
from helpers.models import MODELS, get_model
from helpers.optim import TrainConfig, scale_to_profile
from helpers.training import History
from helpers.transforms import crop_cutout

KEYS = {
    "notebook", "net", "params", "mult_adds", "receptive_field", "dataset", "test_images",
    "epochs", "batch_size", "optimizer", "recipe", "seed", "test_accuracy", "train_accuracy",
    "test_accuracy_flip_tta", "seeds", "test_accuracy_mean", "test_accuracy_std",
    "wall_seconds", "device", "precision", "versions", "requirements",
}  # fmt: skip
FILES = {
    "metrics.json", "history.csv", "learning_rate.csv", "log.txt", "summary.txt",
    "receptive_field.csv", "model.safetensors", "test_logits.npy",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(SMOKE, "sample", output_dir=tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(200, 360)


@pytest.fixture(scope="module")
def result(settings, sample):
    return run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, settings, seeds=2)


def test_all_files_and_metrics_are_there(result, settings):
    assert result.folder == settings.output_dir / "results" / "_smoke-sample" / "S7" / "s7_dropout"
    assert {path.name for path in result.folder.iterdir()} == FILES
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics.keys() >= KEYS
    assert metrics == result.metrics
    assert len(metrics["requirements"]) == 10
    assert metrics["test_images"] == 360
    log = (result.folder / "log.txt").read_text()
    assert log.count("\n") == metrics["epochs"] == len(pd.read_csv(result.folder / "history.csv"))


def test_the_accuracy_is_that_of_the_weights_on_disk_in_float32(result, sample):
    model = get_model("s7_dropout")
    model.load_state_dict(load_file(result.folder / "model.safetensors"))
    model.eval()
    images = sample.normalize(torch.from_numpy(sample.test_images).permute(0, 3, 1, 2))
    with torch.inference_mode():
        is_correct = model(images).argmax(1).numpy() == sample.test_labels
    assert result.metrics["test_accuracy"] == pytest.approx(100 * is_correct.mean(), abs=1e-9)
    class_accuracy = result.metrics["class_accuracy"]
    assert class_accuracy["cat"] == pytest.approx(100 * is_correct[sample.test_labels == 3].mean())


def test_a_class_without_test_images_has_no_accuracy(sample):
    few = dataclasses.replace(
        sample, test_images=sample.test_images[:3], test_labels=np.array([4, 7, 4])
    )
    logits = np.eye(10)[[4, 7, 5]]
    assert evaluation.per_class_accuracy(logits, few) == {"deer": 50, "horse": 100}


def test_convolutions_are_saved_in_half_precision_and_the_rest_in_full(result):
    weights = load_file(result.folder / "model.safetensors")
    modules = dict(get_model("s7_dropout").named_modules())
    for name, value in weights.items():
        module = modules[name.rpartition(".")[0]]
        floating = torch.half if isinstance(module, nn.Conv2d) else torch.float
        assert value.dtype == (torch.long if name.endswith("batches_tracked") else floating)


class NormalizedConv(nn.Conv2d):
    """A convolution with its normalization inside."""

    def __init__(self):
        super().__init__(3, 10, 3)
        self.norm = nn.BatchNorm2d(10)


def test_a_layer_inside_a_convolution_is_saved_in_full_precision():
    network = nn.Sequential(NormalizedConv(), nn.Flatten(), nn.Linear(9000, 10))
    weights = results.safetensors.load(results.serialize_weights(network))
    halved = {name for name, values in weights.items() if values.dtype == torch.half}
    assert halved == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_all_seeds_are_recorded_and_the_weights_are_those_of_the_first(result):
    seeds = result.metrics["seeds"]
    assert [row["seed"] for row in seeds] == [0, 1]
    accuracies = [row["test_accuracy"] for row in seeds]
    assert result.metrics["test_accuracy"] == accuracies[0]
    assert result.metrics["test_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert result.metrics["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))


def test_reuse_loads_the_run_without_training(result, sample, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.experiments.fit", None)
    shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    reusing = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path)
    again = run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, reusing)
    assert again.metrics == result.metrics
    epochs = [pd.DataFrame(run.history.epochs) for run in (again, result)]
    pd.testing.assert_frame_equal(*epochs, rtol=1e-12)
    assert again.history.lrs == pytest.approx(result.history.lrs)
    shifted = result.logits - result.logits.max(axis=1, keepdims=True)
    assert np.allclose(again.logits, shifted, rtol=1e-3, atol=1e-6)
    assert (again.logits.argmax(axis=1) == result.logits.argmax(axis=1)).all()
    for model in (result.model, again.model):
        assert not any(module.training for module in model.modules())
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    printed = capsys.readouterr().out
    assert "trained on" in printed
    assert (result.folder / "log.txt").read_text() in printed
    monkeypatch.setattr("helpers.evaluation.predict", None)
    (tmp_path / "results" / "S7" / "s7_dropout" / "log.txt").unlink()
    run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, reusing)  # needs no evaluation and no log
    assert "_smoke-sample" in str(again.folder), "new figures must not replace the saved ones"


def test_reuse_finds_the_run_if_the_users_folder_has_figures_only(
    result, sample, tmp_path, monkeypatch
):
    """As on Drive, where the first notebook with REUSE=1 saved only its figures."""
    shutil.copytree(result.folder, tmp_path / "project" / "results" / "S7" / "s7_dropout")
    monkeypatch.setattr("helpers.experiments.ROOT", tmp_path / "project")
    (tmp_path / "drive" / "results" / "S7" / "s7_dropout").mkdir(parents=True)
    reusing = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path / "drive")
    assert run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, reusing).metrics == result.metrics


def test_reuse_of_a_run_on_other_data_is_a_clear_error(result, sample, tmp_path):
    shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    reusing = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path)
    other = dataclasses.replace(sample, name="Other")
    with pytest.raises(ValueError, match=r"tested on CIFAR-10 sample.*the data here is Other"):
        run_experiment(EXPERIMENTS["S7/s7_dropout"], other, reusing)


def test_saved_logits_predict_as_the_model_does_even_if_two_are_nearly_equal(tmp_path):
    logits = np.random.default_rng(0).normal(20, 5, (1000, 10)).astype(np.float32)
    logits[:, 3] = logits.max(axis=1) + 1e-4  # float16 alone could not tell them apart
    saved = np.load(io.BytesIO(results.serialize_logits(logits)))
    assert saved.dtype == np.float16
    assert (saved.argmax(axis=1) == logits.argmax(axis=1)).all()
    probabilities = [
        scipy.special.softmax(values.astype(float), axis=1) for values in (saved, logits)
    ]
    assert np.allclose(*probabilities, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_not_saved(value):
    with pytest.raises(FloatingPointError, match="not finite"):
        results.serialize_logits(np.full((2, 10), value))


def test_a_saved_run_on_cifar10_gives_the_logits_of_the_images_at_hand(sample):
    folder = ROOT / "results" / "S7" / "s7"
    metrics = results.read_metrics(folder)
    saved = results.read_logits(folder, metrics)
    assert saved.shape == (10_000, 10)
    loaded = results.load_result(folder, sample)
    assert (loaded.logits == saved[sample.test_indices]).all()
    first = sample.subset(test=20)
    evaluated = evaluation.predict(loaded.model, first, first.test_images).cpu().numpy()
    assert np.allclose(
        evaluated - evaluated.max(axis=1, keepdims=True), loaded.logits[:20], atol=0.05
    )
    with pytest.raises(ValueError, match="validation split"):
        results.load_result(folder, sample.train_val_split())


def test_saved_metrics_agree_with_the_saved_logits_of_every_run():
    labels = load_test_labels()
    for file in sorted((ROOT / "results").glob("[!_]*/*/metrics.json")):
        metrics = results.read_metrics(file.parent)
        saved = results.read_logits(file.parent, metrics)
        accuracy = 100 * np.mean(saved.argmax(axis=1)[labels[:, 0]] == labels[:, 1])
        assert abs(accuracy - metrics["test_accuracy"]) < 3, file  # of 1,000 images


def load_test_labels():
    """Return the index and the label of each test image of the sample."""
    file = data_module.SAMPLE_DIR / "test.csv"
    return np.loadtxt(file, dtype=int, delimiter=",", skiprows=1)


def test_after_a_quick_run_the_saved_full_run_is_shown(result, sample, tmp_path, capsys):
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    shown = experiments.load_full_run(result, sample, settings)
    printed = capsys.readouterr().out
    full = results.read_metrics(ROOT / "results" / "S7" / "s7_dropout")
    assert printed.startswith("S7/s7_dropout, this smoke run: 200 images, 2 epochs, ")
    assert f"saved full run: {full['test_accuracy_mean']:.2f} ± " in printed
    assert shown.metrics == full
    assert shown.folder == result.folder, "its figures must not replace the saved ones"
    assert evaluation.test_accuracy(shown.logits, sample) > 80
    for other in (Settings(FULL, "cifar10"), dataclasses.replace(settings, reuse=True)):
        assert experiments.load_full_run(result, sample, other) is result


def test_without_a_saved_full_run_the_quick_one_is_shown(
    result, sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("helpers.experiments.ROOT", tmp_path)
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    assert experiments.load_full_run(result, sample, settings) is result
    assert "there is no saved full run" in capsys.readouterr().out


def test_damaged_logits_are_named(result, sample, tmp_path):
    shutil.copytree(result.folder, tmp_path / "run")
    (tmp_path / "run" / "test_logits.npy").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"test_logits\.npy does not match the checksum"):
        results.load_result(tmp_path / "run", sample)


def test_reuse_of_nothing_is_a_clear_error(tmp_path, sample):
    reusing = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path)
    experiment = dataclasses.replace(EXPERIMENTS["S7/s7"], name="S7/never_trained")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*REUSE=0"):
        run_experiment(experiment, sample, reusing)


def test_an_edited_forward_starts_a_new_training(tmp_path, sample, monkeypatch, capsys):
    class Mine(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Edited(Mine):
        def forward(self, x):
            return super().forward(x).neg()

    Edited.__name__ = "Mine"
    experiment = dataclasses.replace(
        EXPERIMENTS["S7/s7"], name="S7/mine", model="mine", reference_accuracy=None
    )
    for model_class, is_new in ((Mine, False), (Mine, False), (Edited, True)):
        monkeypatch.setitem(MODELS, "mine", model_class)
        run_experiment(experiment, sample, Settings(SMOKE, "sample", output_dir=tmp_path))
        assert ("another network" in capsys.readouterr().out) == is_new


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_full_profile_does_not_change_the_config(name):
    assert scale_to_profile(EXPERIMENTS[name].config, FULL, 50_000) == EXPERIMENTS[name].config


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize(("profile", "images"), [("quick", 900), ("smoke", 32)])
def test_short_profiles_keep_the_shape_of_the_cycle(name, profile, images):
    config = EXPERIMENTS[name].config
    short = scale_to_profile(config, PROFILES[profile], images)
    assert short.epochs == PROFILES[profile].epochs
    assert images / short.batch_size >= 16
    assert short.peak_epoch / short.epochs == pytest.approx(config.peak_epoch / config.epochs)
    factor = short.batch_size / config.batch_size
    if config.optimizer == "AdamW":
        factor = factor**0.5
    assert short.max_lr == pytest.approx(config.max_lr * factor)


def make_cifar10(images):
    """CIFAR-10 with one training image and this number of labels of test images."""
    train_images = np.zeros((1, 32, 32, 3), np.uint8)
    labels = np.zeros(images, np.int64)
    return ImageData(
        "cifar10", "CIFAR-10", ("a",) * 10, train_images, labels[:1], train_images[:0], labels
    )


def test_a_test_accuracy_is_over_all_test_images():
    assert evaluation.test_accuracy(np.eye(10)[np.zeros(10_000, int)], make_cifar10(10_000)) == 100
    for size in (316, 10_001):
        with pytest.raises(ValueError, match=f"{size} predictions for 10000"):
            evaluation.test_accuracy(np.zeros((size, 10)), make_cifar10(10_000))


@given(size=st.integers(0, 12_000), earlier=st.none() | st.integers(0, 12_000))
@example(size=9_999, earlier=None)
@example(size=10_000, earlier=None)
@example(size=12_000, earlier=9_999)
def test_a_cut_test_set_never_passes_for_that_of_cifar10(size, earlier):
    data = make_cifar10(10_000).subset(test=earlier).subset(test=size)
    is_cut = len(data.test_labels) < 10_000
    assert (data.title != "CIFAR-10") == is_cut
    assert data.is_full_cifar10 == (not is_cut)
    metrics = {
        "dataset": data.title,
        "test_images": len(data.test_labels),
        "test_accuracy": 100.0,
        "epochs": 10,
    }
    assert requirements.check_accuracy(metrics, 80)[1] == (not is_cut)


@pytest.mark.parametrize("images", [316, 50_000])
def test_other_images_are_not_the_test_set_of_cifar10(images):
    """Neither some test images nor all training images."""
    data = make_cifar10(images)
    assert not data.is_full_cifar10
    metrics = {
        "dataset": data.title,
        "test_images": images,
        "test_accuracy": 100.0,
        "epochs": 10,
    }
    assert not requirements.check_accuracy(metrics, 80)[1]
    train_images = np.zeros((100_000, 1, 1, 3), np.uint8)  # ten thousand of them are held out
    labels = np.zeros(100_000, np.int64)
    held_out = dataclasses.replace(
        make_cifar10(10_000), train_images=train_images, train_labels=labels
    ).train_val_split()
    assert len(held_out.test_labels) == 10_000
    assert not held_out.is_full_cifar10


@pytest.fixture
def untrained(monkeypatch):
    """Replaces training and evaluation with numbers, so that a run takes no time."""
    row = {
        "epoch": 1,
        "learning_rate": 0.1,
        "train_loss": 1.0,
        "train_accuracy": 50.0,
        "test_loss": 1.0,
        "test_accuracy": 50.0,
        "images_per_second": 100.0,
        "seconds": 2.0,
    }
    rows = [row | {"epoch": epoch, "images_per_second": 100.0 * epoch} for epoch in (1, 2, 3)]
    environment = {
        "device": "made",
        "device_type": "cpu",
        "precision": "float32",
        "processes": 1,
        **device.library_versions(),
    }
    fits = []

    def fit(model, data, transform, config, *, seed, **options):
        fits.append((seed, config, options))
        environments = [environment | {"device": "earlier"}, environment]
        return History(rows, [0.1, 0.3, 0.2, 0.1, 0.1, 0.0], environments)

    def evaluate_model(model, data):
        measured = {
            "params": 10,
            "test_images": len(data.test_labels),
            "test_accuracy": 95.0,
            "test_accuracy_flip_tta": 96.0,
        }
        return measured, np.zeros((len(data.test_labels), 10))

    monkeypatch.setattr(experiments, "fit", fit)
    monkeypatch.setattr(experiments, "evaluate_model", evaluate_model)
    monkeypatch.setattr(experiments.requirements, "check_result", lambda *_: [])
    return fits


@pytest.mark.parametrize("images", [9_999, 10_000])
def test_the_published_accuracy_belongs_to_the_full_test_set(images, untrained, sample, tmp_path):
    data = dataclasses.replace(
        sample,
        dataset="cifar10",
        name="CIFAR-10",
        test_images=np.zeros((10_000, 32, 32, 3), np.uint8),
        test_labels=np.zeros(10_000, np.int64),
        full_test_size=None,
    ).subset(test=images)
    settings = Settings(SMOKE, "cifar10", output_dir=tmp_path)
    metrics = run_experiment(EXPERIMENTS["S7/s7_dropout"], data, settings).metrics
    assert metrics["published_test_accuracy"] == (82.93 if images == 10_000 else None)
    assert metrics["dataset"] == data.title


def test_prediction_leaves_the_mode_alone(sample):
    model = get_model("s7_dropout").train()
    evaluation.predict(model, sample, sample.test_images[:20])
    assert model.training
    assert len(evaluation.predict(model, sample, sample.test_images[:0])) == 0
    frozen = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    evaluation.predict(model, sample, sample.test_images[:20])
    assert model.training
    assert not frozen.training


def test_prediction_is_in_float32(sample, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    allowed, model = [], get_model("s7_dropout")
    model.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    assert evaluation.predict(model, sample, sample.test_images[:20]).dtype == torch.float32
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32, "training continues as before"


def test_flip_tta_adds_the_mirror_images_logits(result, sample):
    mirrored = np.ascontiguousarray(sample.test_images[:, :, ::-1])
    summed = result.logits + evaluation.predict(result.model, sample, mirrored).numpy()
    expected = 100 * np.mean(summed.argmax(1) == sample.test_labels)
    assert result.metrics["test_accuracy_flip_tta"] == pytest.approx(expected, abs=1e-9)


def test_an_image_is_mirrored_from_left_to_right(sample):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    measured, logits = evaluation.evaluate_model(model, sample)

    def accuracy(images):
        other_logits = evaluation.predict(model, sample, np.ascontiguousarray(images)).numpy()
        return 100 * np.mean((logits + other_logits).argmax(axis=1) == sample.test_labels)

    images = sample.test_images
    expected = accuracy(images[:, :, ::-1])
    assert expected not in (accuracy(images), accuracy(images[:, ::-1])), "they differ"
    assert measured["test_accuracy_flip_tta"] == pytest.approx(expected)
    measured, _ = evaluation.evaluate_model(model, sample, tta=False)
    assert "test_accuracy_flip_tta" not in measured


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    atomic_write(path, "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        atomic_write(path, "new")
    assert path.read_text() == "old"


def test_a_run_that_is_finished_again_keeps_its_further_seeds(result, settings, sample, tmp_path):
    output_dir = shutil.copytree(settings.output_dir, tmp_path / "output")
    again = dataclasses.replace(settings, output_dir=output_dir)
    metrics = run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, again).metrics
    assert metrics["seeds"] == result.metrics["seeds"]
    assert metrics["test_accuracy_mean"] == result.metrics["test_accuracy_mean"]
    file = again.results_dir("sample") / "S7" / "s7_dropout" / "metrics.json"
    file.write_text(json.dumps(metrics | {"weights_sha256": "another network's"}))
    alone = run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, again).metrics
    assert [entry["seed"] for entry in alone["seeds"]] == [0]


def test_a_transform_has_the_same_fingerprint_whatever_the_addresses_of_its_functions(sample):
    def transform(mean):
        return A.Compose([A.Lambda(image=lambda image, **_: image, name="same")])

    experiment = dataclasses.replace(EXPERIMENTS["S7/s7"], transform=transform)
    transforms, fingerprints = [], []
    for _ in range(2):
        transforms.append(transform(None))  # so that addresses differ
        fingerprints.append(experiment_fingerprint(experiment, 0, sample))
    assert fingerprints[0] == fingerprints[1]
    assert str(transforms[0]) != str(transforms[1])
    on_windows = "<function f at 0x000001E0B8A0F4D0>"
    assert without_addresses(on_windows) == "<function f>"


SLOPE, NOISE, START, KERNEL, TRAINED = 0.1, 0.1, 1e-6, [1.0, 2.0, 1.0, 0.0], True


def activation(x):
    return nn.functional.leaky_relu(x, SLOPE)


def add_noise(x):
    return x + NOISE * torch.randn_like(x)


class Base(nn.Module):
    SCALE = 1

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(4, 10)
        self.gamma = nn.Parameter(torch.full((4,), START))
        self.register_buffer("kernel", torch.tensor(KERNEL))
        self.conv.weight.requires_grad_(TRAINED)

    @staticmethod
    def transpose(x):
        return x

    def forward(self, x):
        if self.training:
            x = self.transpose(add_noise(x))
        x = activation(self.conv(x)) * (self.gamma * self.kernel)[:, None, None]
        return self.fc(self.SCALE * x.mean((2, 3)))


class Child(Base):
    pass


def forward_doubled(self, x):
    return 2 * self.fc(activation(self.conv(x)).mean((2, 3)))


@pytest.fixture
def child(monkeypatch):
    monkeypatch.setitem(MODELS, "s7", Child)


@pytest.mark.parametrize(
    "edit",
    [
        {"SLOPE": 0.2},
        {"activation": nn.functional.gelu},
        {"Base.SCALE": 2},
        {"Base.forward": forward_doubled},
        {"START": 1.0},
        {"KERNEL": [1.0, 0.0, 1.0, 0.0]},
        {"TRAINED": False},
        {"NOISE": 0.2},
        {"add_noise": nn.functional.dropout},
        {"Base.transpose": staticmethod(lambda x: x.mT)},
    ],
    ids=[
        "constant", "function", "attribute", "base class", "initial value", "buffer", "frozen",
        "constant in training only", "function in training only", "method in training only",
    ],
)  # fmt: skip
def test_an_edit_anywhere_in_a_network_changes_its_fingerprint(edit, child, sample, monkeypatch):
    before = experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)
    assert before == experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)
    for name, value in edit.items():
        monkeypatch.setattr(f"tests.test_results.{name}", value)
    after = experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)
    assert [name for name in before if before[name] != after[name]] == ["network"]


ROUTES = [
    lambda model, x: (u := model.a(x)) + model.b(u),
    lambda model, x: (u := model.a(x)) + model.a(u),
    lambda model, x: (u := model.b(x)) + model.a(u),
    lambda model, x: model.a(x) + model.b(x),
    lambda model, x: x + model.b(model.a(x)),
]


class Routed(nn.Module):
    def __init__(self, route, kernel):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 10)
        self.register_buffer("kernel", torch.tensor(kernel))
        self.route = route

    def forward(self, x):
        return self.fc(self.kernel * self.route(self, x).mean((2, 3)))


def test_networks_of_equal_calls_and_shapes_differ_in_their_data_flow():
    args = [(route, [1.0, 0.0, 0.0]) for route in ROUTES] + [(ROUTES[0], [0.0, 0.0, 1.0])]
    first, again = (
        [str(model_fingerprint(partial(Routed, *pair))) for pair in args] for _ in range(2)
    )
    assert first == again
    assert len({*first}) == len(args)


def test_a_network_stays_the_same_in_another_version_of_pytorch(sample, monkeypatch):
    before = experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)
    monkeypatch.setattr(nn.BatchNorm2d, "extra_repr", lambda self: "written otherwise")
    monkeypatch.setattr(nn.BatchNorm2d, "_check_input_dim", lambda self, x: x.ndim == 4)
    assert before == experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)


def test_a_network_that_draws_random_numbers_has_the_same_fingerprint(child, sample, monkeypatch):
    def forward(self, x):
        x = torch.rand(1).item() * np.random.rand() * nn.functional.dropout(x, random.random())
        return Base.forward(self, x)

    monkeypatch.setattr(Child, "forward", forward)
    first = experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample)
    random.random(), np.random.rand(), torch.rand(1)  # changes all random states
    assert experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, sample) == first


@pytest.mark.parametrize("array", ["train_images", "train_labels", "test_images", "test_labels"])
def test_corrected_data_is_other_data(array, sample):
    values = getattr(sample, array).copy()
    values.flat[[0, -1]] = values.flat[[-1, 0]]  # the same mean, the same number
    values.flat[0] += values.flat[0] == values.flat[-1]
    corrected = dataclasses.replace(sample, **{array: values})
    before, after = (
        experiment_fingerprint(EXPERIMENTS["S7/s7"], 0, data) for data in (sample, corrected)
    )
    assert [name for name in before if before[name] != after[name]] == ["data"]


def test_a_transform_without_a_name_trains(sample, tmp_path):
    experiment = dataclasses.replace(
        EXPERIMENTS["S7/s7_dropout"],
        name="S7/partial",
        transform=partial(EXPERIMENTS["S7/s7"].transform),
    )
    metrics = run_experiment(
        experiment, sample, Settings(SMOKE, "sample", output_dir=tmp_path)
    ).metrics
    assert [name for name, _ in metrics["augmentation"]] == ["HorizontalFlip", "Pad", "RandomCrop"]


def test_reuse_of_an_unknown_network_is_a_clear_error(result, sample, tmp_path):
    folder = shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"net": "mine"}))
    reusing = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path)
    with pytest.raises(ValueError, match=r"^network=mine is unknown; it is one of s7"):
        run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, reusing)


def test_missing_metrics_are_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*metrics\.json: train the run"):
        results.read_metrics(tmp_path)


def test_a_fingerprint_leaves_the_random_states_as_they_are(sample):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    experiment_fingerprint(EXPERIMENTS["S7/s7"], 3, sample)
    assert states() == before


def test_a_fingerprint_names_what_a_run_depends_on(sample):
    experiment = EXPERIMENTS["S7/s7"]
    before = experiment_fingerprint(experiment, 0, sample)
    assert before["processes"] == 1
    config = dataclasses.replace(experiment.config, max_lr=0.3)
    others = {
        "run": (dataclasses.replace(experiment, name="S7/other"), 0, sample),
        "seed": (experiment, 1, sample),
        "transform": (dataclasses.replace(experiment, transform=crop_cutout), 0, sample),
        "recipe": (dataclasses.replace(experiment, config=config), 0, sample),
        "data": (experiment, 0, dataclasses.replace(sample, name="Other")),
        "network": (dataclasses.replace(experiment, model="s9"), 0, sample),
    }
    for name, args in others.items():
        after = experiment_fingerprint(*args)
        assert [key for key in before if before[key] != after[key]] == [name]


def test_an_equal_full_profile_is_full(tmp_path):
    settings = Settings(Profile("full"), "cifar10", output_dir=tmp_path)
    assert settings.is_full
    assert settings.results_dir("cifar10") == tmp_path / "results"
    assert settings.for_short_run().profile.epochs == 2
    assert not Settings(Profile("full", epochs=5), output_dir=tmp_path).is_full


def test_the_metrics_describe_the_data_the_device_and_the_schedule(untrained, sample, tmp_path):
    settings = Settings(SMOKE, "sample", seed=4, output_dir=tmp_path)
    experiment = EXPERIMENTS["S7/s7_dropout"]
    result = run_experiment(experiment, sample, settings, seeds=3)
    metrics = result.metrics
    assert [seed for seed, _, _ in untrained] == [4, 5, 6]
    assert metrics["seed"] == 4
    assert [entry["seed"] for entry in metrics["seeds"]] == [4, 5, 6]
    for entry in metrics["seeds"]:
        assert entry["test_accuracy_flip_tta"] == 96
        assert [place["device"] for place in entry["trained_on"]] == ["earlier", "made"]
    assert metrics["device"] == "made", "that of the last epoch"
    assert metrics["device_type"] == "cpu"
    assert metrics["processes"] == 1
    assert metrics["versions"] == device.library_versions()
    assert metrics["train_images"] == 200
    assert metrics["train_accuracy"] == 50
    assert metrics["wall_seconds"] == 6
    assert metrics["images_per_second"] == 200
    assert metrics["steps"] == 6
    assert metrics["peak_epoch"] == 1  # the second of two steps per epoch
    assert metrics["channel_means"] == sample.mean.tolist()
    assert metrics["published_test_accuracy"] is None
    config = scale_to_profile(experiment.config, SMOKE, 200)
    assert metrics["recipe"] == {**dataclasses.asdict(config), "transform": "flip_shift"}
    for key in ("epochs", "batch_size", "optimizer", "max_lr"):
        assert metrics[key] == getattr(config, key)
    lrs = pd.read_csv(result.folder / "learning_rate.csv")
    assert lrs["step"].tolist() == list(range(6))
    assert lrs["learning_rate"].tolist() == result.history.lrs
    assert result.title == f"s7_dropout on {sample.title}"


def test_a_larger_batch_is_another_run_with_a_higher_learning_rate(untrained, sample, tmp_path):
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    experiment = EXPERIMENTS["S7/s7_dropout"]
    result = run_experiment(experiment, sample, settings, batch_size_scale=4)
    assert result.folder == settings.results_dir("sample") / "S7" / "s7_dropout_x4"
    config = scale_to_profile(experiment.config, SMOKE, 200)
    [(_, trained, options)] = untrained
    assert (trained.batch_size, trained.max_lr) == (4 * config.batch_size, 4 * config.max_lr)
    assert trained == dataclasses.replace(
        config, batch_size=trained.batch_size, max_lr=trained.max_lr
    )
    checkpoints = settings.checkpoint_dir("sample")
    assert options["checkpoint"].files[0] == checkpoints / "S7" / "s7_dropout_x4" / "seed-0.pt"
    reusing = dataclasses.replace(settings, reuse=True)
    with pytest.raises(FileNotFoundError, match="s7_dropout_x4"):
        run_experiment(experiment, sample, reusing, batch_size_scale=4)


def test_only_the_main_process_writes_files(untrained, sample, tmp_path, monkeypatch):
    state = type(device.distributed_state())
    monkeypatch.setattr(state, "is_main_process", False)
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    result = run_experiment(EXPERIMENTS["S7/s7_dropout"], sample, settings)
    assert not result.folder.exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "S8/s7"}, ValueError, "^notebook=S8 is unknown; it is one of S7, S9"),
        ({"model": "s8"}, ValueError, "^network=s8 is unknown; it is one of s7, s7_dropout"),
        ({"transform": lambda mean: None}, TypeError, r"must be an albumentations\.Compose.*None"),
        ({"transform": lambda mean: A.HorizontalFlip()}, TypeError, r"a transform must be an alb"),
    ],
)
def test_a_wrong_experiment_is_named_before_training(
    change, error, message, untrained, sample, tmp_path
):
    experiment = dataclasses.replace(EXPERIMENTS["S7/s7"], **change)
    with pytest.raises(error, match=message):
        run_experiment(experiment, sample, Settings(SMOKE, "sample", output_dir=tmp_path))
    assert not untrained


def test_other_seeds_belong_to_the_same_weights_only(tmp_path):
    assert results.earlier_seeds(tmp_path, "abc", [0]) == [], "nothing is saved"
    metrics = {"weights_sha256": "abc", "seeds": [{"seed": 0}, {"seed": 1}, {"seed": 7}]}
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(metrics))
    assert results.earlier_seeds(tmp_path, "abc", [0]) == [{"seed": 1}, {"seed": 7}]
    assert results.earlier_seeds(tmp_path, "abc", [0, 7]) == [{"seed": 1}]
    assert results.earlier_seeds(tmp_path, "def", [0]) == []
    for damaged in ("{", "[]", "{}", '{"weights_sha256": "abc"}'):
        file.write_text(damaged)
        assert results.earlier_seeds(tmp_path, "abc", [0]) == []


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_the_statistics_of_seeds_are_mean_and_sample_deviation(hits):
    seeds = [{"seed": i, "test_accuracy": 100 * hit / 1000} for i, hit in enumerate(hits)]
    summary = results.seed_statistics(seeds)
    accuracies = [seed["test_accuracy"] for seed in seeds]
    assert summary["seeds"] is seeds
    assert summary["test_accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
    if len(hits) == 1:
        assert summary["test_accuracy_std"] is None
    else:
        expected = statistics.stdev(accuracies)
        assert summary["test_accuracy_std"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", r"model\.safetensors does not match the checksum in metrics\.json"),
        ("metrics.json", r"metrics\.json is damaged"),
        ("history.csv", "s7_dropout is damaged"),
        ("learning_rate.csv", "s7_dropout is damaged"),
    ],
)
def test_damaged_files_are_named(name, message, result, sample, tmp_path):
    folder = shutil.copytree(result.folder, tmp_path / "s7_dropout")
    (folder / name).write_bytes((folder / name).read_bytes()[:40] + b"\xff")
    with pytest.raises(ValueError, match=rf"{message}.*: train the run again"):
        results.load_result(folder, sample)


@pytest.mark.parametrize("name", results.RESULT_FILES)
def test_a_missing_file_is_named(name, result, sample, tmp_path):
    folder = shutil.copytree(result.folder, tmp_path / "s7_dropout")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {re.escape(name)}: train it first"):
        results.load_result(folder, sample)


def make_result(net, accuracies, **metrics):
    """A result with the metrics that the summaries read."""
    epochs = [{"test_accuracy": value} for value in (50.0, 92.5, 92.5, 91.0)]
    seeds = [{"seed": 3 + i, "test_accuracy": value} for i, value in enumerate(accuracies)]
    metrics = {
        "net": net,
        "seed": 3,
        "test_accuracy": accuracies[0],
        "test_accuracy_flip_tta": 92.345,
        "test_images": 10_000,
        "train_images": 50_000,
        "params": 94_086,
        "mult_adds": 12_345_678,
        "published_test_accuracy": None,
        "epochs": 4,
        "wall_seconds": 150.0,
        "device": "Tesla T4",
        "precision": "fp16",
        **results.seed_statistics(seeds),
        **metrics,
    }
    return results.Result(None, None, History(epochs), metrics, None, f"{net} on CIFAR-10")


def test_a_summary_states_accuracy_seeds_best_epoch_and_time():
    assert results.summarize(make_result("s9", [91.0])).splitlines() == [
        "s9: 91.00 % of 10,000 test images right",
        "  seeds trained: 1; the one saved here, 3: 91.00 %",
        "  with the mirror image's logits averaged in: 92.34 %",
        "  best epoch in the log: 2 of 4",
        "  2.5 minutes on Tesla T4, fp16",
    ]
    several = make_result("s9", [91.0, 92.0, 93.5], published_test_accuracy=85.22)
    lines = results.summarize(several).splitlines()
    assert lines[0] == "s9: 92.17 ± 1.26 % of 10,000 test images right"
    assert lines[1] == "  seeds trained: 3; the one saved here, 3: 91.00 %"
    assert lines[3] == "  published: 85.22 %"
    assert len(lines) == 6
    two = results.summarize(make_result("s9", [91.0, 92.0]))
    assert two.startswith("s9: 91.50 ± 0.71 % of")


def test_results_are_compared_in_a_row_each():
    table = results.compare_results(
        make_result("s9", [91.0]), make_result("mine", [89.128], epochs=2, train_images=10_000)
    )
    assert table.index.to_list() == ["s9", "mine"]
    assert table.loc["mine"].to_dict() == {
        "parameters": "94,086",
        "multiply-adds": "12,345,678",
        "trained on": "10,000",
        "epochs": "2",
        "tested on": "10,000",
        "accuracy (%)": "89.13",
    }
    assert table.loc["s9", "epochs"] == "4"


def test_configs_are_compared_in_a_column_each():
    table = experiments.compare_configs("S7/s7", "S10/s10")
    assert list(table) == ["s7", "s10"]
    assert list(table.index) == [field.name for field in dataclasses.fields(TrainConfig)]
    for name, column in (("S7/s7", "s7"), ("S10/s10", "s10")):
        for field, value in dataclasses.asdict(EXPERIMENTS[name].config).items():
            assert table.loc[field, column] == str(value)


class Small(nn.Module):
    """A network that trains in a second."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.dropout = nn.Dropout(0.25)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.dropout(self.conv(x).relu()).mean((2, 3)))


def test_a_model_of_your_own_trains_on_held_out_images(sample, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "mine", None)  # removed again after the test
    settings = Settings(SMOKE, "sample", reuse=True, output_dir=tmp_path)
    result = experiments.try_model(Small, "S10/s10", sample, settings, max_lr=0.01, batch_size=8)
    assert isinstance(result.model, Small)
    metrics = result.metrics
    assert metrics["recipe"]["dropout"] is None, "the network's own dropout, not the experiment's"
    assert result.folder == tmp_path / "results" / "_smoke-sample-validation" / "S10" / "mine"
    assert metrics["dataset"] == f"{sample.name} (validation split)"
    assert (metrics["train_images"], metrics["test_images"]) == (180, 20)
    assert (metrics["max_lr"], metrics["batch_size"], metrics["epochs"]) == (0.01, 8, 2)
    assert metrics["optimizer"] == "AdamW"
    assert metrics["recipe"]["transform"] == "flip_shift_cutout"
    assert metrics["published_test_accuracy"] is None
    assert len(result.logits) == 20


def test_a_trial_has_two_epochs_of_at_most_ten_thousand_images(untrained, sample, monkeypatch):
    calls = []
    monkeypatch.setitem(MODELS, "mine", None)
    monkeypatch.setattr(experiments, "run_experiment", lambda *args: calls.append(args))
    images = np.zeros((12_000, 32, 32, 3), np.uint8)
    labels = np.zeros(12_000, np.int64)
    data = dataclasses.replace(sample, train_images=images, train_labels=labels)
    experiments.try_model(Small, "S10/s10", data, Settings(FULL, "cifar10"), dropout=0.5)
    [(experiment, data, settings)] = calls
    assert (len(data.train_labels), len(data.test_labels)) == (10_000, 1_200)
    assert settings.profile == Profile("trial", epochs=2)
    assert experiment.config == dataclasses.replace(EXPERIMENTS["S10/s10"].config, dropout=0.5)
    assert not experiment.find_lr
    with pytest.raises(ValueError, match=r"^experiment=S8/s8 is unknown; it is one of S7/s7"):
        experiments.try_model(Small, "S8/s8", data, settings)


class Wider(Small):
    """Small with other weights, as after an edit."""

    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return super().forward(self.more(x))


def test_a_trial_of_an_edited_network_starts_afresh_without_leftovers(
    sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(MODELS, "mine", None)
    monkeypatch.setitem(MODELS, "ours", None)
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    small = sample.subset(64, 30)
    first = experiments.try_model(Small, "S9/compact", small, settings)
    other = experiments.try_model(Small, "S9/compact", small, settings, name="ours")
    capsys.readouterr()
    edited = experiments.try_model(Wider, "S9/compact", small, settings)
    assert "The network has changed: training starts afresh." in capsys.readouterr().out
    assert edited.metrics["params"] > first.metrics["params"] == other.metrics["params"]
    assert [first.folder.name, other.folder.name] == ["mine", "ours"]
    assert not list(tmp_path.rglob("*.aside"))


@pytest.mark.parametrize("lines", [0, 1])
def test_a_history_that_was_cut_is_damaged(result, sample, tmp_path, lines):
    folder = tmp_path / "copy"
    shutil.copytree(result.folder, folder)
    history = folder / "history.csv"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[: 1 + lines]))
    with pytest.raises(CorruptFileError, match=rf"history.csv has {lines} epochs, expected 2"):
        results.load_result(folder, sample)


def test_short_runs_are_compared_epoch_by_epoch(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "small", Small)
    small = dataclasses.replace(
        EXPERIMENTS["S10/s10"], name="S10/small", model="small", find_lr=True
    )
    config = dataclasses.replace(small.config, optimizer="SGD", max_lr=0.1)
    sgd = dataclasses.replace(small, config=config)  # of the same name
    settings = Settings(SMOKE, "sample", output_dir=tmp_path)
    data = sample.subset(64, 30)
    table = experiments.run_short(data, settings, adamw=small, sgd=sgd)
    assert list(table) == ["adamw", "sgd"]
    assert table.index.to_list() == [1, 2]
    assert table.index.name == "epoch"
    for column in table:
        folder = settings.results_dir("sample") / "S10" / column
        assert {path.name for path in folder.iterdir()} == FILES, "no search for a learning rate"
        history = pd.read_csv(folder / "history.csv")
        assert table[column].to_list() == history["test_accuracy"].round(2).to_list()
    capsys.readouterr()
    assert experiments.run_short(data, settings, adamw=small, sgd=sgd).equals(table)
    assert capsys.readouterr().out.count("Nothing left to train") == 2


@pytest.mark.parametrize(("epochs", "shown"), [(20, 20), (24, 4), (80, 9)])
def test_the_log_of_a_long_run_is_shown_in_part(epochs, shown):
    row = dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), 1.0)
    row |= {"learning_rate": 0.1, "images_per_second": 1.0, "seconds": 1.0}
    history = History([{"epoch": n, **row} for n in range(1, epochs + 1)], [])
    lines = results.format_short_log(history).splitlines()
    assert len(lines) == shown
    assert lines[0].startswith("epoch  1/")
    assert lines[-1].startswith(f"epoch {epochs}/{epochs}")
