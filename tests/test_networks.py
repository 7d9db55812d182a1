"""Networks of any style train, or are refused before the first step in one line."""

import dataclasses
import json
import sys

import albumentations as A
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm
from torchvision import transforms

from helpers import devices, models
from helpers.images import data as data_module
from helpers.models import MODELS, build
from helpers.runs import results
from helpers.runs.catalogue import RUNS
from helpers.runs.conductor import train
from helpers.settings import Profile, Settings
from tracing.order import executed
from upkeep.networks import named

BRIEF = Profile("smoke", train_images=64, epochs=1)


@pytest.fixture(scope="module")
def digits():
    whole = data_module.digits()
    few = {"test_images": whole.test_images[:40], "test_labels": whole.test_labels[:40]}
    return dataclasses.replace(whole.first(64), **few)


def pooled(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))


class Forward(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def flattened(net, x):
    x = F.relu(net.conv(x))
    return net.fc(x.view(x.size(0), -1))


def tied():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[2].weight = net[1].weight
    return pooled(net)


def twice(net, x):
    x = net.same(F.relu(net.same(net.first(x))))
    return net.last(x.mean((2, 3)))


def warped(net, x):
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)
    return net.conv(F.grid_sample(x, grid, align_corners=False)).mean((2, 3))


def listed(net, x):
    return net.last(net.parts([x, {"image": x}])).mean((2, 3))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, values):
        return self.conv(values[1]["image"])


class Scales(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(3)), nn.Linear(3072, 10)

    def forward(self, x):
        return self.fc((self.scale[:, None, None] * x).flatten(1))


class Ghosts(nn.Module):
    """Two images are too few for it in training."""

    def __init__(self):
        super().__init__()
        self.mean = nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        if self.training:
            x.register_hook(torch.nan_to_num)
            parts = x.reshape(-1, 4, *x.shape[1:])
            return torch.cat([self.mean(part) for part in parts])
        return self.mean(x)


STYLES = {
    "view of whole maps": lambda: Forward(
        flattened, conv=nn.Conv2d(3, 4, 3, stride=4), fc=nn.Linear(4 * 8 * 8, 10)
    ),
    "log_softmax": lambda: nn.Sequential(pooled(nn.Conv2d(3, 8, 3)), nn.LogSoftmax(dim=1)),
    "first convolution of 1x1": lambda: pooled(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)),
    "of 5x5 and stride 2, with bias": lambda: pooled(nn.Conv2d(3, 8, 5, stride=2)),
    "dilated": lambda: pooled(nn.Conv2d(3, 8, 3, dilation=2)),
    "grouped": lambda: pooled(nn.Conv2d(3, 9, 3, groups=3), nn.Conv2d(9, 8, 3)),
    "no convolution": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
    "pixels unshuffled first": lambda: pooled(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)),
    "defined in another order": lambda: Forward(
        lambda net, x: net.a(net.b(x).mean((2, 3))), a=nn.Linear(8, 10), b=nn.Conv2d(3, 8, 3)
    ),
    "lazy": lambda: pooled(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()),
    "used twice": lambda: Forward(
        twice, first=nn.Conv2d(3, 8, 3), same=nn.Conv2d(8, 8, 3), last=nn.Linear(8, 10)
    ),
    "tied weights": tied,
    "weight_norm": lambda: pooled(parametrizations.weight_norm(nn.Conv2d(3, 8, 3))),
    "lists and dicts between modules": lambda: Forward(
        listed, parts=Parts(), last=nn.Conv2d(8, 10, 1)
    ),
    "spectral_norm": lambda: pooled(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))),
    "a parameter seen in another shape": Scales,
    "batch normalisation of parts of a batch": lambda: pooled(nn.Conv2d(3, 8, 3), Ghosts()),
    "same padding": lambda: pooled(nn.Conv2d(3, 8, (7, 1), padding="same")),
    "not to be understood": lambda: Forward(warped, conv=nn.Conv2d(3, 10, 3)),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
