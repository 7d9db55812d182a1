"""The pages as readers see them: what is shown fits, is explained, and says what the code says."""

import ast
import dataclasses
import functools
import html
import json
import re
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import experiments, inspection, lr_finder, models, plotting
from helpers.config import FULL, ROOT, SMOKE, Settings
from helpers.data import load_sample
from helpers.experiments import EXPERIMENTS
from helpers.grad_cam import grad_cam
from helpers.optim import scale_to_profile
from helpers.results import Result, read_metrics
from tests.easy_images import easy_images
from tools.experiments import batch_statistics, learning_rates

NAMES = ("S7", "S9", "S10", "ResNet18_GradCAM")
PAGES = [*NAMES, *(f"solutions/{name}" for name in NAMES)]
TERMS = ("epochs", "logits", "momentum", "label smoothing", "whitening", "identity initialisation")


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


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_ones_own_is_not_tested_on_the_test_images(name, sample, monkeypatch):
    monkeypatch.setattr(models, "MODELS", {**models.MODELS})
    monkeypatch.setattr(experiments, "MODELS", models.MODELS)
    monkeypatch.setattr(experiments, "run_experiment", lambda *arguments: arguments)
    scope = {"Mine": nn.Identity, "data": sample, "settings": Settings(FULL)}
    scope["try_model"] = experiments.try_model
    exec(code(name, "try_model(Mine, "), scope)
    experiment, data, settings = scope["result_mine"]
    assert experiment.name == f"{name}/mine"
    assert (data.split, settings.profile.epochs) == ("validation", 2)
    assert not {image.tobytes() for image in data.test_images} & {
        image.tobytes() for image in sample.test_images
    }
    [cell] = [cell for cell in read(name).cells if cell.id.endswith("-own-7")]
    saved, mine = cell.outputs[0]["data"]["text/plain"].splitlines()[-2:]
    assert (saved.split()[5], mine.split()[5]) == ("10,000", "5,000")


def test_terms_are_introduced_with_a_link_before_they_are_used():
    text = prose("S7").lower()
    for term in TERMS:
        first = re.search(rf"\b{term}\b", text)
        assert re.match(rf"{term}\]\(https://", text[first.start() :]), term
        assert text[first.start() - 1] == "[", term
    for name in NAMES[1:]:
        assert "(S7.ipynb)" in prose(name).partition("## 1.")[0], name


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_with_what_is_new_and_a_picture_and_ends_with_your_own(name):
    opening = read(name).cells[0].source
    assert "**New here.**" in opening
    [picture] = re.findall(r"!\[[^]]{20,}\]\(\.\./(results/[^)]+\.png)\)", opening)
    assert (ROOT / picture).is_file()
    assert f"{picture})\n\n*" in opening, "the picture has no caption"
    headings = re.findall(r"^## (\d+)\. (.*)", prose(name), re.MULTILINE)
    assert [int(number) for number, _ in headings] == list(range(1, len(headings) + 1))
    assert headings[-1][1] == "Your own picture"


@pytest.mark.parametrize("name", NAMES)
def test_links_between_pages_and_sections_lead_somewhere(name):
    folder = ROOT / "notebooks"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose(name)):
        assert (folder / target).resolve().exists(), target
    sections = [int(n) for n in re.findall(r"^## (\d+)\.", prose(name), re.MULTILINE)]
    for number in re.findall(r"[Ss]ections? (\d+)", prose(name)):
        assert int(number) in sections


