"""Models of any style train, or are refused before the first step with one clear line."""

import dataclasses
import json
import sys

import albumentations as A
import numpy as np
import pytest
import torch
from safetensors import torch as safetensors
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm
from torchvision import transforms

from helpers import data as data_module
from helpers import device, models, results
from helpers.config import Profile, Settings
from helpers.experiments import EXPERIMENTS, run_experiment
from helpers.inspection.fingerprint import execution_order
from helpers.model_checker import load_named_model
from helpers.models import MODELS, get_model

ONE_EPOCH = Profile("smoke", train_images=64, epochs=1)


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(64, 40)


def classifier(*layers):
    """Return the layers with a global average pooling and a linear layer after them."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))


class CustomForward(nn.Module):
    """A model with the given modules whose forward is the given function of the model and x."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def flatten_feature_maps(net, x):
    x = F.relu(net.conv(x))
    return net.fc(x.view(x.size(0), -1))


def tied_weights():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[2].weight = net[1].weight
    return classifier(net)


def use_twice(net, x):
    x = net.same(F.relu(net.same(net.first(x))))
    return net.last(x.mean((2, 3)))


def sample_grid(net, x):
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)
    return net.conv(F.grid_sample(x, grid, align_corners=False)).mean((2, 3))


def pass_list(net, x):
    return net.last(net.nested([x, {"image": x}])).mean((2, 3))


class NestedInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, values):
        return self.conv(values[1]["image"])


class InputScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(3)), nn.Linear(3072, 10)

    def forward(self, x):
        return self.fc((self.scale[:, None, None] * x).flatten(1))


class GhostBatchNorm(nn.Module):
    """Batch normalization of four images at a time; in training, batches of two fail."""

    def __init__(self):
        super().__init__()
        self.mean = nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        if self.training:
            x.register_hook(torch.nan_to_num)
            groups = x.reshape(-1, 4, *x.shape[1:])
            return torch.cat([self.mean(group) for group in groups])
        return self.mean(x)


STYLES = {
    "view of feature maps": lambda: CustomForward(
        flatten_feature_maps, conv=nn.Conv2d(3, 4, 3, stride=4), fc=nn.Linear(4 * 8 * 8, 10)
    ),
    "log_softmax": lambda: nn.Sequential(classifier(nn.Conv2d(3, 8, 3)), nn.LogSoftmax(dim=1)),
    "1x1 convolution first": lambda: classifier(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)),
    "5x5 of stride 2 with bias first": lambda: classifier(nn.Conv2d(3, 8, 5, stride=2)),
    "dilated": lambda: classifier(nn.Conv2d(3, 8, 3, dilation=2)),
    "grouped": lambda: classifier(nn.Conv2d(3, 9, 3, groups=3), nn.Conv2d(9, 8, 3)),
    "no convolution": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
    "pixels unshuffled first": lambda: classifier(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)),
    "modules defined in another order": lambda: CustomForward(
        lambda net, x: net.a(net.b(x).mean((2, 3))), a=nn.Linear(8, 10), b=nn.Conv2d(3, 8, 3)
    ),
    "lazy": lambda: classifier(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()),
    "used twice": lambda: CustomForward(
        use_twice, first=nn.Conv2d(3, 8, 3), same=nn.Conv2d(8, 8, 3), last=nn.Linear(8, 10)
    ),
    "tied weights": tied_weights,
    "weight_norm": lambda: classifier(parametrizations.weight_norm(nn.Conv2d(3, 8, 3))),
    "lists and dicts between modules": lambda: CustomForward(
        pass_list, nested=NestedInput(), last=nn.Conv2d(8, 10, 1)
    ),
    "spectral_norm": lambda: classifier(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))),
    "a parameter seen in another shape": InputScale,
    "ghost batch normalization": lambda: classifier(nn.Conv2d(3, 8, 3), GhostBatchNorm()),
    "same padding": lambda: classifier(nn.Conv2d(3, 8, (7, 1), padding="same")),
    "receptive field not known": lambda: CustomForward(sample_grid, conv=nn.Conv2d(3, 10, 3)),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