def test_it_trains_goes_on_and_is_kept(style, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "mine", STYLES[style])
    run = dataclasses.replace(RUNS["S7/s7"], name="S7/mine", net="mine", published=None)
    settings = Settings(BRIEF, "digits", home=tmp_path)
    first = train(run, digits, settings)
    again = train(run, digits, settings)
    assert "Nothing left to train after epoch 1 of 1" in capsys.readouterr().out
    assert again.history.rows == first.history.rows
    reused = results.load(first.folder, digits)
    assert reused.logits.tolist() == again.logits.tolist()
    assert reused.metrics["test_accuracy"] == first.metrics["test_accuracy"]


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions, self.fc = [nn.Conv2d(3, 8, 3)], nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.convolutions[0](x).mean((2, 3)))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.fc = torch.ones(5, 1, 1, 1, requires_grad=True), nn.Linear(3072, 10)

    def forward(self, x):
        return self.fc((self.scale[0] * x).flatten(1))


@pytest.mark.parametrize(
    ("network", "shape"), [(InAList, r"\(8, 3, 3, 3\)"), (Scaled, r"\(5, 1, 1, 1\)")]
)
def test_weights_that_would_not_be_trained_are_refused(network, shape):
    said = f"{network.__name__} uses weights of shape {shape} that .*nn.Parameter"
    with pytest.raises(ValueError, match=said):
        models.checked(network())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_table_that_fails_is_said_before_training_and_all_else_is_kept(
    digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(MODELS, "mine", STYLES["not to be understood"])
    run = dataclasses.replace(RUNS["S7/s7"], name="S7/mine", net="mine", published=None)
    result = train(run, digits, Settings(BRIEF, "digits", home=tmp_path))
    lines = capsys.readouterr().out.splitlines()
    missing = [line for line in lines if "no receptive_field.csv: NotUnderstoodError" in line]
    assert lines.index(missing[0]) < next(i for i, x in enumerate(lines) if x.startswith("epoch"))
    kept = {file.name for file in result.folder.iterdir()}
    assert {"model.safetensors", "history.csv", "metrics.json", "summary.txt"} <= kept
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["receptive_field"] == {}
    assert metrics["params"] == 280
    assert [row["demand"] for row in metrics["requirements"]] == [
        "runs on the GPU", "test accuracy >= 80 %"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), r"gives \(2, 1\) float32"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 100)), r"gives \(2, 100\) float32"),
        (lambda: nn.Conv2d(3, 10, 3), r"gives \(2, 10, 30, 30\) float32"),
        (lambda: pooled(nn.Conv2d(3, 8, 3)).double(), "raises RuntimeError"),
        (lambda: pooled(nn.Conv2d(3, 8, 3)).half(), "raises RuntimeError"),
        (lambda: Forward(lambda net, x: (x, x)), "gives a tuple"),
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 3)), "raises RuntimeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
def test_what_is_no_classifier_of_such_images_is_refused_in_one_line(network, found, monkeypatch):
    monkeypatch.setitem(MODELS, "mine", network)
    expected = r"^a network maps images \(N, 3, 32, 32\) to logits \(N, 10\), both float32; \w+ "
    with pytest.raises(ValueError, match=expected + found) as error:
        build("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ("import nothing_of_that_name", "net.py:Net", "cannot be built: ModuleNotFoundError"),
        ("raise SystemExit(3)", "net.py:Net", "cannot be built: SystemExit"),
        ("x = ", "net.py:Net", "cannot be built: SyntaxError"),
        ("", "net.py:Net", "has no attribute 'Net'"),
        ("class Net:\n    pass", "net.py:Net", "gives a Net; expected a torch.nn.Module"),
        ("class Net:\n    def __init__(self, width):\n        pass", "net.py:Net", "TypeError"),
        ("", "other.py:Net", "there is no such file; expected FILE.py:CLASS"),
    ],
)
def test_a_file_that_gives_no_network_is_named(content, place, said, tmp_path):
    (tmp_path / "net.py").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        named(f"{tmp_path}/{place}")
    assert place in str(error.value)


def test_a_network_from_a_file_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_net.py").write_text("WIDTH = 7")
    (tmp_path / "net.py").write_text(
        "from beside_net import WIDTH\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, WIDTH), nn.Linear(WIDTH, 10))\n"
    )
    assert named(f"{tmp_path}/net.py:Net")[1].out_features == 7


