"""Damages files in every way, runs a command on them, and looks at how it ends; see test_damage."""

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

from helpers import settings as chosen
from helpers.files import digest
from helpers.images import data, downloads
from helpers.models import MODELS, build
from helpers.runs import results
from helpers.runs.catalogue import RUNS
from upkeep import commands

ROOT = pathlib.Path.cwd()
assert chosen.ROOT == ROOT, "the copy is at work"
torch.set_num_threads(1)
matplotlib.rcParams["figure.dpi"] = 20


class Tiny(nn.Sequential):
    def __init__(self, width=4):
        convolution = nn.Conv2d(3, width, 3, stride=2)
        super().__init__(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


MODELS |= {"tiny": Tiny, "wide": lambda: Tiny(8)}
RUNS["S7/tiny"] = dataclasses.replace(RUNS["S7/s7"], name="S7/tiny", net="tiny")
digits = data.digits().first(64)
digits = dataclasses.replace(
    digits, test_images=digits.test_images[:40], test_labels=digits.test_labels[:40]
)
downloads.download_cifar10.__defaults__ = ((),)  # nothing is asked of the net
cifar10 = data.cifar10
data.load = lambda *_: digits
# The real ones are looked at by `data` alone, as they take seconds.
papermill_engines.execute_notebook_with_engine = lambda engine, notebook, *_, **__: notebook
PROFILE = {"PROFILE": "smoke", "DATASET": "digits", "RESUME": "1", "REUSE": "0", "SEED": "0"}
HOME = ROOT / "results" / "_smoke-digits" / "S7" / "tiny"
KEPT = ROOT / "results" / "S7" / "tiny"
(ROOT / "net.py").write_text("from torch import nn\nclass Net(nn.Flatten):\n    pass\n")


def run(*arguments, **environment):
    os.environ |= PROFILE | environment
    sys.argv[1:] = arguments
    out, err, code = io.StringIO(), io.StringIO(), 0
    data.cifar10 = cifar10 if arguments[0] == "data" else lambda _: digits
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            commands.main()
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


(ROOT / "README.md").write_text(
    "<!-- results: made by `make report` -->\n<!-- end of results -->\n"
)
assert run("train", "S7/tiny")[0] == 0
shutil.copytree(HOME, KEPT)
assert run("verify")[::2] == (0, ""), "an honest run holds"
honest = (KEPT / "metrics.json").read_text()
(KEPT / "metrics.json").write_text(json.dumps(json.loads(honest) | {"test_accuracy": 98.31}))
code, said, error = run("verify")
assert (code, "WRONG: S7/tiny: test_accuracy is " in said) == (1, True), error
(KEPT / "metrics.json").write_text(honest)
code, said, error = run("report")
assert code == 0, error
pristine = ROOT.with_name("pristine")
LIVE = ("results", "checkpoints", "net.py", "README.md", "notebooks")


def copy(source, target):
    for name in LIVE:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, place)


copy(ROOT, pristine)
FILES = sorted(
    str(path.relative_to(pristine))
    for path in pristine.rglob("*")
    if path.suffix not in (".png",) and ("tiny" in str(path) or path.is_file())
)
METRICS = json.loads((KEPT / "metrics.json").read_text())
VALUES = st.recursive(
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
    st.tuples(st.just("figure"), st.sampled_from(sorted(METRICS)), VALUES),
    st.tuples(st.just("figure"), st.sampled_from(sorted(METRICS)), VALUES),
    st.tuples(st.just("full"), st.sampled_from([0, 100, 5_000, 40_000])),
    st.just("weights of another network"),
)
ARGUMENTS = [
    (["report"], {}), (["report", "S7/tiny"], {}), (["verify"], {}),
    (["check", "S7", "tiny", "--run", str(KEPT)], {}),
    (["check", "S9", "net.py:Net", "tiny", "--csv", str(KEPT / "history.csv")], {}),
    (["summary", "net.py:Net"], {}), (["data"], {"CIFAR10_ROOT": str(KEPT)}),
    (["data"], {"CIFAR10_ROOT": str(KEPT / "metrics.json")}),
    (["train", "S7/tiny"], {}), (["train", "S7/tiny"], {"RESUME": "0"}),
    (["train", "S7/tiny"], {"REUSE": "1"}), (["run", "S7"], {}), (["run", "S7"], {}),
]  # fmt: skip


def harm(path, damage):
    kind, *how = [damage] if isinstance(damage, str) else damage
    if kind == "figure":
        for folder in (KEPT, HOME):
            changed = METRICS | {how[0]: how[1]}
            (folder / "metrics.json").write_text(json.dumps(changed))
    elif kind == "weights of another network":
        weights = results.weight_bytes(build("wide"))
        (KEPT / "model.safetensors").write_bytes(weights)
        (KEPT / "metrics.json").write_text(
            json.dumps(METRICS | {"weights_sha256": digest(weights)})
        )
    elif kind in ("not permitted", "read only"):
        path.chmod(0 if kind == "not permitted" else 0o500 if path.is_dir() else 0o400)
    elif kind == "folder read only":
        path.parent.chmod(0o500)
    elif kind == "folder is a file":
        if path.parent != ROOT:
            shutil.rmtree(path.parent)
            path.parent.write_text("")
    elif kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (how[0], resource.RLIM_INFINITY))
    elif path.is_file():
        content = path.read_bytes()
        path.unlink()
        place = (
            min(int(how[0] * len(content)), len(content) - 1) if kind in ("cut", "flipped") else 0
        )
        if kind == "folder":
            path.mkdir()
            (path / "x").write_text("")
        elif kind == "link to nothing":
            path.symlink_to(ROOT / "nothing")
        elif kind == "link to itself":
            path.symlink_to(path)
        elif kind == "cut":
            path.write_bytes(content[:place])
        elif kind == "flipped" and content:
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        elif kind in ("empty", "bytes"):
            path.write_bytes(how[0] if how else b"")


def restore():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    for folder, folders, _ in os.walk(ROOT):
        os.chmod(folder, 0o700)
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)
    for name in LIVE:
        path = ROOT / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(True)
    copy(pristine, ROOT)


ended = {}


@seed(7)
@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # each takes long: the first that fails is shown as it is
)
@given(st.sampled_from(FILES), DAMAGES, st.sampled_from(ARGUMENTS))
def ends_in_a_result_or_one_line(file, damage, command):
    arguments, environment = command
    try:
        harm(ROOT / file, damage)
        code, _, error = run(*arguments, **environment)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        for folder in (HOME, KEPT):
            with contextlib.suppress(OSError):
                assert not list(folder.glob(".*.partial")), "litter"
    finally:
        restore()
    assert code in (0, 1, 2), code
    if code and arguments[0] not in ("verify", "check"):
        assert error.count("\n") == 1, error
        assert error.startswith("error: "), error
    ended[arguments[0], code] = ended.get((arguments[0], code), 0) + 1


ends_in_a_result_or_one_line()
print(sorted(ended.items()))
