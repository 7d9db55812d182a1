"""Damages files in many ways and runs a command on them; `test_fuzz_files.py` starts this script.

Each command must end in a result, or in one line and an exit code.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import sys

import matplotlib
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from papermill.engines import papermill_engines
from torch import nn

from helpers import cli, config, data, results
from helpers.experiments import EXPERIMENTS
from helpers.files import sha256
from helpers.models import MODELS, get_model

ROOT = pathlib.Path.cwd()
assert config.ROOT == ROOT, "the copy is used"
torch.set_num_threads(1)
matplotlib.rcParams["figure.dpi"] = 20


class Tiny(nn.Sequential):
    def __init__(self, width=4):
        convolution = nn.Conv2d(3, width, 3, stride=2)
        super().__init__(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


MODELS["tiny"] = Tiny
MODELS["wide"] = lambda: Tiny(8)
EXPERIMENTS["S7/tiny"] = dataclasses.replace(EXPERIMENTS["S7/s7"], name="S7/tiny", model="tiny")
sample = data.load_sample().subset(64, 40)
sample = dataclasses.replace(sample, full_test_size=40)
data.download_cifar10.__defaults__ = ((),)  # no mirrors: nothing is downloaded
load_cifar10 = data.load_cifar10
data.load_data = lambda settings, validation=False: sample
# Real notebooks would take too long.
papermill_engines.execute_notebook_with_engine = lambda engine, notebook, *_, **__: notebook
ENVIRONMENT = {"PROFILE": "smoke", "DATASET": "sample", "RESUME": "1", "REUSE": "0", "SEED": "0"}
SHORT_RUN = ROOT / "results" / "_smoke-sample" / "S7" / "tiny"
FULL_RUN = ROOT / "results" / "S7" / "tiny"
(ROOT / "net.py").write_text("from torch import nn\nclass Net(nn.Flatten):\n    pass\n")


def run(*arguments, **environment):
    """Run a command; return its exit code, standard output and standard error."""
    os.environ |= ENVIRONMENT | environment
    sys.argv[1:] = arguments
    out, err, code = io.StringIO(), io.StringIO(), 0
    # Only `data` uses the real function, which takes seconds.
    data.load_cifar10 = load_cifar10 if arguments[0] == "data" else lambda _: sample
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as exit_info:
            code = exit_info.code or 0
    return code, out.getvalue(), err.getvalue()


(ROOT / "README.md").write_text(
    "<!-- results: made by `make report` -->\n<!-- end of results -->\n"
)
code, _, error = run("train", "S7/tiny")
assert code == 0, error
shutil.copytree(SHORT_RUN, FULL_RUN)
code, output, error = run("verify")
assert (code, error) == (0, ""), output + error
metrics_text = (FULL_RUN / "metrics.json").read_text()
METRICS = json.loads(metrics_text)
(FULL_RUN / "metrics.json").write_text(json.dumps(METRICS | {"test_accuracy": 98.31}))
code, output, error = run("verify")
assert code == 1, error
assert "WRONG: S7/tiny: test_accuracy is " in output
(FULL_RUN / "metrics.json").write_text(metrics_text)
code, _, error = run("report")
assert code == 0, error

# The files that are damaged, and restored from a copy.
DAMAGED = ("results", "checkpoints", "net.py", "README.md", "notebooks")
PRISTINE = ROOT.with_name("pristine")


def copy(source, target):
    for name in DAMAGED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy(source / name, target / name)


copy(ROOT, PRISTINE)
FILES = sorted(
    str(path.relative_to(PRISTINE))
    for path in PRISTINE.rglob("*")
    if path.suffix != ".png" and ("tiny" in str(path) or path.is_file())
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
DAMAGES = st.one_of(
    st.sampled_from(["missing", "empty", "folder", "link to nothing", "link to itself"]),
    st.sampled_from(["not permitted", "read only", "folder read only", "folder is a file"]),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("flipped"), st.floats(0, 1)),
    st.tuples(st.just("bytes"), st.binary(max_size=30)),
    st.tuples(st.just("metric"), st.sampled_from(sorted(METRICS)), JSON_VALUES),
    st.tuples(st.just("metric"), st.sampled_from(sorted(METRICS)), JSON_VALUES),
    st.tuples(st.just("full disk"), st.sampled_from([0, 100, 5_000, 40_000])),
    st.just("weights of another network"),
)
COMMANDS = [
    (["report"], {}),
    (["report", "S7/tiny"], {}),
    (["verify"], {}),
    (["check", "S7", "tiny", "--run", str(FULL_RUN)], {}),
    (["check", "S9", "net.py:Net", "tiny", "--csv", str(FULL_RUN / "history.csv")], {}),
    (["summary", "net.py:Net"], {}),
    (["data"], {"CIFAR10_ROOT": str(FULL_RUN)}),
    (["data"], {"CIFAR10_ROOT": str(FULL_RUN / "metrics.json")}),
    (["train", "S7/tiny"], {}),
    (["train", "S7/tiny"], {"RESUME": "0"}),
    (["train", "S7/tiny"], {"REUSE": "1"}),
    (["run", "S7"], {}),
    (["run", "S7"], {}),
]


def damage_file(path, damage):
    kind, *options = [damage] if isinstance(damage, str) else damage
    if kind == "metric":
        key, value = options
        for folder in (FULL_RUN, SHORT_RUN):
            (folder / "metrics.json").write_text(json.dumps(METRICS | {key: value}))
    elif kind == "weights of another network":
        weights = results.serialize_weights(get_model("wide"))
        (FULL_RUN / "model.safetensors").write_bytes(weights)
        (FULL_RUN / "metrics.json").write_text(
            json.dumps(METRICS | {"weights_sha256": sha256(weights)})
        )
    elif kind == "not permitted":
        path.chmod(0)
    elif kind == "read only":
        path.chmod(0o500 if path.is_dir() else 0o400)
    elif kind == "folder read only":
        path.parent.chmod(0o500)
    elif kind == "folder is a file":
        if path.parent != ROOT:
            shutil.rmtree(path.parent)
            path.parent.write_text("")
    elif kind == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (options[0], resource.RLIM_INFINITY))
    elif path.is_file():
        replace_file(path, kind, *options)


def replace_file(path, kind, option=b""):
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "x").write_text("")
    elif kind == "link to nothing":
        path.symlink_to(ROOT / "nothing")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "bytes":
        path.write_bytes(option)
    elif kind in ("cut", "flipped"):
        position = min(int(option * len(content)), len(content) - 1)
        if kind == "cut":
            path.write_bytes(content[:position])
        elif content:
            flipped = bytes([content[position] ^ 4])
            path.write_bytes(content[:position] + flipped + content[position + 1 :])


def restore():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    for folder, subfolders, _ in os.walk(ROOT):
        os.chmod(folder, 0o700)
        for name in subfolders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)
    for name in DAMAGED:
        path = ROOT / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    copy(PRISTINE, ROOT)


exit_codes = {}


@seed(7)
@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # no shrinking, which would take long
)
@given(st.sampled_from(FILES), DAMAGES, st.sampled_from(COMMANDS))
def check_command_on_damaged_file(file, damage, command):
    arguments, environment = command
    try:
        damage_file(ROOT / file, damage)
        code, _, error = run(*arguments, **environment)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        for folder in (SHORT_RUN, FULL_RUN):
            with contextlib.suppress(OSError):
                assert not list(folder.glob(".*.partial")), "a partial file is left"
    finally:
        restore()
    assert code in (0, 1, 2), code
    if code and arguments[0] not in ("verify", "check"):
        assert error.count("\n") == 1, error
        assert error.startswith("error: "), error
    exit_codes[arguments[0], code] = exit_codes.get((arguments[0], code), 0) + 1


check_command_on_damaged_file()
print(sorted(exit_codes.items()))
