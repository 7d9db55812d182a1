"""The pages in results/ say what the kept files say, hold together, and fit a page."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from torch import nn

from helpers.anatomy import receptive_field, summary
from helpers.images import data as data_module
from helpers.models import MODELS, build
from helpers.runs.catalogue import RUNS
from helpers.runs.conductor import train
from helpers.settings import ROOT, SMOKE, Settings
from tracing.layers import layers
from upkeep import handin, tables

PAGES = [ROOT / "README.md", *sorted((ROOT / "results").glob("**/README.md"))]
PAGES = [page for page in PAGES if not any(part.startswith("_") for part in page.parts)]
HAND_INS = sorted((ROOT / "results").glob("[!_]*/README.md"))
HAND_INS = [page for page in HAND_INS if page.parent.name != "benchmark"]
KEPT = tables.kept(ROOT / "results")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small as the networks' work is here, threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name(page):
    return str(page.relative_to(ROOT))


def table_rows(text):
    """The tables of a page, each a list of rows of cells as they are shown."""
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        shown = re.sub(r"[*`]|!\[.*?\]\(.*?\)", "", block)  # an image is as wide as it may be
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", shown)
        yield [[cell.strip() for cell in row[1:-1].split("|")] for row in shown.splitlines()]


def assert_links_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{name(page) if page.is_relative_to(ROOT) else page}: {missing}"
    assert all(len(alt) > 10 for alt in re.findall(r"!\[([^]]*)\]", text))
    return links


def test_there_is_a_hand_in_for_every_notebook():
    assert {page.parent.name for page in HAND_INS} == {
        path.stem for path in (ROOT / "notebooks").glob("*.ipynb")
    }


def test_the_committed_pages_are_those_of_the_kept_files(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors", "_*")
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=ignored)
    shutil.copy(ROOT / "README.md", tmp_path)
    for page in HAND_INS:
        (tmp_path / name(page)).unlink()
    tables.report(tmp_path)
    handin.of_notebooks(tmp_path)
    for page in PAGES:
        assert (tmp_path / name(page)).read_text() == page.read_text(), f"make report: {name(page)}"


@pytest.mark.parametrize("run", KEPT)
def test_the_kept_tables_are_those_of_the_network(run):
    folder, model = ROOT / "results" / run, build(KEPT[run]["net"])
    assert (folder / "summary.txt").read_text() == summary.layer_table(model)
    table = receptive_field.table(layers(model)).to_csv()
    assert (folder / "receptive_field.csv").read_text() == table


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_exist_and_figures_have_alt_texts(page):
    assert assert_links_exist(page)


@pytest.mark.parametrize("page", HAND_INS, ids=name)
def test_a_hand_in_shows_every_figure_and_number_of_its_runs(page):
    text, links = page.read_text(), assert_links_exist(page)
    assert {page.parent / link for link in links} >= set(page.parent.glob("**/*.png"))
    for run, metrics in KEPT.items():
        if run.startswith(f"{page.parent.name}/"):
            assert f"{metrics['params']:,} parameters" in text
            assert f"{metrics['test_accuracy_mean']:.2f}" in text
            assert all(f"{value:.1f} %" in text for value in metrics["class_accuracy"].values())
            measured = [row["measured"] for row in metrics["requirements"]]
            assert all(value.replace("->", "→") in text for value in measured)
            assert (ROOT / "results" / run / "log.txt").read_text() in text


@pytest.mark.parametrize("page", HAND_INS, ids=name)
def test_result_and_demands_come_first_and_verification_last(page):
    heads = re.findall(r"^## (.*)", page.read_text(), re.MULTILINE)
    assert heads[:4] == ["Result", "Demands", "Networks", "Training"]
    assert heads[-2:] == ["Accuracy by class", "Verify"]


@pytest.mark.parametrize("page", HAND_INS, ids=name)
def test_demands_show_a_mark_and_a_word(page):
    text, folder = page.read_text(), page.parent.name
    judged = [
        row for run in KEPT if run.split("/")[0] == folder for row in KEPT[run]["requirements"]
    ]
    passed = sum(row["passed"] for row in judged)
    assert text.count("✓ passed") == passed
    assert text.count("✗ failed") == len(judged) - passed
    assert not re.search(r"\| *(True|False)\b", text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_table_or_listing_is_wider_than_the_page(page):
    """GitHub shows 846 pixels: a cell wraps at spaces, has 26 pixels of padding, and a border."""
    text = page.read_text()
    for rows in table_rows(text):
        columns = zip(*rows, strict=True)
        words = [
            max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns
        ]
        assert sum(8.5 * word + 27 for word in words) <= 846, rows[0]
    for listing in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        assert max(map(len, listing.splitlines())) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_and_folds_are_set_off_so_that_github_renders_them(page):
    lines = page.read_text().splitlines()
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if re.fullmatch(r"\|( ?-+ ?\|)+", line):
            assert before.count("|") == line.count("|") == after.count("|")
        if line.startswith(("<details", "</details", "| run ", "| demand ")):
            assert before == "", line
        if line.startswith(("<details", "</details")):
            assert after == "", line


def test_the_readme_has_few_columns_and_results_all_in_two_tables():
    [narrow] = [r for r in table_rows((ROOT / "README.md").read_text()) if r[0][0] == "run"]
    [same, more] = table_rows((ROOT / "results" / "README.md").read_text())
    assert narrow == same
    assert narrow[0][:2] == ["run", "test accuracy"]  # on a phone the rest is scrolled to
    assert [row[0] for row in more] == [row[0] for row in narrow]
    assert not set(narrow[0][1:]) & set(more[0])
    assert len(narrow[0]) == len(more[0]) == 7
    assert len(narrow) == 2 + len(KEPT)


def test_seeds_that_were_trained_elsewhere_say_where():
    of_seed = {"seed": 0, "test_accuracy": 90.0, "test_accuracy_flip_tta": 91.0}
    elsewhere = {"seed": 1, "trained_on": [{"device": "a second machine", "precision": "fp16"}]}
    run = KEPT["S7/s7"] | {"device": "a first machine", "precision": "bf16"}
    run |= {"seeds": [of_seed, of_seed | elsewhere]}
    _, [*_, row] = table_rows(tables.table({"S7/s7": run}, wide=True))
    assert row[-2:] == ["bf16; fp16", "a first machine; a second machine"]
    page = (ROOT / "results" / "S7" / "README.md").read_text()
    [rows] = [rows for rows in table_rows(page) if rows[0][0] == "s7_dropout, seed"]
    kept = KEPT["S7/s7_dropout"]
    places = [kept, *(of_seed["trained_on"][0] for of_seed in kept["seeds"][1:])]
    assert [row[-1] for row in rows[2:]] == [f"{at['device']}, {at['precision']}" for at in places]


class Mine(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 10, 3, stride=4), nn.BatchNorm2d(10), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of a student who trained a network of their own, and one of ours."""
    home = tmp_path_factory.mktemp("home")
    digits = data_module.digits().first(200)
    mine = dataclasses.replace(RUNS["S9/compact"], name="S9/mine", net="mine", published=None)
    MODELS["mine"] = Mine
    train(mine, digits, Settings(SMOKE, "digits", home=home), seeds=2)
    del MODELS["mine"]
    (home / "results" / "_smoke-digits").rename(home / "kept")
    shutil.rmtree(home / "results")
    (home / "kept").rename(home / "results")
    shutil.copytree(
        ROOT / "results" / "S9" / "compact", home / "results" / "S9" / "compact",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )  # fmt: skip
    return home