def test_a_model_of_any_style_trains_resumes_and_is_saved(
    style, sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(MODELS, "mine", STYLES[style])
    experiment = dataclasses.replace(
        EXPERIMENTS["S7/s7"], name="S7/mine", model="mine", reference_accuracy=None
    )
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    first = run_experiment(experiment, sample, settings)
    again = run_experiment(experiment, sample, settings)
    assert "Nothing left to train after epoch 1 of 1" in capsys.readouterr().out
    assert again.history.epochs == first.history.epochs
    reused = results.load_result(first.folder, sample)
    shifted = again.logits - again.logits.max(axis=1, keepdims=True)
    assert reused.logits.tolist() == shifted.astype(np.float16).tolist()
    assert reused.metrics["test_accuracy"] == first.metrics["test_accuracy"]


class PythonList(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions, self.fc = [nn.Conv2d(3, 8, 3)], nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.convolutions[0](x).mean((2, 3)))


class PlainTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.fc = torch.ones(5, 1, 1, 1, requires_grad=True), nn.Linear(3072, 10)

    def forward(self, x):
        return self.fc((self.scale[0] * x).flatten(1))


@pytest.mark.parametrize(
    ("model_class", "shape"), [(PythonList, r"\(8, 3, 3, 3\)"), (PlainTensor, r"\(5, 1, 1, 1\)")]
)
def test_weights_that_would_not_be_trained_are_refused(model_class, shape):
    message = f"{model_class.__name__} uses weights of shape {shape} that .*nn.Parameter"
    with pytest.raises(ValueError, match=message):
        models.validate_model(model_class())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_table_that_fails_is_reported_before_training_and_all_else_is_saved(
    sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(MODELS, "mine", STYLES["receptive field not known"])
    experiment = dataclasses.replace(
        EXPERIMENTS["S7/s7"], name="S7/mine", model="mine", reference_accuracy=None
    )
    result = run_experiment(experiment, sample, Settings(ONE_EPOCH, "sample", output_dir=tmp_path))
    lines = capsys.readouterr().out.splitlines()
    missing = [line for line in lines if "no receptive_field.csv: NotUnderstoodError" in line]
    assert lines.index(missing[0]) < next(i for i, x in enumerate(lines) if x.startswith("epoch"))
    saved = {file.name for file in result.folder.iterdir()}
    assert {"model.safetensors", "history.csv", "metrics.json", "summary.txt"} <= saved
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["receptive_field"] == {}
    assert metrics["params"] == 280
    assert [row["requirement"] for row in metrics["requirements"]] == [
        "runs on the GPU", "test accuracy >= 80 %"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make_model", "problem"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), r"gives \(2, 1\) float32"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 100)), r"gives \(2, 100\) float32"),
        (lambda: nn.Conv2d(3, 10, 3), r"gives \(2, 10, 30, 30\) float32"),
        (lambda: classifier(nn.Conv2d(3, 8, 3)).double(), "raises RuntimeError"),
        (lambda: classifier(nn.Conv2d(3, 8, 3)).half(), "raises RuntimeError"),
        (lambda: CustomForward(lambda net, x: (x, x)), "gives a tuple"),
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 3)), "raises RuntimeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
def test_a_model_of_other_shapes_or_dtypes_is_refused(make_model, problem, monkeypatch):
    monkeypatch.setitem(MODELS, "mine", make_model)
    expected = r"^a network maps images \(N, 3, 32, 32\) to logits \(N, 10\), both float32; \w+ "
    with pytest.raises(ValueError, match=expected + problem) as error:
        get_model("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("import nothing_of_that_name", "net.py:Net", "cannot be built: ModuleNotFoundError"),
        ("raise SystemExit(3)", "net.py:Net", "cannot be built: SystemExit"),
        ("x = ", "net.py:Net", "cannot be built: SyntaxError"),
        ("def net():\n    pass", "net.py:Net", "no such class; its classes and functions are: net"),
        ("class Net:\n    pass", "net.py:Net", "gives a Net; expected a torch.nn.Module"),
        ("class Net:\n    def __init__(self, width):\n        pass", "net.py:Net", "TypeError"),
        ("", "other.py:Net", "there is no such file; expected FILE.py, FILE.py:CLASS"),
        ("", "net.py:Net(width=wide)", "the arguments .width=wide. are not understood"),
        ("", "net.py:Net(3", "there is no such file"),
        ("", "net.py", "no class gives .N, 10. without arguments; .* functions are: none"),
    ],
)
def test_a_file_without_a_model_is_named(content, name, message, tmp_path):
    (tmp_path / "net.py").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_named_model(f"{tmp_path}/{name}")
    assert name in str(error.value)


