"""What a run leaves behind: complete, true to the weights that are kept, and reusable."""

import dataclasses
import json
import random
import shutil
from functools import partial

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers import evaluation
from helpers.images import data as data_module
from helpers.images.data import ImageData
from helpers.models import MODELS, build
from helpers.runs import results
from helpers.runs.catalogue import RUNS
from helpers.runs.conductor import fingerprint, train
from helpers.settings import FULL, PROFILES, SMOKE, Settings
from helpers.training.loop import fit
from helpers.training.recipes import shortened
from tracing.order import traits, without_addresses

KEYS = {
    "notebook", "net", "params", "mult_adds", "receptive_field", "dataset", "test_images",
    "epochs", "batch_size", "optimizer", "recipe", "seed", "test_accuracy", "train_accuracy",
    "test_accuracy_flip_tta", "seeds", "test_accuracy_mean", "test_accuracy_std",
    "wall_seconds", "device", "precision", "versions", "requirements",
}  # fmt: skip
FILES = {
    "metrics.json", "history.csv", "learning_rate.csv", "log.txt", "summary.txt",
    "receptive_field.csv", "model.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(SMOKE, "digits", home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def digits():
    return data_module.digits().first(200)


@pytest.fixture(scope="module")
def result(settings, digits):
    return train(RUNS["S7/s7_dropout"], digits, settings, seeds=2)


def test_all_files_and_figures_are_there(result, settings):
    assert result.folder == settings.home / "results" / "_smoke-digits" / "S7" / "s7_dropout"
    assert {path.name for path in result.folder.iterdir()} == FILES
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics.keys() >= KEYS
    assert metrics == result.metrics
    assert len(metrics["requirements"]) == 10
    assert metrics["test_images"] == 360
    log = (result.folder / "log.txt").read_text()
    assert log.count("\n") == metrics["epochs"] == len(pd.read_csv(result.folder / "history.csv"))


def test_the_accuracy_is_that_of_the_weights_on_disk_in_float32(result, digits):
    model = build("s7_dropout")
    model.load_state_dict(load_file(result.folder / "model.safetensors"))
    model.eval()
    images = digits.normalise(torch.from_numpy(digits.test_images).permute(0, 3, 1, 2))
    with torch.inference_mode():
        right = model(images).argmax(1).numpy() == digits.test_labels
    assert result.metrics["test_accuracy"] == pytest.approx(100 * right.mean(), abs=1e-9)
    by_class = result.metrics["class_accuracy"]
    assert by_class["3"] == pytest.approx(100 * right[digits.test_labels == 3].mean())


def test_a_class_without_test_images_has_no_accuracy(digits):
    few = dataclasses.replace(
        digits, test_images=digits.test_images[:3], test_labels=np.array([4, 7, 4])
    )
    logits = np.eye(10)[[4, 7, 5]]
    assert evaluation.class_accuracy(logits, few) == {"4": 50, "7": 100}


def test_convolutions_are_kept_in_half_precision_and_the_rest_in_full(result):
    weights = load_file(result.folder / "model.safetensors")
    modules = dict(build("s7_dropout").named_modules())
    for name, value in weights.items():
        module = modules[name.rpartition(".")[0]]
        floating = torch.half if isinstance(module, nn.Conv2d) else torch.float
        assert value.dtype == (torch.long if name.endswith("batches_tracked") else floating)


class Normalised(nn.Conv2d):
    """A convolution with its normalisation inside."""

    def __init__(self):
        super().__init__(3, 10, 3)
        self.norm = nn.BatchNorm2d(10)


def test_what_a_convolution_holds_besides_its_own_is_kept_in_full():
    kept = results.safetensors.load(results.weight_bytes(nn.Sequential(Normalised())))
    halved = {name for name, values in kept.items() if values.dtype == torch.half}
    assert halved == {"0.weight", "0.bias"}


def test_seeds_are_all_recorded_and_the_first_one_speaks(result):
    seeds = result.metrics["seeds"]
    assert [row["seed"] for row in seeds] == [0, 1]
    figures = [row["test_accuracy"] for row in seeds]
    assert result.metrics["test_accuracy"] == figures[0]
    assert result.metrics["test_accuracy_mean"] == pytest.approx(np.mean(figures))
    assert result.metrics["test_accuracy_std"] == pytest.approx(np.std(figures, ddof=1))


def test_reuse_loads_the_run_without_training(result, digits, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.runs.conductor.fit", None)
    shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    reusing = Settings(SMOKE, "digits", reuse=True, home=tmp_path)
    again = train(RUNS["S7/s7_dropout"], digits, reusing)
    assert again.metrics == result.metrics
    columns = [pd.DataFrame(r.history.rows) for r in (again, result)]
    pd.testing.assert_frame_equal(*columns, rtol=1e-12)
    assert again.history.learning_rates == pytest.approx(result.history.learning_rates)
    assert np.allclose(again.logits, result.logits, atol=1e-5)
    printed = capsys.readouterr().out
    assert "trained on" in printed
    assert (result.folder / "log.txt").read_text() in printed
    assert "_smoke-digits" in str(again.folder), "what is drawn now must not replace what is kept"


def test_reuse_finds_the_run_where_there_are_figures_drawn_before(
    result, digits, tmp_path, monkeypatch
):
    """As in Drive, where a first notebook with REUSE=1 left nothing but its figures."""
    shutil.copytree(result.folder, tmp_path / "kept" / "results" / "S7" / "s7_dropout")
    monkeypatch.setattr("helpers.runs.conductor.ROOT", tmp_path / "kept")
    (tmp_path / "drive" / "results" / "S7" / "s7_dropout").mkdir(parents=True)
    reusing = Settings(SMOKE, "digits", reuse=True, home=tmp_path / "drive")
    assert train(RUNS["S7/s7_dropout"], digits, reusing).metrics == result.metrics


def test_reuse_of_a_run_on_other_data_is_a_clear_error(result, digits, tmp_path):
    shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    reusing = Settings(SMOKE, "digits", reuse=True, home=tmp_path)
    other = dataclasses.replace(digits, title="CIFAR-10")
    with pytest.raises(ValueError, match=r"digits.*the data here is CIFAR-10: take"):
        train(RUNS["S7/s7_dropout"], other, reusing)


def test_reuse_of_nothing_is_a_clear_error(tmp_path, digits):
    reusing = Settings(SMOKE, "digits", reuse=True, home=tmp_path)
    run = dataclasses.replace(RUNS["S7/s7"], name="S7/never_trained")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*REUSE=0"):
        train(run, digits, reusing)


def test_an_edited_forward_is_trained_afresh(tmp_path, digits, monkeypatch, capsys):
    class Mine(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Edited(Mine):
        def forward(self, x):
            return super().forward(x).neg()

    Edited.__name__ = "Mine"
    run = dataclasses.replace(RUNS["S7/s7"], name="S7/mine", net="mine", published=None)
    for network, afresh in ((Mine, False), (Mine, False), (Edited, True)):
        monkeypatch.setitem(MODELS, "mine", network)
        train(run, digits, Settings(SMOKE, "digits", home=tmp_path))
        assert ("another network" in capsys.readouterr().out) == afresh


@pytest.mark.parametrize("name", RUNS)
def test_the_full_profile_is_the_recipe_itself(name):
    assert shortened(RUNS[name].recipe, FULL, 50_000) == RUNS[name].recipe


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("profile", "images"), [("quick", 900), ("smoke", 32)])
def test_short_profiles_keep_the_shape_of_the_cycle(name, profile, images):
    recipe, part = RUNS[name].recipe, PROFILES[profile]
    short = shortened(recipe, part, images)
    assert short.epochs == part.epochs
    assert images / short.batch_size >= 16
    assert short.peak_epoch / short.epochs == pytest.approx(recipe.peak_epoch / recipe.epochs)
    smaller = short.batch_size / recipe.batch_size
    by = smaller**0.5 if recipe.optimizer == "AdamW" else smaller
    assert short.max_lr == pytest.approx(recipe.max_lr * by)


def test_a_test_accuracy_is_over_all_test_images(digits):
    def cifar10(images):
        empty = np.zeros((0, 32, 32, 3), np.uint8)
        labels = np.zeros(images, np.int64)
        return ImageData("cifar10", "CIFAR-10", ("a",) * 10, empty, labels[:0], empty, labels)

    assert evaluation.test_accuracy(np.eye(10)[np.zeros(10_000, int)], cifar10(10_000)) == 100
    with pytest.raises(ValueError, match="316 predictions for 10000"):
        evaluation.test_accuracy(np.zeros((316, 10)), cifar10(10_000))
    for images in (316, 50_000):  # a subset, and the training images
        with pytest.raises(ValueError, match=f"{images} test images, but CIFAR-10 has 10,000"):
            evaluation.test_accuracy(np.zeros((images, 10)), cifar10(images))
        with pytest.raises(ValueError, match="CIFAR-10 has 10,000"):
            fit(build("s7"), cifar10(images), None, RUNS["S7/s7"].recipe)


def test_prediction_leaves_the_mode_alone(digits):
    model = build("s7_dropout").train()
    evaluation.predict(model, digits, digits.test_images[:20])
    assert model.training
    assert len(evaluation.predict(model, digits, digits.test_images[:0])) == 0
    frozen = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    evaluation.predict(model, digits, digits.test_images[:20])
    assert model.training
    assert not frozen.training


def test_prediction_is_in_float32(digits, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen, model = [], build("s7_dropout")
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    assert evaluation.predict(model, digits, digits.test_images[:20]).dtype == torch.float32
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32, "training goes on as before"


def test_flip_tta_adds_the_mirror_images_logits(result, digits):
    mirrored = np.ascontiguousarray(digits.test_images[:, :, ::-1])
    both = result.logits + evaluation.predict(result.model, digits, mirrored).numpy()
    expected = 100 * np.mean(both.argmax(1) == digits.test_labels)
    assert result.metrics["test_accuracy_flip_tta"] == pytest.approx(expected, abs=1e-9)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    results.write(path, "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        results.write(path, "new")
    assert path.read_text() == "old"


def test_a_run_that_is_conducted_again_keeps_its_further_seeds(result, settings, digits, tmp_path):
    home = shutil.copytree(settings.home, tmp_path / "home")
    again = dataclasses.replace(settings, home=home)
    kept = train(RUNS["S7/s7_dropout"], digits, again).metrics
    assert kept["seeds"] == result.metrics["seeds"]
    assert kept["test_accuracy_mean"] == result.metrics["test_accuracy_mean"]
    file = again.results("digits") / "S7" / "s7_dropout" / "metrics.json"
    file.write_text(json.dumps(kept | {"weights_sha256": "another network's"}))
    alone = train(RUNS["S7/s7_dropout"], digits, again).metrics
    assert [of_seed["seed"] for of_seed in alone["seeds"]] == [0]


def test_a_transform_is_known_again_whatever_its_functions_addresses(digits):
    def transform(mean):
        return A.Compose([A.Lambda(image=lambda image, **_: image, name="same")])

    run, kept = dataclasses.replace(RUNS["S7/s7"], transform=transform), []
    for _ in range(2):
        kept.append(transform(None))  # so that addresses differ
        kept.append(fingerprint(run, 0, digits))
    assert kept[1] == kept[3]
    assert str(kept[0]) != str(kept[2])
    of_windows = "<function f at 0x000001E0B8A0F4D0>"
    assert without_addresses(of_windows) == "<function f>"


SLOPE, NOISE, START, KERNEL, TRAINED = 0.1, 0.1, 1e-6, [1.0, 2.0, 1.0, 0.0], True


def activated(x):
    return nn.functional.leaky_relu(x, SLOPE)


def noisy(x):
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
    def turned(x):
        return x

    def forward(self, x):
        if self.training:
            x = self.turned(noisy(x))
        x = activated(self.conv(x)) * (self.gamma * self.kernel)[:, None, None]
        return self.fc(self.SCALE * x.mean((2, 3)))


class Child(Base):
    pass


def doubled(self, x):
    return 2 * self.fc(activated(self.conv(x)).mean((2, 3)))


@pytest.fixture
def child(monkeypatch):
    monkeypatch.setitem(MODELS, "s7", Child)


@pytest.mark.parametrize(
    "edit",
    [
        {"SLOPE": 0.2},
        {"activated": nn.functional.gelu},
        {"Base.SCALE": 2},
        {"Base.forward": doubled},
        {"START": 1.0},
        {"KERNEL": [1.0, 0.0, 1.0, 0.0]},
        {"TRAINED": False},
        {"NOISE": 0.2},
        {"noisy": nn.functional.dropout},
        {"Base.turned": staticmethod(lambda x: x.mT)},
    ],
    ids=[
        "constant", "function", "attribute", "base class", "initial value", "buffer", "frozen",
        "constant in training only", "function in training only", "method in training only",
    ],
)  # fmt: skip
def test_an_edited_network_is_another_wherever_the_edit_is(edit, child, digits, monkeypatch):
    before = fingerprint(RUNS["S7/s7"], 0, digits)
    assert before == fingerprint(RUNS["S7/s7"], 0, digits)
    for place, value in edit.items():
        monkeypatch.setattr(f"tests.test_results.{place}", value)
    after = fingerprint(RUNS["S7/s7"], 0, digits)
    assert [name for name in before if before[name] != after[name]] == ["network"]


ROUTES = [
    lambda net, x: (u := net.a(x)) + net.b(u),
    lambda net, x: (u := net.a(x)) + net.a(u),
    lambda net, x: (u := net.b(x)) + net.a(u),
    lambda net, x: net.a(x) + net.b(x),
    lambda net, x: x + net.b(net.a(x)),
]


class Routed(nn.Module):
    def __init__(self, route, kernel):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 10)
        self.register_buffer("kernel", torch.tensor(kernel))
        self.route = route

    def forward(self, x):
        return self.fc(self.kernel * self.route(self, x).mean((2, 3)))


def test_networks_of_the_same_calls_and_shapes_are_told_by_what_goes_where():
    made = [(route, [1.0, 0.0, 0.0]) for route in ROUTES] + [(ROUTES[0], [0.0, 0.0, 1.0])]
    found = [[str(traits(partial(Routed, *each))) for each in made] for _ in range(2)]
    assert found[0] == found[1]
    assert len({*found[0]}) == len(made)


def test_a_network_stays_the_same_in_another_version_of_pytorch(digits, monkeypatch):
    before = fingerprint(RUNS["S7/s7"], 0, digits)
    monkeypatch.setattr(nn.BatchNorm2d, "extra_repr", lambda self: "written otherwise")
    monkeypatch.setattr(nn.BatchNorm2d, "_check_input_dim", lambda self, x: x.ndim == 4)
    assert before == fingerprint(RUNS["S7/s7"], 0, digits)


def test_a_network_that_leaves_something_to_chance_is_known_again(child, digits, monkeypatch):
    def forward(self, x):
        x = torch.rand(1).item() * np.random.rand() * nn.functional.dropout(x, random.random())
        return Base.forward(self, x)

    monkeypatch.setattr(Child, "forward", forward)
    assert fingerprint(RUNS["S7/s7"], 0, digits) == fingerprint(RUNS["S7/s7"], 0, digits)


@pytest.mark.parametrize("part", ["train_images", "train_labels", "test_images", "test_labels"])
def test_data_that_was_corrected_is_other_data(part, digits):
    values = getattr(digits, part).copy()
    values.flat[[0, -1]] = values.flat[[-1, 0]]  # the same mean, the same number
    values.flat[0] += values.flat[0] == values.flat[-1]
    corrected = dataclasses.replace(digits, **{part: values})
    before, after = (fingerprint(RUNS["S7/s7"], 0, data) for data in (digits, corrected))
    assert [name for name in before if before[name] != after[name]] == ["data"]


def test_a_transform_without_a_name_trains(digits, tmp_path):
    run = dataclasses.replace(
        RUNS["S7/s7_dropout"], name="S7/partial", transform=partial(RUNS["S7/s7"].transform)
    )
    metrics = train(run, digits, Settings(SMOKE, "digits", home=tmp_path)).metrics
    assert [name for name, _ in metrics["augmentation"]] == ["HorizontalFlip", "Pad", "RandomCrop"]


def test_reuse_of_a_network_that_is_not_known_yet_says_so(result, digits, tmp_path):
    folder = shutil.copytree(result.folder, tmp_path / "results" / "S7" / "s7_dropout")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"net": "mine"}))
    reusing = Settings(SMOKE, "digits", reuse=True, home=tmp_path)
    with pytest.raises(ValueError, match=r"^network=mine is unknown; it is one of s7"):
        train(RUNS["S7/s7_dropout"], digits, reusing)


def test_what_is_not_there_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*metrics\.json: train the run"):
        results.metrics_of(tmp_path)