@pytest.mark.parametrize("name", NAMES)
def test_exercises_say_what_one_learns_and_are_solved(name):
    text = prose(name).partition("Exercises")[2].partition("\n## ")[0]
    assert f"(solutions/{name}.ipynb)" in text
    exercises = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(exercises) == 4
    for exercise in exercises:
        assert re.search(r"\*You\s+learn.*minutes.*\*", exercise, re.DOTALL), exercise
    solved = re.findall(r"^## (\d)\. ", prose(f"solutions/{name}"), re.MULTILINE)
    assert solved == ["1", "2", "3", "4"]
    opening = read(f"solutions/{name}").cells[0].source
    assert re.search(r"\*\*You learn\*\*.*\*\*Time:\*\*", opening, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_there_is_one_table_of_our_models_requirements(name):
    cells = [c.source for c in read(name).cells if c.cell_type == "code" and "own" not in c.id]
    assert sum("requirements." in source for source in cells) == 1


def test_grad_cam_by_hand_is_the_librarys(sample):
    source = code("ResNet18_GradCAM", "def grad_cam_by_hand")
    assert len(source.splitlines()) <= 16
    scope = {"F": F, "nn": nn, "torch": torch}
    exec(source, scope)
    torch.manual_seed(0)
    model, image = models.get_model("compact").eval(), sample.test_images[:1]
    model.fc.weight.data *= 1_000  # beside such gradients the library's epsilon is nothing
    inputs = sample.normalize(torch.from_numpy(image).permute(0, 3, 1, 2))
    for label in (0, 6):  # both have positive evidence in this image
        by_hand = scope["grad_cam_by_hand"](model, "block4", inputs, label)
        library = grad_cam(model, "block4", image, np.array([label]), sample)[0]
        assert library.max() > 0.9
        assert np.allclose(by_hand, library, atol=1e-5)
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
    section = cells[ids.index("resnet18-33") : ids.index("resnet18-agreement-paired") + 1]
    assert len(section) >= 10
    for cell in section:
        exec(cell.source, scope)
    assert "largest difference from the grad-cam library: 0.0" in capsys.readouterr().out


def test_the_loop_on_the_page_is_short_and_learns(capsys, monkeypatch):
    source = code("S7", "loss.backward()")
    assert len(source.splitlines()) <= 15
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
    scope = {"nn": nn, "np": np, "torch": torch, "s9": models.get_model("s9")}
    exec(code("S9", "def values_read"), scope)
    shares = [f"{every.mean():.0%}" for _, _, every in scope["read"].values()]
    assert shares == ["100%"] * 5 + ["25%", "100%", "25%", "100%"]
    own, another = (dict(zip(scope["read"], grids, strict=True)) for grids in list(
        zip(*scope["read"].values(), strict=True))[:2])  # fmt: skip
    assert own["3x3"].sum() == another["3x3"].sum() == 9
    assert own["3x3\ndepthwise"].sum() == 9
    assert another["3x3\ndepthwise"].sum() == 0
    rows, columns = np.nonzero(own["3x3\ndilation 2"])
    assert sorted(set(np.diff(np.unique(rows)))) == sorted(set(np.diff(np.unique(columns)))) == [2]
    assert "s9: 1x1, stride 2" in capsys.readouterr().out


def test_s10s_stages_are_all_that_the_submission_lists(capsys):
    scope = {"models": models, "torch": torch}
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
    peak = scope["s10"].config.max_lr * 2 * scope["s10"].config.weight_decay
    assert f"{peak:.5f}".lstrip("0") + " at AdamW's peak" in prose("solutions/S10")
    assert "weight decay of 5e-4" in prose("S10")


def test_what_s7_says_of_its_ablation_is_in_the_table(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    scope = {"pd": pd, "np": np}
    exec(code("S7", "ablation.csv"), scope)
    difference = scope["ablation"].set_index("name")["standard errors"]
    assert difference.idxmin() == "usual random weights"
    assert capsys.readouterr().out.rstrip().endswith("clearly different: usual random weights")
    reached = scope["ablation"].set_index("name").loc["no augmentation"]
    shares = "right on {:.0f} % of the images that it was trained on, and on {:.0f} % of the others"
    said = shares.format(reached["training accuracy (%)"], reached["validation accuracy (%)"])
    assert said in " ".join(prose("S7").split())


def test_what_s7_says_of_full_runs_with_muon_is_in_the_table():
    assert "ended half a point below those with SGD" in " ".join(prose("S7").split())
    tried = pd.read_csv(ROOT / "results" / "S7" / "tried.csv").set_index("name")
    muon = tried.loc["s7, 50,000 images, 10 epochs: optimizer Muon, max_lr 0.15"]
    assert len(muon) == 3
    sgd = json.loads((ROOT / "results" / "S7" / "s7" / "metrics.json").read_text())
    assert 0.4 < sgd["test_accuracy_mean"] - muon["test accuracy (%)"].mean() < 0.6


def test_what_s10_says_of_its_sweep_is_in_the_table(tmp_path, monkeypatch):
    for said in (
        "at twice the best rate of the five, the loss is higher than at a quarter of it",
        "are 35 to 120 times as high",
        "Another seed moves the best rate by less than a fifth",
        "by up to two hundredths, and the rate found from them by up to a sixth",
    ):
        assert said in " ".join(prose("S10").split())
    monkeypatch.chdir(ROOT)
    scope = {"pd": pd, "Path": Path, "folder": tmp_path, "save_and_show": lambda *_: None}
    scope |= {"plotting": plotting, "lr_finder": lr_finder}
    scope |= {"read_metrics": read_metrics, "EXPERIMENTS": EXPERIMENTS}
    exec(code("S10", "sweep = "), scope)
    exec(code("S10", "best_lrs = "), scope)
    sweep, lr_table = scope["sweep"], scope["lr_table"]
    best = lr_table[["seed 0", "seed 1"]].set_axis([0, 1], axis=1)
    full = EXPERIMENTS["S10/s10"].config
    images = learning_rates.TRAIN_IMAGES
    assert lr_finder.SHORT_RUN.epochs == learning_rates.PROFILE.epochs
    assert images == 50_000 // 5
    short = scale_to_profile(full, learning_rates.PROFILE, images)
    steps = [r.epochs * -(-n // r.batch_size) for r, n in ((short, images), (full, 50_000))]
    assert "take {} steps, a full run {:,}.".format(*steps) in " ".join(prose("S10").split())
    losses = sweep[sweep["run"] == "s10, AdamW"].set_index("learning rate")["validation loss"]
    assert losses[2 * losses.idxmin()] > losses[losses.idxmin() / 4]
    others = best.drop(index="s10, AdamW").to_numpy() / best.loc["s10, AdamW"].dropna()[0]
    assert np.nanmin(others) == pytest.approx(35, abs=2.5)
    assert np.nanmax(others) == pytest.approx(120, abs=5)
    moved = (best[1] / best[0]).dropna()
    assert len(moved) == 3
    assert moved.between(1 / 1.2, 1.2).all()
    assert max(*moved, *1 / moved) == pytest.approx(7 / 6, abs=0.02), "a sixth"
    saved = lr_table["saved run"].dropna()
    assert len(saved) == 6
    ratios = pd.concat([saved[run] / best.loc[run].dropna() for run in saved.index])
    assert max(*ratios, *1 / ratios) < 1.8
    assert "none of them more than a factor of 1.8" in " ".join(prose("S10").split())
    assert "within a factor of 3.5 (SGD) or 1.2 (Muon)" in " ".join(prose("S10").split())
    for optimizer, factor in (("SGD", 3.5), ("Muon", 1.2)):
        of_optimizer = best[0][best.index.str.endswith(f", {optimizer}")]
        assert of_optimizer.max() / of_optimizer.min() == pytest.approx(factor, abs=0.05)


def test_what_s9_says_of_its_jagged_curve_is_in_the_table():
    said = " ".join(prose("S9").split())
    assert "Measured again, the accuracy rises from each point to the next" in said
    assert "less than a point is missing three epochs before the end, less than a tenth" in said
    batches = batch_statistics.TRAIN_IMAGES / EXPERIMENTS["S9/compact"].config.batch_size
    assert batches == 40
    assert "measured again on forty batches" in said
    table = pd.read_csv(ROOT / "results" / "S9" / "batch_statistics.csv")
    assert table["name"].str.startswith("S9/compact, epoch ").all()
    assert table["seed"].nunique() == 2
    for _, of_seed in table.sort_values("epoch").groupby("seed"):
        remembered, again = (of_seed[f"test accuracy (%), {way}"] for way in (
            "as remembered", "measured again"))  # fmt: skip
        assert len(again) >= 4
        assert list(of_seed["epoch"])[-2:] == [32, 35]
        assert ((again - remembered).iloc[-2:] < [1, 0.1]).all()
        assert again.is_monotonic_increasing
        assert not remembered.is_monotonic_increasing
        assert (again > remembered).all()


def test_what_is_said_of_layers_is_what_they_are():
    layers = inspection.trace_layers(models.get_model("resnet18"))
    fields = {layer.name: layer.field[0] for layer in layers}
    ends = [fields[name] for name in ("conv5", "conv10", "conv15", "conv20")]
    assert "one value sees {}, {}, {} and {} pixels".format(*ends) in " ".join(
        prose("ResNet18_GradCAM").split())  # fmt: skip
    costs = inspection.layer_cost_percentages(models.get_model("s10"))
    last = costs.loc[["conv7", "conv8"]].sum()
    assert f"hold {last['parameters']:.0f} % of all parameters" in prose("S10")
    assert last["multiply-adds"] == pytest.approx(20, abs=0.5), "a fifth"


def test_what_s9_says_of_work_that_is_lost_is_in_its_shares():
    unread = 0.75 * inspection.layer_cost_percentages(models.get_model("s9"))["multiply-adds"]
    said, each = " ".join(prose("S9").split()), unread[["conv3", "conv6", "conv8"]]
    lost = (
        "three quarters, which are {:.0f} % of the network's. The other transitions waste most of "
    )
    lost += "`conv6` and of `conv8` in the same way ({:.0f} and {:.0f} %): together about half"
    assert lost.format(*each) in said
    assert each.sum() == pytest.approx(50, abs=2)


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


def test_what_s7s_solutions_say_of_the_head_start_is_in_their_tables():
    said, of_cell, of_log = solved("S7")
    lead, trained = -np.diff(of_cell("09"), axis=0)[0], -np.diff(of_log("09"), axis=0)[0]
    assert f"the lead shrinks from {lead[0]:.1f} to {lead[-1]:.1f} points" in said
    assert f"the {lead[-1]:.1f} points that are missing" in said
    of_training = f"{trained[0]:.1f} points after the first epoch, {trained[-1]:.1f} after the last"
    assert of_training in said
    ours, usual = of_cell("09")
    later = np.interp(ours[:-1], usual, range(1, 6)) - range(1, 5)
    assert 0.4 < later.min() < later.mean() < 1.1 < later.max() < 1.7
    assert "reach half an epoch to one and a half epochs later: about one epoch is saved" in said


def test_what_s9s_solutions_say_of_their_runs_is_in_the_tables():
    said, of_cell, _ = solved("S9")
    compact, dilated = of_cell("06")
    assert f"the dilation of 2 is {compact[-1] - dilated[-1]:.1f} points behind" in said
    assert (dilated > compact).tolist()[:3] == [True] * 3
    mean, black, noise = of_cell("10")[:, -1]
    assert f"The mean is {mean - black:.1f} points ahead of either" in said
    assert f"{mean - black:.1f}" == f"{mean - noise:.1f}"
    tried = pd.read_csv(ROOT / "results" / "S9" / "tried.csv").set_index("name")
    again = tried.loc["compact, 10,000 images, 5 epochs: optimizer SGD", "validation accuracy (%)"]
    assert (
        "reached {:.1f} and {:.1f} %: beside those, a point or less is left".format(*again) in said
    )
    assert (again - max(black, noise)).between(0, 1.1).all()
    compact = models.get_model("compact")
    separable = [
        inspection.count_parameters(block[0]) for block in (compact.block3, compact.block4)
    ]
    assert "has {:,}, one of `block4` {:,}".format(*separable) in said
    over = inspection.count_parameters(compact) + 3 * (9 * 40**2 - 9 * 40 - 40**2) - 99_999
    assert f"lose {over:,} parameters or more" in said
    assert min(np.dot(separable, counts) for counts in ((2, 2), (1, 3))) >= over


def test_what_s10s_solutions_say_of_the_peaks_is_in_their_tables():
    said, of_cell, of_log = solved("S10")
    held, trained = of_cell("06"), of_log("06")
    assert np.ptp(held[:, 0]) < 2
    assert f"the three lie within {np.ptp(held[:, -1]):.1f} points".replace(" 0.", " .") in said
    behind = [sorted(share[:2, 2] - share[2, 2]) for share in (held, trained)]
    on_held, on_trained = ("{:.0f} and {:.0f}".format(*both) for both in behind)
    assert (
        f"{on_held} points behind the others on images held out, but only {on_trained} on" in said
    )


def test_what_is_said_of_the_test_of_grad_cam_is_in_its_table():
    cell = cell_by_id("ResNet18_GradCAM", "resnet18-agreement")
    text = cell.outputs[-1]["data"]["text/plain"]
    numbers = 4 * r" +(-?[\d.]+)"
    rows = re.findall(rf"^(\w+, \w+){numbers}$", text, re.MULTILINE)
    same, error, two, more = ({row[0]: float(row[i]) for row in rows} for i in (1, 2, 3, 4))
    of_resnet18 = {name: same[name] for name in same if name.startswith("resnet18")}
    assert list(of_resnet18) == [f"resnet18, layer{number}" for number in (1, 2, 3, 4)]
    assert max(of_resnet18, key=of_resnet18.get) == "resnet18, layer3"
    assert same["resnet18, layer1"] - two["resnet18, layer1"] < 0.1
    said = " ".join(prose("ResNet18_GradCAM").split())
    [cell] = [c for c in read("solutions/ResNet18_GradCAM").cells if c.id.endswith("-control")]
    text = cell.outputs[-1]["data"]["text/html"]
    solved_table = [float(x) for x in re.findall(r"<td>(-?[\d.]+)</td>", text)]
    assert solved_table[:2] == [same["resnet18, layer3"], error["resnet18, layer3"]]
    solved = " ".join(prose("solutions/ResNet18_GradCAM").split())
    shown_in = "{5:.2f} and {0:.2f}, with standard errors of {1:.2f}."
    for said_of in (shown_in, "by {9:.2f} of {8:.2f} on average, that of a mistake by {4} of {3}"):
        assert said_of.format(*solved_table).replace("0.", ".") in solved
    both = (solved_table[1] ** 2 + solved_table[6] ** 2) ** 0.5
    assert 2 < (solved_table[0] - solved_table[5]) / both < 3
    assert "The difference is less than three of its own standard errors" in solved
    [cell] = [c for c in read("solutions/ResNet18_GradCAM").cells if c.id.endswith("-08")]
    reached = re.findall(r"seed \d: ([\d.]+) %", "".join(o.get("text", "") for o in cell.outputs))
    plain, flipped, again = map(float, reached)
    behind = f"ends {plain - flipped:.1f} points lower; with another seed and no flip, "
    assert (behind + f"{plain - again:.1f} points lower").replace(" 0.", " .") in solved
    assert "`layer2` and `layer4` are behind `layer3` by about two of their standard errors" in said
    cell = cell_by_id("ResNet18_GradCAM", "resnet18-agreement-paired")
    text = cell.outputs[-1]["data"]["text/plain"]
    behind = re.findall(r"^resnet18, (\w+) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert behind.pop(2) == ("layer3", "0.00", "0.00")
    times = {layer: float(mean) / float(error) for layer, mean, error in behind}
    assert list(times) == ["layer1", "layer2", "layer4"]
    assert max(times["layer2"], times["layer4"]) == pytest.approx(2, abs=0.3)
    assert max(of_resnet18.values()) < same["compact, block4"] < 0.7
    assert "above it, it is ahead of `layer3` by about one standard error" in said
    both = (error["resnet18, layer3"] ** 2 + error["compact, block4"] ** 2) ** 0.5
    assert 0.7 < (more["compact, block4"] - more["resnet18, layer3"]) / both < 1.3


def test_the_maps_of_the_last_layer_add_up_to_the_logit_and_no_others():
    text = cell_by_id("ResNet18_GradCAM", "resnet18-exact").outputs[0]["text"]
    rows = re.findall(r"^(\w+): weighted maps and bias: (-?[\d.]+), logit: (-?[\d.]+)$", text, re.M)
    (last, last_sum, logit), (before, sum_before, same_logit) = rows
    assert (last, before) == ("layer4", "layer3")
    assert last_sum == logit == same_logit
    assert abs(float(sum_before) - float(logit)) > 0.1


def test_what_s10_says_of_its_learning_rates_holds_for_the_saved_search():
    folder = ROOT / "results" / "S10" / "s10"
    said = " ".join(prose("S10").split())
    metrics = json.loads((folder / "metrics.json").read_text())
    search = json.loads((folder / "rate_search.json").read_text())
    losses, lr_curve = dict(search["short_runs"]), pd.DataFrame(search["range_test"])
    lr, best = lr_finder.interpolate_best_lr(losses), min(losses, key=losses.get)
    assert np.isfinite([losses[best / 2], losses[2 * best]]).all(), "between two that are worse"
    lrs, average_loss = lr_curve["learning_rate"], lr_curve["loss"]
    start = lrs[average_loss.idxmin()] / 10
    assert next(iter(losses)) == pytest.approx(start)
    assert 1.5 < lr / start < 2.5
    assert "a little over half of what the short runs found" in said
    step_loss = (average_loss - 0.95 * average_loss.shift()) / 0.05
    assert lrs[step_loss.idxmin()] / 10 == pytest.approx(lr / 3, rel=0.05)
    assert "a tenth of the lowest dot's rate is a third of it" in said
    assert average_loss.idxmin() - step_loss.idxmin() == 5
    assert "lies five steps behind the lowest dot" in " ".join(prose("solutions/S10").split())
    cell = cell_by_id("solutions/S10", "s10-solutions-10")
    text = cell.outputs[-1]["data"]["text/plain"].splitlines()
    assert "it breaks with SGD at .025 and is unsteady at a tenth of that" in said
    _, adamw, high, low = (float(number) for number in text[-1].split())
    assert high < low - 20
    assert low < adamw - 10
    max_lr, decay = metrics["max_lr"], metrics["recipe"]["weight_decay"]
    assert max_lr == pytest.approx(lr)
    assert f"{max_lr:.4f} x {decay} = {max_lr * decay:.4f}".replace("0.", ".") in said


def test_compact_gains_less_than_its_multiply_adds_promise_as_s9_says():
    for said in (
        "fewer than half as many",
        "it is the slower one in bfloat16 with AVX512, and in float32 with AVX2 the faster one",
    ):
        assert said in " ".join(prose("S9").split())
    for precision in ("bf16-avx512", "float32-avx2"):
        file = ROOT / "results" / "benchmark" / f"amd-epyc-2-threads-{precision}.json"
        networks = json.loads(file.read_text())["networks"]
        compact, s9 = (networks[name] for name in ("compact", "s9"))
        promised = s9["mult_adds"] / compact["mult_adds"]
        gain = compact["project"]["images_per_second"] / s9["project"]["images_per_second"]
        assert promised > 2
        assert gain < 1 if precision == "bf16-avx512" else 1 < gain < promised


def test_exercises_on_resnet18s_mistakes_find_its_own():
    sources = [c.source for c in read("ResNet18_GradCAM").cells if c.cell_type == "code"]
    assert len(re.findall(r"^mistakes = ", "\n".join(sources), re.MULTILINE)) == 1


def test_what_s7_says_of_muon_and_of_time_is_in_the_tables():
    said = " ".join(prose("S7").split())
    tried = pd.read_csv(ROOT / "results" / "S7" / "tried.csv").set_index("name")
    reached = tried["validation accuracy (%)"]
    short = "s7, 10,000 images, 5 epochs: optimizer Muon, max_lr 0.15"
    alike = reached[short], reached[f"{short}, whitening_init False, dirac_init False"]
    assert [f"{share:.1f}" for share in alike] == ["79.7", "79.7"]
    assert "79.7 % of the images held out with it and without it" in said
    assert "1.7 times in bfloat16 with AVX512, 3.5 times in float32 with AVX2" in said
    for name, said_of in (("bf16-avx512", 1.7), ("float32-avx2", 3.5)):
        file = ROOT / "results" / "benchmark" / f"amd-epyc-2-threads-{name}.json"
        networks = json.loads(file.read_text())["networks"]
        s7, dropout = (networks[name] for name in ("s7", "s7_dropout"))
        assert s7["mult_adds"] / dropout["mult_adds"] == pytest.approx(5, abs=0.3)
        gain = dropout["project"]["images_per_second"] / s7["project"]["images_per_second"]
        assert gain == pytest.approx(said_of, abs=0.05)


def test_what_s9_says_of_muon_and_of_batches_is_in_the_table():
    tried = pd.read_csv(ROOT / "results" / "S9" / "tried.csv")
    short = tried[tried["training images"] == 10_000]
    assert (short.groupby("name")["seed"].nunique() == 2).all()
    mean = tried.groupby("name")["validation accuracy (%)"].mean()

    def lead(change: str, over: str) -> str:
        return f"{mean[change] - mean[over]:.1f}"

    both = [f"{network}, 10,000 images, 5 epochs:" for network in ("s9", "compact")]
    by_muon = [lead(f"{runs} optimizer Muon", f"{runs} optimizer SGD") for runs in both]
    by_batches = [lead(f"{runs} batch_size 64", f"{runs} optimizer SGD") for runs in both]
    longer = "compact, 45,000 images, 10 epochs: optimizer"
    in_longer = lead(f"{longer} Muon, max_lr 0.1", f"{longer} SGD")
    said = " ".join(prose("S9").split())
    slower = [lead(f"{runs} optimizer Muon, max_lr 0.1", f"{runs} optimizer SGD") for runs in both]
    assert "by {} points for `s9` and by {} for `compact`".format(*by_muon) in said
    assert "(and at a rate of .1 by {} and {})".format(*slower) in said
    assert "of 128 by {} and {}".format(*by_batches) in said
    assert f"Muon, at a rate of .1, led by {in_longer} points" in said
    assert "both networks keep SGD and batches of 128" in said
    cell = cell_by_id("S9", "s9-35-difference")
    assert "seeds decide little" in cell.outputs[0]["text"]
    assert "from three seeds each, which decide little" in said
    for name in ("s9", "compact"):
        metrics = json.loads((ROOT / "results" / "S9" / name / "metrics.json").read_text())
        assert (metrics["optimizer"], metrics["batch_size"]) == ("SGD", 128)
    reached = tried[tried["seed"] == 0].set_index("name")
    cell = cell_by_id("solutions/S9", "s9-solutions-06")
    again = float(cell.outputs[-1]["data"]["text/plain"].split()[-2])  # compact, after epoch 5
    once = reached.loc["compact, 10,000 images, 5 epochs: optimizer SGD", "validation accuracy (%)"]
    assert f"reached {again - once:.1f} points less" in " ".join(prose("solutions/S9").split())
    cell = cell_by_id("solutions/S9", "s9-solutions-13")
    again = float(cell.outputs[-1]["data"]["text/plain"].split()[-2])  # s9, after epoch 5
    once = reached.loc["s9, 10,000 images, 5 epochs: optimizer SGD", "validation accuracy (%)"]
    for page in ("S7", "S9", "solutions/S7", "solutions/S9", "solutions/S10"):
        assert f"{once - again:.1f} points" in " ".join(prose(page).split()), page