def test_a_file_imports_modules_of_its_folder(tmp_path):
    (tmp_path / "beside_net.py").write_text("WIDTH = 7")
    (tmp_path / "net.py").write_text(
        "from beside_net import WIDTH\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, WIDTH), nn.Linear(WIDTH, 10))\n"
    )
    assert load_named_model(f"{tmp_path}/net.py:Net")[1].out_features == 7


CLASSES = """
import torch
from torch import nn

dropout = 0.1
WIDTH: int = 8

class Block(nn.Sequential):
    def __init__(self, nin=3, nout=8):
        super().__init__(nn.Conv2d(nin, nout, 3), nn.ReLU())

class Net(nn.Sequential):
    def __init__(self, width=8, *, norm="bn"):
        layers = [nn.BatchNorm2d(width)] if norm == "bn" else []
        super().__init__(
            Block(3, width), *layers, nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 10),
        )
"""


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_class_whose_output_has_ten_values_is_found(tmp_path, capsys):
    (tmp_path / "net.py").write_text(f"{CLASSES}\nprint('trains for hours')")
    assert count(load_named_model(f"{tmp_path}/net.py")) == 28 * 8 + 16 + 90
    assert capsys.readouterr().out == ""
    (tmp_path / "two.py").write_text(f"{CLASSES}\nclass Other(Net):\n    pass")
    with pytest.raises(ValueError, match=r"several networks: choose one, .*py:Net or :Other"):
        load_named_model(f"{tmp_path}/two.py")
    (tmp_path / "wants.py").write_text(CLASSES.replace("width=8", "width"))
    with pytest.raises(ValueError, match=r"Net \(TypeError: .*'width'\); its .*: Block, Net$"):
        load_named_model(f"{tmp_path}/wants.py")


def test_a_class_takes_literal_arguments(tmp_path):
    (tmp_path / "net.py").write_text(CLASSES)
    for arguments, width, norm in (("4", 4, 8), ("width=5, norm='none'", 5, 0), ("", 8, 16)):
        model = load_named_model(f"{tmp_path}/net.py:Net({arguments})")
        assert count(model) == 28 * width + norm + 10 * width + 10


def test_a_notebook_is_read_without_its_training(tmp_path):
    sources = [
        "%matplotlib inline\n!pip install nothing\nimport nothing_of_that_name",
        CLASSES,
        "from torch.optim import SGD\nmodel = Net()\nraise SystemExit('trained')",
        "not = Python",
    ]
    cells = [{"cell_type": "code", "source": source.splitlines(True)} for source in sources]
    cells.insert(1, {"cell_type": "markdown", "source": ["text"]})
    (tmp_path / "S9.ipynb").write_text(json.dumps({"cells": cells}))
    for name in ("S9.ipynb", "S9.ipynb:Net", "S9.ipynb:Net(norm='none')"):
        assert count(load_named_model(f"{tmp_path}/{name}")) >= 28 * 8 + 90
    with pytest.raises(ValueError, match=r"left out: ModuleNotFoundError.*; SyntaxError"):
        load_named_model(f"{tmp_path}/S9.ipynb:Mine")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"models/net.py": "from models.block import conv"}, "models/net.py"),
        ({"models/net.py": "from .block import conv", "models/__init__.py": ""}, "models/net.py"),
        ({"models/net.py": "from .block import conv"}, "models/net.py"),
        (
            {"models/deep/net.py": "from ..block import conv", ".git/config": ""},
            "models/deep/net.py",
        ),
        ({"net.py": "from models.block import conv"}, "net.py"),
    ],
)
def test_a_file_imports_from_its_package_and_its_repository(files, name, tmp_path):
    files = {"models/block.py": "from torch import nn\nconv = nn.Conv2d", **files}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    with (tmp_path / name).open("a") as file:
        file.write(
            "\nfrom torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(conv(3, 10, 32), nn.Flatten())\n"
        )
    assert count(load_named_model(str(tmp_path / name))) == 30_730
    assert not {"models", "models.block"} & sys.modules.keys()


def add_in_place(net, x):
    maps = net.conv(x).relu()
    maps += 1
    return maps.mean((2, 3))


