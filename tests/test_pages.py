"""The pages as readers see them: what is shown fits, is explained, and says what the code says."""

import ast
import dataclasses
import functools
import html
import json
import re
import tomllib

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch_lr_finder
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers import experiments, inspection, lr_finder, models, plotting
from helpers import grad_cam as grad_cam_module
from helpers.config import FULL, ROOT, SMOKE, Settings
from helpers.data import load_sample
from helpers.experiments import EXPERIMENTS
from helpers.grad_cam import grad_cam
from helpers.results import Result
from tests.easy_images import easy_images
from tools.experiments import batch_statistics

NAMES = ("S7", "S9", "S10", "ResNet18_GradCAM")
PAGES = [*NAMES, "playground", *(f"solutions/{name}" for name in NAMES)]
TERMS = ("epochs", "logits", "momentum", "label smoothing", "whitening", "identity initialization")


@functools.cache
def read(name):
    """Return a page. In a published copy its links are absolute: they become relative again."""
    page = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = re.escape(project["urls"]["Repository"])
    up = "../" * (1 + name.count("/"))
    for cell in page.cells:
        cell.source = re.sub(rf"\]\({repository}/(blob|raw)/main/", f"]({up}", cell.source)
        cell.source = cell.source.replace(f"]({up}notebooks/", f"]({up[3:]}")
    return page


def prose(name):
    return "\n\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")


def code(name, text):
    """The source of the only code cell that contains a text."""
    cells = [c.source for c in read(name).cells if c.cell_type == "code" and text in c.source]
    assert len(cells) == 1, (text, len(cells))
    return cells[0]


def cell_by_id(name, cell_id):
    [cell] = [cell for cell in read(name).cells if cell.id == cell_id]
    return cell


def shown(name):
    """Every output that is displayed, with its cell: kind and text."""
    for cell in read(name).cells:
        for output in cell.get("outputs", []):
            by_kind = output.get("data", {})
            kinds = [k for k in ("text/html", "text/markdown", "image/png") if k in by_kind]
            kind = (kinds or ["text/plain"])[0]
            yield cell, kind, output.get("text") or by_kind.get(kind, "")


@pytest.fixture(scope="module")
def sample():
    return load_sample().subset(512, 360)


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_output_is_wider_than_the_page(name):
    for cell, kind, text in shown(name):
        if kind in ("text/plain", "text/markdown"):
            assert max(map(len, text.splitlines()), default=0) <= 120, cell.id
        if text.startswith("<details>"):
            collapsed = text.partition("<pre>")[2].removesuffix("</pre></details>")
            assert max(map(len, html.unescape(collapsed).splitlines())) <= 120, cell.id


@pytest.mark.parametrize("name", PAGES)
def test_no_output_is_longer_than_a_screen_unless_it_is_collapsed(name):
    for cell, kind, text in shown(name):
        if kind == "text/html" and not text.startswith("<details>"):
            assert text.count("<tr") <= 60, cell.id
        elif kind in ("text/plain", "text/markdown"):
            assert len(text.splitlines()) <= 60, cell.id