def test_old_weight_norm_keeps_its_weights():
    make = lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 10, 32)), nn.Flatten())  # noqa: E731
    first, second = make(), make()
    kept = results.safetensors.load(results.weight_bytes(first))
    second.load_state_dict(kept)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(first(images), second(images), atol=1e-2)


def test_layers_are_told_in_the_order_of_their_execution():
    net = STYLES["defined in another order"]()
    assert executed(net) == [net, net.b, net.a]


def test_images_are_laid_out_as_the_weights_are():
    place = torch.device("cpu")
    last = devices.placed(build("s7_dropout"), place)
    plain = devices.placed(STYLES["view of whole maps"](), place)
    images = torch.rand(2, 3, 32, 32)
    assert devices.laid_out(images, last).is_contiguous(memory_format=torch.channels_last)
    assert devices.laid_out(images, plain).is_contiguous()


STUDENT = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from blocks import WIDTH
from parts.heads import BIAS


@dataclass
class Sizes:
    width: int


class Net(nn.Sequential):
    def __init__(self):
        conv = nn.Conv2d(3, Sizes(WIDTH).width, 3, bias=BIAS)
        super().__init__(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
"""


def test_a_file_imports_from_beside_it_and_nobody_elses(tmp_path):
    counts = {}
    for name, width, bias in (("ann", 8, True), ("bob", 50, False)):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "net.py").write_text(STUDENT)
        (tmp_path / name / "blocks.py").write_text(f"WIDTH = {width}")
        (tmp_path / name / "parts" / "heads.py").write_text(f"BIAS = {bias}")
        net = named(f"{tmp_path}/{name}/net.py:Net")
        counts[name] = sum(p.numel() for p in net.parameters())
    assert counts == {"ann": 28 * 8 + 90, "bob": 27 * 50 + 510}
    assert not {"blocks", "parts", "parts.heads"} & sys.modules.keys()
    assert str(tmp_path / "ann") not in sys.path


@pytest.mark.parametrize(
    "change",
    [
        "torch.set_default_dtype(torch.float64)",
        "torch.set_default_device('meta')",
        "torch.set_grad_enabled(False)",
        "import os; os.chdir('/')",
        "import sys; sys.path.insert(0, '/elsewhere')",
    ],
)
def test_a_file_changes_nothing_for_those_after_it(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocks.py").write_text("WIDTH = 8")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "heads.py").write_text("BIAS = True")
    (tmp_path / "net.py").write_text(STUDENT)
    (tmp_path / "rude.py").write_text(f"import torch\n{change}\nNet = None")
    with pytest.raises(ValueError, match=r"rude.py:Net cannot be built"):
        named("rude.py:Net")
    assert torch.is_grad_enabled()
    assert "/elsewhere" not in sys.path
    assert {p.device.type for p in named("net.py:Net").parameters()} == {"cpu"}


def test_what_cannot_be_recorded_is_refused_before_training(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.runs.conductor.fit", None)  # which nobody may come to
    settings, run = Settings(BRIEF, "digits", home=tmp_path), RUNS["S7/s7"]
    with pytest.raises(ValueError, match="notebook=Mine is unknown"):
        train(dataclasses.replace(run, name="Mine/wide"), digits, settings)
    of_torchvision = transforms.Compose([transforms.RandomHorizontalFlip()])
    for transform in (None, lambda image: {"image": image}, A.HorizontalFlip(), of_torchvision):
        with pytest.raises(TypeError, match=r"must be an albumentations.Compose\(\[...\]\), not "):
            train(dataclasses.replace(run, transform=lambda _, t=transform: t), digits, settings)


def test_on_a_mac_no_network_is_channels_last(monkeypatch):
    """PyTorch's gradients of it were wrong there."""
    model, asked = build("s7"), []
    monkeypatch.setattr(nn.Module, "to", lambda self, *place, **form: asked.append(form) or self)
    assert devices.placed(model, torch.device("mps")) is model
    assert asked == [{}]