def auxiliary_output(net, x):
    logits = net.conv(x).mean((2, 3))
    return (logits, logits) if net.training else logits


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (add_in_place, "cannot be trained: RuntimeError: one of the variables needed for gradient"),
        (auxiliary_output, "cannot be trained: in training mode it gives a tuple, not a tensor"),
        (lambda net, x: net.conv(x).detach().mean((2, 3)), "cannot be trained: RuntimeError"),
    ],
)
def test_a_model_that_cannot_take_a_training_step_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        models.validate_model(CustomForward(function, conv=nn.Conv2d(3, 10, 3)))


def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match=r"is compiled: give the network as it was before"):
        models.validate_model(torch.compile(nn.Conv2d(3, 10, 3)))


def test_a_training_step_leaves_the_model_unchanged():
    model = classifier(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model(torch.zeros(2, 3, 32, 32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    models.validate_model(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_old_weight_norm_keeps_its_weights():
    first = nn.Sequential(weight_norm(nn.Conv2d(3, 10, 32)), nn.Flatten())
    second = nn.Sequential(weight_norm(nn.Conv2d(3, 10, 32)), nn.Flatten())
    second.load_state_dict(safetensors.load(results.serialize_weights(first)))
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(first(images), second(images), atol=1e-2)


def test_modules_are_listed_in_the_order_of_their_execution():
    net = STYLES["modules defined in another order"]()
    assert execution_order(net) == [net, net.b, net.a]


def test_images_have_the_memory_format_of_the_weights():
    cpu = torch.device("cpu")
    channels_last = device.prepare_model(get_model("s7_dropout"), cpu)
    contiguous = device.prepare_model(STYLES["view of feature maps"](), cpu)
    images = torch.rand(2, 3, 32, 32)
    matched = device.match_memory_format(images, channels_last)
    assert matched.is_contiguous(memory_format=torch.channels_last)
    assert device.match_memory_format(images, contiguous).is_contiguous()


MODEL_FILE = """
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


def test_two_files_import_modules_of_the_same_names_from_their_own_folders(tmp_path):
    counts = {}
    for name, width, bias in (("ann", 8, True), ("bob", 50, False)):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "net.py").write_text(MODEL_FILE)
        (tmp_path / name / "blocks.py").write_text(f"WIDTH = {width}")
        (tmp_path / name / "parts" / "heads.py").write_text(f"BIAS = {bias}")
        net = load_named_model(f"{tmp_path}/{name}/net.py:Net")
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
def test_a_file_does_not_change_the_state_for_the_next_file(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocks.py").write_text("WIDTH = 8")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "heads.py").write_text("BIAS = True")
    (tmp_path / "net.py").write_text(MODEL_FILE)
    (tmp_path / "changes_state.py").write_text(f"import torch\n{change}\nNet = None")
    with pytest.raises(ValueError, match=r"changes_state.py:Net cannot be built"):
        load_named_model("changes_state.py:Net")
    assert torch.is_grad_enabled()
    assert "/elsewhere" not in sys.path
    assert {p.device.type for p in load_named_model("net.py:Net").parameters()} == {"cpu"}


def test_an_experiment_that_cannot_be_saved_is_refused_before_training(
    sample, tmp_path, monkeypatch
):
    monkeypatch.setattr("helpers.experiments.fit", None)  # fails if training starts
    settings = Settings(ONE_EPOCH, "sample", output_dir=tmp_path)
    experiment = EXPERIMENTS["S7/s7"]
    with pytest.raises(ValueError, match="notebook=Mine is unknown"):
        run_experiment(dataclasses.replace(experiment, name="Mine/wide"), sample, settings)
    torchvision_transform = transforms.Compose([transforms.RandomHorizontalFlip()])
    for transform in (
        None,
        lambda image: {"image": image},
        A.HorizontalFlip(),
        torchvision_transform,
    ):
        with pytest.raises(TypeError, match=r"must be an albumentations.Compose\(\[...\]\), not "):
            changed = dataclasses.replace(experiment, transform=lambda _, t=transform: t)
            run_experiment(changed, sample, settings)


def test_no_model_is_channels_last_on_mps(monkeypatch):
    """PyTorch's gradients of channels-last convolutions were wrong on MPS."""
    model = get_model("s7")
    options_of_calls = []

    def record_to(self, *args, **options):
        options_of_calls.append(options)
        return self

    monkeypatch.setattr(nn.Module, "to", record_to)
    assert device.prepare_model(model, torch.device("mps")) is model
    assert options_of_calls == [{}]
