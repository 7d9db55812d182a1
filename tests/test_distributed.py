"""Several processes train as one: `fit` as on several GPUs or hosts, on two CPU processes."""

import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from helpers.config import ROOT

pytestmark = pytest.mark.slow

LAUNCH = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
    *("--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
]
SMOKE = {"PROFILE": "smoke", "DATASET": "sample", "OMP_NUM_THREADS": "1"}


def launched(*command, **environment):
    return subprocess.run(
        [*LAUNCH, *command], cwd=ROOT, env={**os.environ, **SMOKE, **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


FIT = """
import dataclasses, hashlib, json, pathlib, sys
import torch
sys.path.insert(0, ".")
from helpers import device, evaluation, results, transforms
from helpers.checkpoints import CheckpointManager
from helpers.config import SMOKE, Settings
from helpers.data import load_sample
from helpers.experiments import EXPERIMENTS, find_experiment_lr, run_experiment
from helpers.models import MODELS
from helpers.optim import TrainConfig
from helpers.training import fit, set_seed
from tests.test_training import Tiny

data = load_sample().subset(301, 257)
set_seed(0)
model = Tiny()
device.mixed_precision = lambda _: "no"  # otherwise predictions differ by rounding
accelerator = device.create_accelerator()
config = TrainConfig(epochs=2, batch_size=50, max_lr=0.1, peak_epoch=1)
history = fit(model, data, transforms.flip_shift(data.mean), config, accelerator=accelerator)
state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
logits = evaluation.predict(model, data, data.test_images).numpy()

MODELS["tiny"] = Tiny
experiment = dataclasses.replace(EXPERIMENTS["S7/s7_dropout"], model="tiny")
rank = accelerator.process_index
settings = Settings(SMOKE, "sample", seed=rank, output_dir=pathlib.Path(sys.argv[1]))
experiment, *_ = find_experiment_lr(experiment, data.subset(32), settings)

torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))  # no batch statistics
fit(plain, data.subset(300), None, config, accelerator=accelerator)
measured = {
    "plain": plain[1].weight.flatten()[::100].tolist(),
    "max_lr": experiment.config.max_lr,
    "rank": rank,
    "weights": hashlib.sha256(state).hexdigest(),
    "accuracy_in_log": history.epochs[-1]["test_accuracy"],
    "accuracy": evaluation.test_accuracy(logits, data),
}

results.save_result = lambda result: print("\\nSAVED\\n", flush=True)
CheckpointManager.save = lambda checkpoint, state: print("\\nCHECKPOINT\\n", flush=True)
settings = Settings(SMOKE, "sample", output_dir=pathlib.Path(sys.argv[1]))
run_experiment(EXPERIMENTS["S7/s7_dropout"], data.subset(64), settings)
print("\\nRANK " + json.dumps(measured) + "\\n", flush=True)
"""


def test_ranks_compute_what_one_process_does_and_count_each_of_odd_numbers_of_images_once(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    done = launched(script, tmp_path)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [sys.executable, script, tmp_path], cwd=ROOT, env={**os.environ, **SMOKE},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    [one] = [json.loads(line) for line in re.findall(r"RANK (\{.*?\})", alone.stdout)]
    ranks = [json.loads(line) for line in re.findall(r"RANK (\{.*?\})", done.stdout)]
    assert sorted(rank["rank"] for rank in ranks) == [0, 1]
    assert len({rank["weights"] for rank in ranks}) == 1
    # Though a seed of its own would find another:
    assert len({rank["max_lr"] for rank in ranks}) == 1
    assert all(rank["plain"] == pytest.approx(one["plain"], abs=1e-5) for rank in ranks)
    for rank in ranks:
        assert rank["accuracy_in_log"] == pytest.approx(rank["accuracy"], abs=1e-4)
    said = "2 processes x 25 images a step, learning rate up to 0.1"
    assert done.stdout.count(said) == 2  # a fit each
    assert done.stdout.count("SAVED") == 1
    assert done.stdout.count("CHECKPOINT") == 2  # once an epoch


def test_a_lost_process_ends_the_run_clearly_and_the_same_command_goes_on(tmp_path):
    """Killed after its first epoch, then started again: one writer, one result of its own."""
    command = "-m", "helpers", "train", "S7/s7_dropout", "--validation", "--scale"
    environment = {**os.environ, **SMOKE, "SEED": "1"}
    folder = ROOT / "results/_smoke-sample-validation/S7/s7_dropout_x2"
    (folder / "metrics.json").unlink(missing_ok=True)
    with subprocess.Popen(
        [*LAUNCH, *command], cwd=ROOT, env={**environment, "RESUME": "0"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        while "epoch  1/2" not in run.stdout.readline():
            assert run.poll() is None, run.stderr.read()
        checkpoint = ROOT / "checkpoints/smoke-sample-validation/S7/s7_dropout_x2/seed-1-2.pt"
        while not checkpoint.exists():
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        psutil.Process(run.pid).children()[-1].kill()
        _, said = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "exitcode  : -9" in said
    assert "Root Cause" in said
    assert not (folder / "metrics.json").exists()
    assert not list(folder.glob(".*.partial"))

    done = launched(*command, SEED="1")
    assert done.returncode == 0, done.stderr
    assert "2 processes x 2 images a step, learning rate up to 0.003125" in done.stdout
    assert done.stdout.count("Continuing after epoch 1 of 2") == 1
    assert done.stdout.count("% of 50 test images right") == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert metrics["train_images"] == 32
    assert metrics["test_images"] == 50
