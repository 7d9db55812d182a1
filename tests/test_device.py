"""What holds on whatever device trains: here it is the CPU, and with `make gpu` it is the GPU."""

import copy
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import data as data_module
from helpers import device as device_module
from helpers import evaluation, requirements, transforms
from helpers.checkpoints import CheckpointManager
from helpers.evaluation import predict
from helpers.grad_cam import grad_cam
from helpers.inspection.tracer import trace_layers
from helpers.lr_finder import lr_range_test
from helpers.models import MODELS, get_model
from helpers.optim import TrainConfig
from helpers.training import fit, set_seed
from tests.easy_images import easy_images

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(epochs=2, batch_size=64, max_lr=0.1, peak_epoch=0.5, label_smoothing=0.1)


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample().subset(512, 360)


@pytest.fixture
def device():
    return device_module.create_accelerator().device


@pytest.mark.parametrize("net", MODELS)
def test_predictions_are_those_of_the_cpu(net, sample, device):
    torch.manual_seed(0)
    model, images = get_model(net), sample.test_images[:40]
    expected = predict(copy.deepcopy(model), sample, images)
    there = model.to(device, memory_format=torch.channels_last)
    assert torch.allclose(predict(there, sample, images).cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("net", MODELS)
def test_layers_and_demands_are_those_of_the_cpu(net, device):
    model = get_model(net)
    expected = trace_layers(model), requirements.check_model("S9", model)
    found = trace_layers(model.to(device)), requirements.check_model("S9", model)
    assert found[0] == expected[0]
    assert found[1].equals(expected[1])
    assert next(model.parameters()).device == device


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_1x1_convolution_with_padding_stride_and_dilation_is_right_in_half_precision(
    dtype, device
):
    """S9's, whose dilation does nothing: forward, and the gradients of maps and weights."""
    torch.manual_seed(0)
    maps, weights = torch.randn(8, 64, 32, 32), torch.randn(32, 64, 1, 1) / 8
    options = {"stride": 2, "padding": 1, "dilation": 2}
    found = {}
    for where, kind in ((torch.device("cpu"), torch.float64), (device, dtype)):
        given = [
            tensor.to(where, kind).contiguous(memory_format=torch.channels_last).requires_grad_()
            for tensor in (maps, weights)
        ]
        outcome = F.conv2d(*given, **options)
        outcome.square().mean().backward()
        found[kind] = [outcome, *(1e3 * tensor.grad.double() for tensor in given)]
    for expected, got in zip(*found.values(), strict=True):
        apart = (expected - got.double().cpu()).norm() / expected.norm()
        assert apart < 0.02


@pytest.mark.parametrize("optimizer", ["SGD", "Muon", "AdamW"])
def test_training_learns_and_goes_on_from_a_checkpoint(optimizer, sample, tmp_path, capsys):
    rate = 0.003 if optimizer == "AdamW" else 0.1
    config = TrainConfig(**{**vars(CONFIG), "optimizer": optimizer, "max_lr": rate})
    transform = transforms.flip_shift_cutout(sample.mean)
    checkpoint = CheckpointManager(tmp_path / "run.pt", {"run": "s7_dropout"})
    weights = []
    for _ in range(2):
        set_seed(0)
        model = get_model("s7_dropout")
        history = fit(model, sample, transform, config, checkpoint=checkpoint, workers=2)
        weights.append([w.cpu() for w in model.state_dict().values()])
    assert "Nothing left to train after epoch 2 of 2" in capsys.readouterr().out
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    logits = predict(model, sample, sample.test_images).cpu().numpy()
    accuracy = evaluation.test_accuracy(logits, sample)
    assert accuracy == pytest.approx(history.epochs[-1]["test_accuracy"], abs=5)  # in its precision


def test_the_range_test_finds_where_the_loss_falls():
    small = TrainConfig(epochs=9, batch_size=32, max_lr=0.1, peak_epoch=2)
    found = lr_range_test(get_model("s7_dropout"), easy_images(512), None, small, steps=40)
    assert np.isfinite(found["loss"]).all()
    assert found["loss"].min() < 0.95 * found["loss"].iloc[0]


def test_grad_cam_draws(sample, device):
    model = get_model("s7_dropout").to(device).eval()
    layer = next(name for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d))
    heat = grad_cam(model, layer, sample.test_images[:2], np.array([1, 2]), sample)
    assert heat.shape == (2, 32, 32) and heat.dtype == np.float32


def test_the_name_of_a_cpu_tells_two_of_one_vendor_apart(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: X\n"
    )
    assert device_module._cpu_model(cpuinfo) == " (family 26, model 2)"
    cpuinfo.write_text("processor: 0\n")  # as on ARM
    assert device_module._cpu_model(cpuinfo) == ""
    assert device_module._cpu_model(tmp_path / "missing") == ""
    assert re.search(r", \d+ threads?$", device_module.device_name(torch.device("cpu")))