@pytest.mark.parametrize("name", PAGES)
def test_code_is_shown_highlighted(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert not [cell.id for cell in cells if "getsource" in cell.source]
    shows_source = [cell for cell in cells if re.match(r"(colab\.)?show_source\(", cell.source)]
    for cell in shows_source:
        [output] = cell.outputs
        assert output.data["text/markdown"].startswith("```python\n"), cell.id
    if name in NAMES:
        assert len(shows_source) >= 2


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_has_a_caption(name):
    cells = read(name).cells
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        figures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if cell.cell_type == "code" and (figures or "save_and_show(" in cell.source):
            assert after.cell_type == "markdown", cell.id
            assert re.match(r"\*[^*].*[.?]\*", after.source, re.DOTALL), cell.id


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_on_the_page(name):
    for cell in read(name).cells:
        if cell.cell_type == "code" and "save_and_show(" in cell.source:
            *before, last = [ast.unparse(statement) for statement in ast.parse(cell.source).body]
            assert not any(statement.startswith("save_and_show(") for statement in before), cell.id
            assert last.startswith("save_and_show("), cell.id
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.id


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_among_the_results_is_on_the_page(name):
    sources = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    for path in (ROOT / "results" / name).rglob("*.png"):
        assert re.search(rf"[\"/]{path.name}\"", sources), path


def test_a_model_of_ones_own_is_not_tested_on_the_test_images(sample, monkeypatch):
    monkeypatch.setattr(models, "MODELS", {**models.MODELS})
    monkeypatch.setattr(experiments, "MODELS", models.MODELS)
    monkeypatch.setattr(experiments, "run_experiment", lambda *arguments: arguments)
    scope = {"Mine": nn.Identity, "settings": Settings(FULL), "models": models}
    scope |= {"load_data": lambda settings: sample, "try_model": experiments.try_model}
    scope |= {"LIKE": "S7/s7", "EXPERIMENTS": EXPERIMENTS}
    exec(code("playground", "try_model(Mine, "), scope)
    for result, name in (("result", "S7/mine"), ("result_ours", "S7/ours")):
        experiment, data, settings = scope[result]
        assert experiment.name == name
        assert (data.split, settings.profile.epochs) == ("validation", 2)
        assert not {image.tobytes() for image in data.test_images} & {
            image.tobytes() for image in sample.test_images
        }
    assert np.array_equal(scope["images"].test_images, data.test_images)
    text = cell_by_id("playground", "playground-own-comparison").outputs[0]["data"]["text/plain"]
    mine, ours = text.splitlines()[-2:]
    assert mine.split()[3:6] == ours.split()[3:6] == ["10,000", "2", "5,000"]


def test_terms_are_introduced_with_a_link_before_they_are_used():
    text = prose("S7").lower()
    for term in TERMS:
        first = re.search(rf"\b{term}\b", text)
        assert re.match(rf"{term}\]\(https://", text[first.start() :]), term
        assert text[first.start() - 1] == "[", term
    for name in NAMES[1:]:
        assert "(S7.ipynb)" in prose(name).partition("## 1.")[0], name


@pytest.mark.parametrize("name", [*NAMES, "playground"])
def test_a_page_opens_with_its_result_and_a_picture(name):
    opening = read(name).cells[0].source
    assert opening.index("**Result.**") < opening.index("**New here.**")
    [picture] = re.findall(r"!\[[^]]{20,}\]\(\.\./(results/[^)]+\.png)\)", opening)
    assert (ROOT / picture).is_file()
    assert f"{picture})\n\n*" in opening, "the picture has no caption"
    headings = re.findall(r"^## (\d+)\. (.*)", prose(name), re.MULTILINE)
    assert [int(number) for number, _ in headings] == list(range(1, len(headings) + 1))
    assert headings[:2][0][1] == "Set-up"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_links_to_the_playground_and_ends_with_references(name):
    assert "(playground.ipynb)" in prose(name)
    last = re.findall(r"^## (.*)", prose(name), re.MULTILINE)[-1]
    assert last == "References"
    references = prose(name).partition("## References")[2]
    assert len(re.findall(r"^- .*\]\(https?://", references, re.MULTILINE)) >= 5


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_prose_is_over_120_characters(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            lines = [line for line in cell.source.splitlines() if not line.startswith(("|", "["))]
            too_long = [line for line in lines if len(re.sub(r"\]\(http[^)]*\)", "]", line)) > 120]
            assert not too_long, cell.id


@pytest.mark.parametrize("name", [*NAMES, "playground"])
def test_links_between_pages_and_sections_lead_somewhere(name):
    folder = ROOT / "notebooks"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose(name)):
        assert (folder / target).resolve().exists(), target
    sections = [int(n) for n in re.findall(r"^## (\d+)\.", prose(name), re.MULTILINE)]
    for number in re.findall(r"[Ss]ections? (\d+)", prose(name)):
        assert int(number) in sections


def exercises(name):
    """The text of each exercise, and the code that all of them share before it, if any."""
    text = prose(name).partition("Exercises")[2].partition("\n## ")[0]
    beginning, *rest = re.split(r"^\*\*\d\. ", text, flags=re.MULTILINE)
    return beginning, rest


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_exercises_say_what_one_learns_and_are_solved(name):
    beginning, texts = exercises(name)
    assert f"(solutions/{name}.ipynb)" in beginning
    assert len(texts) == 4
    for text in texts:
        assert re.search(r"\*You\s+learn.*?\*\s+Hint: ", text, re.DOTALL), text
        [snippet] = snippets(text)
        assert "assert " in snippet
    solved = re.findall(r"^## (\d)\. ", prose(f"solutions/{name}"), re.MULTILINE)
    assert solved == ["1", "2", "3", "4"]
    opening = read(f"solutions/{name}").cells[0].source
    assert re.search(r"\*\*You learn\*\*.*\*\*Time:\*\*", opening, re.DOTALL)


# What a student writes in place of the dots of each exercise's snippet.
ANSWERS = {
    "S7": [
        ["layer.dilation = layer.padding = (1, 1)"],
        ["whitening_init=False, dirac_init=False"],
        ["models.DepthwiseSeparableConv(64, 64)", "models.DepthwiseSeparableConv(64, 128)"],
        [],
    ],
    "S9": [
        ["dilation=2"],
        ["(3, 1, 1, 3)"],
        ["num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), fill=0"],
        [
            "[block.__setitem__(-3, nn.Conv2d(64, 32, 3, stride=2, padding=1)) for block in "
            "(model.block1, model.block2, model.block3)]; model.gap = nn.AdaptiveAvgPool2d(1)"
        ],
    ],
    "S10": [
        ["peak_epoch=2", "peak_epoch=12"],
        ['curve["learning_rate"][curve["loss"].idxmin()]'],
        ["5e-4"],
        [
            "return self.fc(self.gap(self.layer3(self.layer2(self.layer1(self.prep(x)))))"
            ".flatten(1))"
        ],
    ],
    "ResNet18_GradCAM": [
        ['"layer2"'],
        ["A.HorizontalFlip(p=0.5)"],
        ['"layer4"'],
        [
            "outputs = []; handle = model.get_submodule(layer).register_forward_hook("
            "lambda m, i, o: outputs.append(o)); logits = model(inputs)[0]; handle.remove(); "
            "[gradient] = torch.autograd.grad(logits[label] - logits[rival], outputs); "
            "return outputs[0].detach(), gradient.mean(dim=(2, 3), keepdim=True)"
        ],
    ],
}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_the_checks_of_exercises_hold_for_right_answers_only(
    name, number, sample, tmp_path, monkeypatch
):
    monkeypatch.setattr(models, "MODELS", {**models.MODELS})
    monkeypatch.setattr(experiments, "run_short", lambda data, settings, **runs: runs)
    monkeypatch.setattr(lr_finder, "lr_range_test", lambda *_: pd.DataFrame(
        {"learning_rate": [1e-4, 1e-3], "loss": [2.0, 1.0]}))  # fmt: skip
    data = sample.subset(64, 60)
    net = "resnet18" if name == "ResNet18_GradCAM" else "s7"
    torch.manual_seed(0)
    model = models.get_model(net).eval()
    wrong = (data.test_labels + (np.arange(60) < 30)) % 10  # half of the answers are wrong
    logits = 10 * np.eye(10, dtype=np.float32)[wrong]
    result = Result(tmp_path, model, None, {"net": net}, logits, net)
    inputs = data.normalize(torch.from_numpy(data.test_images[:1]).permute(0, 3, 1, 2))
    scope = {
        "nn": nn, "torch": torch, "np": np, "pd": pd, "models": models, "inspection": inspection,
        "EXPERIMENTS": EXPERIMENTS, "settings": Settings(SMOKE, "sample", output_dir=tmp_path),
        "load_data": lambda *_, **__: data, "data": data, "plotting": plotting, "result": result,
        "save_and_show": lambda figure, path: None, "lr_finder": lr_finder, "transform": None,
        "build_initialized_model": lambda *_: None, "grad_cam": grad_cam_module, "inputs": inputs,
        "mistakes": np.arange(30), "right": np.arange(30, 60), "first": [0], "label": 3,
    }  # fmt: skip
    if name == "S9":
        exec(code("S9", "def values_read"), scope)
    beginning, texts = exercises(name)
    for shared in snippets(beginning):
        exec(shared, scope)
    [snippet] = snippets(texts[number])
    if "..." in snippet:
        with pytest.raises(Exception):  # noqa: B017  (the dots do nothing, or fail)
            exec(snippet, dict(scope))
    for answer in ANSWERS[name][number]:
        snippet = snippet.replace("...", answer, 1)
    assert "..." not in snippet
    exec(snippet, scope)


@pytest.mark.parametrize("name", NAMES)
def test_requirements_are_shown_once_by_kind(name):
    source = "\n".join(c.source for c in read(name).cells if c.cell_type == "code")
    kinds = re.findall(r'requirements\.(?:table|compare)\(.*?(?:kind="(\w+)")?\)\)$', source, re.M)
    assert kinds in ([""], ["required", "claimed"])


def test_grad_cam_by_hand_is_the_librarys(sample):
    source = code("ResNet18_GradCAM", "def grad_cam_by_hand")
    assert len(source.splitlines()) <= 16
    scope = {"F": F, "nn": nn, "torch": torch}
    exec(source, scope)
    torch.manual_seed(0)
    model, image = models.get_model("compact").eval(), sample.test_images[:1]
    model.fc.weight.data *= 1_000  # beside such gradients the library's epsilon is nothing
    inputs = sample.normalize(torch.from_numpy(image).permute(0, 3, 1, 2))
    compared = 0
    for label in range(10):
        library = grad_cam(model, "block4", image, np.array([label]), sample)[0]
        if library.max() > 0.9:  # there is positive evidence for the class
            by_hand = scope["grad_cam_by_hand"](model, "block4", inputs, label)
            assert np.allclose(by_hand, library, atol=1e-5)
            compared += 1
    assert compared >= 3
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.slow
def test_the_page_on_grad_cam_runs_for_a_model_that_makes_no_mistakes(sample, tmp_path, capsys):
    data = sample.subset(4, 4)
    logits = 10 * np.eye(10, dtype=np.float32)[data.test_labels]
    results = {
        name: Result(tmp_path, models.get_model(name).eval(), None, {"net": name}, logits, name)
        for name in ("resnet18", "compact")
    }
    cells = [cell for cell in read("ResNet18_GradCAM").cells if cell.cell_type == "code"]
    ids = [cell.id for cell in cells]
    scope = {}
    exec(cells[1].source, scope)  # the imports
    scope |= {"result": results["resnet18"], "result_compact": results["compact"], "data": data}
    scope["save_and_show"] = lambda figure, path: figure.savefig(path)
    first, last = ids.index("resnet18-mistakes") - 1, ids.index("resnet18-agreement-plot")
    section = cells[first : last + 1]  # from the definitions on
    assert len(section) >= 8
    for cell in section:
        exec(cell.source, scope)
    assert "largest difference from the grad-cam library: 0.0" in capsys.readouterr().out


def test_the_loop_on_the_page_is_short_and_learns(capsys, monkeypatch):
    source = code("S7", "loss.backward()")
    assert len([line for line in source.splitlines() if line]) <= 15
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    monkeypatch.setitem(models.MODELS, "s7", lambda: tiny)
    scope = {
        "F": F,
        "np": np,
        "torch": torch,
        "models": models,
        "EXPERIMENTS": EXPERIMENTS,
        "data": easy_images(512),
        "settings": Settings(SMOKE),
    }
    for _ in range(3):  # three epochs of it
        exec(source, scope)
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.3
    assert "helpers/training.py)" in prose("S7")


def test_the_loop_on_the_page_counts_only_images_that_are_there(sample, capsys):
    scope = {"F": F, "np": np, "torch": torch, "models": models, "EXPERIMENTS": EXPERIMENTS}
    exec(
        code("S7", "loss.backward()"),
        {**scope, "data": sample.subset(32), "settings": Settings(SMOKE)},
    )
    assert re.findall(r"([\d,]+) images seen", capsys.readouterr().out) == ["32"]


def test_kernels_read_what_s9_says(capsys):
    scope = {"nn": nn, "np": np, "torch": torch}
    exec(code("S9", "def values_read"), scope)
    shares = [f"{every.mean():.0%}" for _, every in scope["read"].values()]
    assert shares == ["100%", "25%", "100%", "25%", "100%"]
    one = {name: grids[0] for name, grids in scope["read"].items()}
    assert one["3x3"].sum() == 9
    rows, columns = np.nonzero(one["stride 2, dilation 3"])
    assert sorted(set(np.diff(np.unique(rows)))) == sorted(set(np.diff(np.unique(columns)))) == [3]
    assert "1x1, stride 2 (s9)" in capsys.readouterr().out


def test_s10s_stages_are_all_that_the_submission_lists(capsys):
    scope = {"models": models, "torch": torch, "s10": models.get_model("s10").eval()}
    exec(code("S10", "layer 1, X + R1"), scope)
    shapes = {name: tuple(output.shape) for name, output in scope["stages"].items()}
    assert shapes["layer 1, X + R1"] == (1, 128, 16, 16)
    assert shapes["layer 3, X + R2"] == (1, 512, 4, 4)
    assert shapes["reshape before FC"] == (1, 512)
    assert len(shapes) == 11
    logits = scope["s10"](torch.zeros(1, 3, 32, 32))
    assert torch.allclose(scope["stages"]["after FC"], logits)
    capsys.readouterr()


def test_s10s_exercise_with_sgd_has_a_learning_rate_and_a_decay_for_sgd():
    scope = {"dataclasses": dataclasses, "EXPERIMENTS": EXPERIMENTS, "data": None, "short": None}
    scope["run_short"] = lambda data, settings, **runs: runs
    exec(code("solutions/S10", "def variant"), scope)
    exec(code("solutions/S10", "def with_sgd"), scope)
    for lr in (0.1, 0.01):
        config = scope["with_sgd"](lr).config
        assert (config.optimizer, config.batch_size, config.max_lr) == ("SGD", 128, lr / 4)
        assert config.max_lr * config.weight_decay < 1e-3
    assert scope["s10"].config.max_lr == EXPERIMENTS["S10/s10"].config.max_lr / 2
    said = solution("S10", 3)
    peak = scope["s10"].config.max_lr * 2 * scope["s10"].config.weight_decay
    assert f"= {peak:.5f}" in said
    high, low = (scope["with_sgd"](lr).config.max_lr for lr in (0.1, 0.01))
    assert f"use {high:g} and {low:g}" in said
    products = re.findall(r"([\d.]+) x ([\d.]+) = ([\d.]+\d)", said)
    assert len(products) == 3
    assert all(float(a) * float(b) == pytest.approx(float(c)) for a, b, c in products)
    assert "weight decay of 5e-4" in prose("S10")


def test_what_s7_says_of_its_ablation_is_in_the_table(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    scope = {"pd": pd, "np": np, "plotting": plotting, "folder": tmp_path}
    scope["save_and_show"] = lambda figure, path: None
    exec(code("S7", "ablation.csv"), scope)
    assert scope["difference"].idxmin() == 1
    assert capsys.readouterr().out == "More than three standard errors: usual random weights\n"
    assert "Only the initial weights make a clear difference" in " ".join(prose("S7").split())


def test_what_s7_says_of_full_runs_with_muon_is_in_the_table():
    assert "did half a point worse on the test images" in " ".join(prose("S7").split())
    tried = pd.read_csv(ROOT / "results" / "S7" / "tried.csv").set_index("name")
    muon = tried.loc["s7, 50,000 images, 10 epochs: optimizer Muon, max_lr 0.15"]
    assert len(muon) == 3
    sgd = json.loads((ROOT / "results" / "S7" / "s7" / "metrics.json").read_text())
    assert 0.4 < sgd["test_accuracy_mean"] - muon["test accuracy (%)"].mean() < 0.6


def test_what_s7_says_of_parameters_and_multiply_adds_is_so():
    s7, dropout = models.get_model("s7"), models.get_model("s7_dropout")
    assert inspection.count_parameters(dropout) > inspection.count_parameters(s7)
    shares = inspection.count_mult_adds(dropout) / inspection.count_mult_adds(s7)
    assert shares == pytest.approx(1 / 5, abs=0.02)
    separable = inspection.count_parameters(models.DepthwiseSeparableConv(64, 64))
    assert separable / (9 * 64 * 64) == pytest.approx(1 / 8, abs=0.02), "about an eighth"


def test_what_s10_says_of_its_sweep_is_in_the_table():
    assert "35 to 120 times" in " ".join(prose("S10").split())
    sweep = pd.read_csv(ROOT / "results" / "S10" / "rates.csv")
    sweep["run"] = sweep["name"].str.extract(r"/(.*), ")
    best = {
        run: lr_finder.interpolate_best_lr(
            dict(trials[["learning rate", "validation loss"]].values)
        )
        for run, trials in sweep[sweep["seed"] == 0].groupby("run")
    }
    ratios = [lr / best["s10, AdamW"] for run, lr in best.items() if run != "s10, AdamW"]
    assert (min(ratios), max(ratios)) == (pytest.approx(35, abs=2.5), pytest.approx(120, abs=5))
    again = {
        run: lr_finder.interpolate_best_lr(
            dict(zip(trials["learning rate"], trials["validation loss"], strict=True))
        )
        for run, trials in sweep[sweep["seed"] == 1].groupby("run")
    }
    moved = [again[run] / best[run] for run in again]
    assert len(moved) == 3
    assert max(*moved, *(1 / factor for factor in moved)) == pytest.approx(7 / 6, abs=0.02)
    assert "another seed moved it by up to a sixth" in " ".join(prose("S10").split())


def test_s10s_schedule_can_be_stepped_wrongly(capsys):
    source = code("S10", "STEP_AFTER = ")
    scope = {"torch": torch, "nn": nn, "np": np, "max_lr": 0.01}
    exec(source, scope)
    assert scope["applied"][489] == max(scope["applied"]) == pytest.approx(0.01)
    exec(source.replace('"batch"  # or "epoch"', '"epoch"'), scope)
    assert max(scope["applied"]) < 0.002
    capsys.readouterr()


def test_s10s_range_test_is_a_small_one_of_the_library(sample, capsys):
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    scope = {"torch": torch, "nn": nn, "np": np, "data": sample, "settings": Settings(SMOKE)}
    scope |= {"torch_lr_finder": torch_lr_finder, "EXPERIMENTS": EXPERIMENTS}
    scope |= {"DataLoader": DataLoader, "TensorDataset": TensorDataset}
    scope["build_initialized_model"] = lambda *_: tiny
    exec(code("S10", "END_LR, STEPS"), scope)
    assert len(scope["lrs"]) == 30
    assert scope["lrs"][-1] == pytest.approx(1)
    assert "lowest average loss at a learning rate of" in capsys.readouterr().out


def test_what_s10_says_of_its_range_test_is_in_the_saved_one():
    search = json.loads((ROOT / "results" / "S10" / "s10" / "rate_search.json").read_text())
    curve = pd.DataFrame(search["range_test"])
    lrs, average = curve["learning_rate"], curve["loss"]
    steps = (average - 0.95 * average.shift()) / 0.05
    assert lrs[steps.idxmin()] < lrs[average.idxmin()], "the average lags"
    above = lrs[(steps > np.log(10)) & (lrs > lrs[steps.idxmin()])]
    assert above.iloc[0] == pytest.approx(0.02, rel=0.3)
    assert average[0] > np.log(10)
    assert 1 < len(search["short_runs"]) <= 7


def test_what_s9_says_of_its_jagged_curve_is_in_the_table():
    table = pd.read_csv(ROOT / "results" / "S9" / "batch_statistics.csv").sort_values("epoch")
    assert table["name"].str.startswith("S9/compact, epoch ").all()
    assert table["epoch"].max() == EXPERIMENTS["S9/compact"].config.epochs
    batches = batch_statistics.TRAIN_IMAGES / EXPERIMENTS["S9/compact"].config.batch_size
    assert batches == 40
    assert "recomputed on forty batches" in " ".join(prose("S9").split())
    for _, run in table.groupby("seed"):
        running, recomputed = (
            run[f"test accuracy (%), {way} statistics"] for way in ("running", "recomputed")
        )
        assert len(run) >= 5
        assert not running.is_monotonic_increasing, "jagged"
        assert recomputed.diff().min() > running.diff().min()
        assert abs(recomputed.iloc[-1] - running.iloc[-1]) < 0.3, "the difference is gone"


def test_what_s9_says_of_its_networks_is_so():
    s9 = inspection.trace_layers(models.get_model("s9"))
    assert not any(layer.separable or layer.kernel != layer.span for layer in s9)
    costs = inspection.layer_cost_percentages(models.get_model("s9"))["multiply-adds"]
    strided = [layer for layer in s9 if layer.stride == (2, 2)]
    assert {layer.kernel for layer in strided} == {(1, 1)}
    assert {layer.source for layer in strided} == {"conv3", "conv6", "conv8"}
    printed = "".join(o.get("text", "") for c in read("S9").cells for o in c.get("outputs", []))
    assert f"{0.75 * costs[['conv3', 'conv6', 'conv8']].sum():.0f} %" in printed
    blocks = inspection.block_cost_percentages(models.get_model("compact"))["multiply-adds"]
    assert blocks.idxmax() == "block1", "works on the largest maps"


def test_what_s9_says_of_muon_is_in_the_table():
    tried = pd.read_csv(ROOT / "results" / "S9" / "tried.csv")
    short = tried[tried["training images"] == 10_000]
    assert (short.groupby("name")["seed"].nunique() == 2).all()
    accuracy = short.groupby("name")["validation accuracy (%)"]
    for network in ("s9", "compact"):
        runs = accuracy.mean().filter(like=f"{network}, ")
        best, sgd = runs.filter(like="Muon").max(), runs.filter(like="SGD").max()
        assert best > sgd, "Muon leads for both networks"


def solved(name):
    """The prose of a page of solutions; functions that read a cell's table and the logs in it."""

    def outputs(number):
        [cell] = [c for c in read(f"solutions/{name}").cells if c.id.endswith(f"-{number}")]
        return cell.outputs

    def of_cell(number):
        table = outputs(number)[-1]["data"]["text/plain"].splitlines()
        return np.array([[float(x) for x in row.split()[1:]] for row in table[2:]]).T

    def of_log(number):
        text = "".join(output.get("text", "") for output in outputs(number))
        rows = re.findall(r"epoch +(\d+)/\d+ .*train loss [\d.]+, +([\d.]+) %", text)
        accuracies = [float(accuracy) for _, accuracy in rows]
        return np.reshape(accuracies, (-1, max(int(epoch) for epoch, _ in rows)))

    return " ".join(prose(f"solutions/{name}").split()), of_cell, of_log


def solution(name, number):
    """The prose of one exercise on a page of solutions, up to the next heading."""
    text = prose(f"solutions/{name}")
    [section] = re.findall(rf"^## {number}\. .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(section.split())


def printed(name, cell_id):
    """All that a code cell on a page of solutions printed."""
    cell = cell_by_id(f"solutions/{name}", cell_id)
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("name", ["S7", "S10", "ResNet18_GradCAM"])
def test_solutions_say_how_long_their_short_runs_are(name):
    source = code(f"solutions/{name}", "for_exercise")
    [(images, epochs)] = re.findall(r"train_images=([\d_]+), epochs=(\d+)", source)
    said = " ".join(prose(f"solutions/{name}").split())
    assert f"for {epochs} epochs on {int(images):,} training images" in said


def test_what_s7s_solutions_say_of_the_dilation_is_in_their_outputs():
    said = solution("S7", 1)
    fields = re.findall(r": (\d+) before", printed("S7", "s7-solutions-06"))
    assert "from {} to {} pixels".format(*fields) in said
    _, of_cell, _ = solved("S7")
    dilated, undilated = of_cell("07")[:, -1]
    assert f"{dilated:.2f} % with the dilation" in said
    assert f"{undilated:.2f} % without" in said
    assert abs(dilated - undilated) < 2.3
    kernel = models.S7().block2[1][0]
    more = (5 * 5 - 3 * 3) * kernel.in_channels * kernel.out_channels
    assert f"{more:,} more weights" in said
    assert f"{kernel.in_channels} x {kernel.out_channels} pairs" in said


def test_what_s7s_solutions_say_of_initial_weights_is_in_their_tables():
    said = solution("S7", 2)
    _, of_cell, of_log = solved("S7")
    for lead in (-np.diff(of_cell("09"), axis=0)[0], -np.diff(of_log("09"), axis=0)[0]):
        assert f"from {lead[0]:.1f} to {lead[-1]:.1f} points" in said
    ours, usual = of_cell("09")
    assert f"{ours[-1] - usual[-1]:.1f} points are missing" in said
    later = np.interp(ours[:-1], usual, range(1, 6)) - range(1, 5)
    assert f"{later.min():.1f} and {later.max():.1f} epochs" in said
    assert later.mean() == pytest.approx(1, abs=0.1), "about one epoch"


def test_what_s7s_solutions_say_of_parameters_and_multiply_adds_is_in_their_table():
    said = solution("S7", 3)
    table = cell_by_id("solutions/S7", "s7-solutions-11").outputs[0]["data"]["text/plain"]
    parameters, mult_adds = (
        [float(number.replace(",", "")) for number in row.split()[1:]]
        for row in table.splitlines()[1:]
    )
    assert parameters[1] == parameters[2]
    assert f" {100 * (1 - parameters[1] / parameters[0]):.0f} % of the parameters" in said
    for count in mult_adds[1:]:
        assert f" {100 * (1 - count / mult_adds[0]):.0f} %" in said


def test_what_s7s_solutions_say_of_single_images_is_in_the_answers():
    [output] = cell_by_id("solutions/S7", "s7-solutions-15").outputs
    answers = re.findall(r"(\d+): (\w+); the network said (\w+)", output["data"]["text/html"])
    true, predicted = ({int(row[0]): row[i] for row in answers} for i in (1, 2))
    said = solution("S7", 4)
    for one, other in ((4, 6), (7, 8)):
        assert (true[one], true[other]) == (predicted[other], predicted[one])
        assert f"Images {one} and {other} are" in said
    named = re.findall(r"the (\w+) \((\d+)\)", said)
    assert named
    assert all(true[int(number)] == class_name for class_name, number in named)


def test_what_s9s_solutions_say_of_their_runs_is_in_the_tables():
    said, of_cell, _ = solved("S9")
    compact, dilated = of_cell("07")
    assert abs(compact[-1] - dilated[-1]) < 2.5, "within what two runs differ by"
    assert np.ptp(of_cell("11")[:, -1]) < 2.5, "about two points"
    s9, wider = of_cell("14")
    assert abs(s9[-1] - wider[-1]) < 2.5, "within the noise"
    added = 64 * 32 * 8  # weights of a 3x3 kernel, less those of a 1x1 kernel
    assert f"{added:,} parameters more" in said
    assert inspection.count_parameters(models.get_model("s9")) + 3 * added > 200_000
    assert 5 * 9 * 64**2 > 100_000, "block2 alone"


def test_what_s10s_solutions_say_of_the_peaks_is_in_their_tables():
    said = solution("S10", 1)
    _, of_cell, of_log = solved("S10")
    validation, trained = of_cell("06"), of_log("06")
    epochs = EXPERIMENTS["S10/s10"].config.epochs
    peaks = [f"{peak * validation.shape[1] / epochs:g}" for peak in (2, 5, 12)]
    assert "peaks are at {}, {} and {}".format(*peaks) in said
    assert np.ptp(validation[:, 0]) < 2
    assert f"within {np.ptp(validation[:, -1]):.1f} points" in said
    behind = [share[:2, 2] - share[2, 2] for share in (validation, trained)]  # early, middle
    early, middle = behind[0]
    assert f"{early:.0f} points behind the early peak and {middle:.0f} points behind" in said
    assert "{:.0f} and {:.0f} points".format(*behind[1]) in said


def test_what_s10s_solutions_say_of_range_tests_is_in_their_output_and_the_saved_search():
    said = solution("S10", 2)
    lowest = re.findall(r"lowest loss at ([\d.]+)", printed("S10", "s10-solutions-08"))
    lowest = [float(lr) for lr in lowest]
    assert len(lowest) == 3
    factor = float(re.search(r"within a factor of ([\d.]*\d)", said)[1])
    assert factor - 0.1 < max(lowest) / min(lowest) < factor
    search = json.loads((ROOT / "results" / "S10" / "s10" / "rate_search.json").read_text())
    max_lr = lr_finder.interpolate_best_lr(dict(search["short_runs"]))
    lr_curve = pd.DataFrame(search["range_test"])
    average_loss = lr_curve["loss"]
    step_loss = average_loss - 0.95 * average_loss.shift()
    assert average_loss.idxmin() - step_loss.idxmin() == 5
    assert "five steps behind" in said
    tenth = lr_curve["learning_rate"][average_loss.idxmin()] / 10
    assert f"{tenth / max_lr:.2f} times" in said


def test_what_s10s_solutions_say_of_sgd_and_of_the_branches_is_in_their_outputs():
    _, of_cell, _ = solved("S10")
    for number, cell in ((3, "10"), (4, "13")):
        for accuracy in of_cell(cell)[:, -1]:
            assert f"{accuracy:.2f} %" in solution("S10", number)
    counts = re.findall(r": ([\d,]+) parameters", printed("S10", "s10-solutions-12"))
    whole, plain = (int(count.replace(",", "")) for count in counts)
    assert f"{100 * plain / whole:.0f} % of the parameters" in solution("S10", 4)
    names = [n for n, m in models.CustomResNet().named_modules() if isinstance(m, nn.Conv2d)]
    assert (len(names), sum(name.startswith("residual") for name in names)) == (8, 4)
    assert "four of eight convolutions" in solution("S10", 4)


def test_what_resnet18s_solutions_say_is_in_their_outputs():
    log = printed("ResNet18_GradCAM", "resnet18-solutions-08")
    plain, flipped, again = map(float, re.findall(r"seed \d: ([\d.]+) %", log))
    said = solution("ResNet18_GradCAM", 2)
    for ahead in (flipped - plain, again - plain):
        assert f"{ahead:.1f} points higher" in said
    assert abs(again - plain) > abs(flipped - plain)
    cell = cell_by_id("solutions/ResNet18_GradCAM", "resnet18-solutions-control")
    cells = re.findall(r"<td>(-?[\d.]+)</td>", cell.outputs[-1]["data"]["text/html"])
    mistakes, right = np.reshape([float(number) for number in cells], (2, 5))
    said = solution("ResNet18_GradCAM", 3)
    assert f"For mistakes, the correlation is {mistakes[0]:.2f}" in said
    assert f"for right answers, only {right[0]:.2f}" in said
    assert mistakes[1] == right[1]
    assert f"a standard error of {right[1]:.2f}" in said
    assert 2 < (mistakes[0] - right[0]) / np.hypot(mistakes[1], right[1]) < 3
    assert "between two and three of its own standard errors" in said
    assert (right[0] - right[2]) / right[1] < 2, "hardly more than two different images"
    assert f"{right[2]:.2f}" in said
    for logit, drop in (mistakes[3:], right[3:]):
        assert f"{drop:.2f} of {logit:.2f}" in said


def agreement_table():
    """Mean, standard error and chance of each row of ResNet18's table, from its stored output."""
    cell = cell_by_id("ResNet18_GradCAM", "resnet18-agreement")
    rows = re.findall(
        r"<th>(\w+, .+?)</th>\s*" + 4 * r"<td>(-?[\d.]+)</td>\s*",
        cell.outputs[-1]["data"]["text/html"],
    )
    columns = ["name", "same image", "standard error", "two images", "above chance"]
    return pd.DataFrame(rows, columns=columns).set_index("name").astype(float)


def test_what_is_said_of_the_test_of_grad_cam_is_in_its_table():
    table = agreement_table()
    above, error = table["above chance"], table["standard error"]
    assert above["resnet18, layer3"] > 3 * error["resnet18, layer3"], "clearly more than chance"
    right = "resnet18, layer3, right answers"
    assert above[right] < 2 * error[right], "hardly more than chance"
    assert table["same image"].max() < 0.7, "no mean is near 1"
    layers = table.loc[["resnet18, layer1", "resnet18, layer2", "resnet18, layer4"]]
    behind = table.loc["resnet18, layer3", "same image"] - layers["same image"]
    assert (behind > 0).all()


def test_the_maps_of_the_last_layer_add_up_to_the_logit_and_no_others():
    text = cell_by_id("ResNet18_GradCAM", "resnet18-exact").outputs[0]["text"]
    rows = re.findall(r"^(\w+): weighted maps and bias: (-?[\d.]+), logit: (-?[\d.]+)$", text, re.M)
    (last, last_sum, logit), (before, sum_before, same_logit) = rows
    assert (last, before) == ("layer4", "layer3")
    assert last_sum == logit == same_logit
    assert abs(float(sum_before) - float(logit)) > 0.1


def test_exercises_on_resnet18s_mistakes_find_its_own():
    sources = [c.source for c in read("ResNet18_GradCAM").cells if c.cell_type == "code"]
    assert len(re.findall(r"^mistakes = ", "\n".join(sources), re.MULTILINE)) == 1