def test_a_students_run_gets_the_same_page_without_the_others(home):
    page = handin.of_run("S9/mine", home)
    assert page == home / "results" / "S9" / "mine" / "README.md"
    text, metrics = page.read_text(), json.loads((page.parent / "metrics.json").read_text())
    assert text.startswith("# S9/mine: report\n")
    mean, std = metrics["test_accuracy_mean"], metrics["test_accuracy_std"]
    assert f"**{mean:.2f} ± {std:.2f} %** (2 seeds)" in text
    assert f"{metrics['params']:,} parameters" in text
    assert "BatchNorm2d-2" in text and "| conv1 | 32 | 3 | 0 | 4 | 8 | 4 | 3 |" in text
    assert (page.parent / "log.txt").read_text() in text
    assert f"✗ failed: {metrics['device']}" in text, "a demand on the run"
    assert "| receptive field > 44 | ✗ failed: " in text, "a demand on the network"
    assert "compact" not in text
    assert "check S9 my_network.py:Mine --run results/S9/mine" in text, "mine is in no file yet"
    assert_links_exist(page)


def test_a_figure_of_ones_own_is_shown_under_its_name(home):
    figure = home / "results" / "S9" / "mine" / "strange_idea.png"
    figure.write_bytes(b"")
    assert "![Strange idea (mine)](strange_idea.png)" in handin.of_run("S9/mine", home).read_text()
    handin.of_notebooks(home)
    page = home / "results" / "S9" / "README.md"
    figure_there = "![Strange idea (mine)](mine/strange_idea.png)"
    assert figure_there in page.read_text()
    figure.unlink()


def test_a_network_that_no_table_was_made_of_has_a_page_all_the_same(home, tmp_path):
    folder = tmp_path / "results" / "S9" / "mine"
    shutil.copytree(home / "results" / "S9" / "mine", folder)
    (folder / "summary.txt").unlink()
    (folder / "receptive_field.csv").unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"mult_adds": None, "receptive_field": {}, "net": "net.py:Mine"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = handin.of_run("S9/mine", tmp_path).read_text()
    assert "no table of its layers" in text and "no table of its receptive field" in text
    assert "python -m helpers check S9 net.py:Mine --run results/S9/mine" in text


def test_a_run_that_is_not_there_is_named_with_those_that_are(home):
    with pytest.raises(ValueError, match=r"run=S9/never: .*metrics\.json; .*S9/compact, S9/mine"):
        handin.of_run("S9/never", home)
    assert not (home / "results" / "S9" / "never").exists()


def test_our_own_runs_stand_first_and_in_the_order_of_the_list(home):
    assert list(KEPT) == [run for run in RUNS if run in KEPT]
    assert list(tables.kept(home / "results")) == ["S9/compact", "S9/mine"]


def test_the_comparison_shows_every_run_and_hand_in_and_no_label_over_another():
    figure = tables.comparison(list(KEPT.values()))
    figure.canvas.draw()
    [axis] = figure.axes
    assert axis.get_xscale() == "log"
    published, ours = (
        {tuple(point) for point in line.get_xydata()}
        for line in axis.lines
        if line.get_marker() in "so"
    )
    assert ours == {(m["params"], m["test_accuracy_mean"]) for m in KEPT.values()}
    stated = {(r["params"], r["published_test_accuracy"]) for r in KEPT.values()}
    assert {p for p in published if p[1] == p[1]} == {p for p in stated if p[1]}
    assert {text.get_text() for text in axis.texts} == {m["net"] for m in KEPT.values()}
    drawn = [*axis.texts, axis.get_legend()]
    boxes = [artist.get_window_extent() for artist in drawn]
    points = axis.transData.transform([*ours, *(p for p in published if p[1] == p[1])])
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), drawn[i]
        assert not any(box.padded(2).contains(*point) for point in points), drawn[i]
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
