"""The pages in results/ show what the saved files contain, are coherent, and fit a page."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from torch import nn

from helpers import data as data_module
from helpers import report
from helpers.config import ROOT, SMOKE, Settings
from helpers.experiments import EXPERIMENTS, run_experiment
from helpers.files import CorruptFileError
from helpers.inspection import receptive_field_table, torchsummary_text
from helpers.models import MODELS, get_model
from helpers.notebook_runner import ORDER
from helpers.results import format_accuracy

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("**/README.md")),
]
PAGES = [page for page in PAGES if not any(part.startswith("_") for part in page.parts)]
NOTEBOOK_PAGES = sorted((ROOT / "results").glob("[!_]*/README.md"))
NOTEBOOK_PAGES = [page for page in NOTEBOOK_PAGES if page.parent.name != "benchmark"]
METRICS = report.load_all_metrics(ROOT / "results")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The networks' work is small here, so that threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def page_name(page):
    return str(page.relative_to(ROOT))


def table_rows(text):
    """Yield the tables of a page, each a list of rows of cells as they are displayed."""
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        displayed = re.sub(r"[*`]|!\[.*?\]\(.*?\)", "", block)  # images may have any width
        displayed = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", displayed)
        yield [[cell.strip() for cell in row[1:-1].split("|")] for row in displayed.splitlines()]


def assert_links_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page}: {missing}"
    assert all(len(alt) > 10 for alt in re.findall(r"!\[([^]]*)\]", text))
    return links


def test_there_is_a_page_for_every_notebook():
    assert {page.parent.name for page in NOTEBOOK_PAGES} == set(ORDER)


def test_the_committed_pages_are_those_of_the_saved_files(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors", "_*")
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=ignored)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for page in NOTEBOOK_PAGES:
        (tmp_path / page_name(page)).unlink()
    report.write_results_tables(tmp_path)
    report.write_notebook_titles(tmp_path)
    report.write_notebook_reports(tmp_path)
    for page in [*PAGES, *(ROOT / "notebooks" / f"{name}.ipynb" for name in ORDER)]:
        written = (tmp_path / page_name(page)).read_text()
        assert written == page.read_text(), f"make report: {page_name(page)}"


@pytest.mark.parametrize("run", METRICS)
def test_the_saved_tables_are_those_of_the_network(run):
    folder = ROOT / "results" / run
    model = get_model(METRICS[run]["net"])
    assert (folder / "summary.txt").read_text() == torchsummary_text(model)
    table = receptive_field_table(model).to_csv()
    assert (folder / "receptive_field.csv").read_text() == table


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_exist_and_figures_have_alt_texts(page):
    assert assert_links_exist(page)


@pytest.mark.parametrize("page", NOTEBOOK_PAGES, ids=page_name)
def test_a_report_shows_every_figure_and_number_of_its_runs(page):
    text = page.read_text()
    links = assert_links_exist(page)
    assert {page.parent / link for link in links} >= set(page.parent.glob("**/*.png"))
    for run, metrics in METRICS.items():
        if run.startswith(f"{page.parent.name}/"):
            assert f"{metrics['params']:,} parameters" in text
            assert f"{metrics['test_accuracy_mean']:.2f}" in text
            assert all(f"{value:.1f} %" in text for value in metrics["class_accuracy"].values())
            measured = [row["measured"] for row in metrics["requirements"]]
            assert all(value.replace("->", "→") in text for value in measured)
            assert (ROOT / "results" / run / "log.txt").read_text() in text


@pytest.mark.parametrize("page", NOTEBOOK_PAGES, ids=page_name)
def test_result_and_requirements_come_first_and_verification_last(page):
    headings = re.findall(r"^## (.*)", page.read_text(), re.MULTILINE)
    assert headings[:4] == ["Result", "Requirements", "Networks", "Training"]
    assert headings[-2:] == ["Accuracy by class", "Verify"]


@pytest.mark.parametrize("page", NOTEBOOK_PAGES, ids=page_name)
def test_requirements_show_a_mark_and_a_word(page):
    text, notebook = page.read_text(), page.parent.name
    rows = [
        row
        for run, metrics in METRICS.items()
        if run.split("/")[0] == notebook
        for row in metrics["requirements"]
    ]
    passed = sum(row["passed"] for row in rows)
    assert text.count("✅ passed") == passed
    assert text.count("❌ failed") == len(rows) - passed
    assert not re.search(r"\| *(True|False)\b", text)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
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


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tables_and_folds_are_set_off_so_that_github_renders_them(page):
    lines = page.read_text().splitlines()
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if re.fullmatch(r"\|( ?-+ ?\|)+", line):
            assert before.count("|") == line.count("|") == after.count("|")
        if line.startswith(("<details", "</details", "| run ", "| requirement ")):
            assert before == "", line
        if line.startswith(("<details", "</details")):
            assert after == "", line


def test_the_readme_answers_each_notebooks_question_with_its_accuracies():
    [rows] = [r for r in table_rows((ROOT / "README.md").read_text()) if r[0][0] == "notebook"]
    assert rows[0] == [
        "notebook",
        "question",
        "network",
        "parameters",
        "test accuracy",
        "published",
    ]
    assert [row[2] for row in rows[2:]] == [metrics["net"] for metrics in METRICS.values()]
    assert [row[4] for row in rows[2:]] == [format_accuracy(m) for m in METRICS.values()]
    assert [row[5] for row in rows[2:]] == [EXPERIMENTS[name].published or "-" for name in METRICS]
    assert [row[1] for row in rows[2:] if row[1]] == list(report.QUESTIONS.values())


def test_results_are_all_in_two_tables():
    [narrow, more] = table_rows((ROOT / "results" / "README.md").read_text())
    assert narrow[0][:2] == ["run", "test accuracy"]  # a phone shows these without scrolling
    assert [row[0] for row in more] == [row[0] for row in narrow]
    assert not set(narrow[0][1:]) & set(more[0])
    assert len(narrow[0]) == len(more[0]) == 7
    assert len(narrow) == 2 + len(METRICS)


def test_seeds_that_were_trained_elsewhere_say_where():
    first = {"seed": 0, "test_accuracy": 90.0, "test_accuracy_flip_tta": 91.0}
    environment = {"device": "a second machine", "precision": "fp16"}
    second = first | {"seed": 1, "trained_on": [environment]}
    run = METRICS["S7/s7"] | {"device": "a first machine", "precision": "bf16"}
    run |= {"seeds": [first, second]}
    _, [*_, row] = table_rows(report.results_table({"S7/s7": run}, wide=True))
    assert row[-2:] == ["bf16; fp16", "a first machine; a second machine"]
    page = (ROOT / "results" / "S7" / "README.md").read_text()
    [rows] = [rows for rows in table_rows(page) if rows[0][0] == "s7_dropout, seed"]
    metrics = METRICS["S7/s7_dropout"]
    environments = [metrics, *(seed["trained_on"][0] for seed in metrics["seeds"][1:])]
    expected = [f"{each['device']}, {each['precision']}" for each in environments]
    assert [row[-1] for row in rows[2:]] == expected


class Mine(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 10, 3, stride=4), nn.BatchNorm2d(10), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


@pytest.fixture(scope="module")
def student_root(tmp_path_factory):
    """The folder of a student who trained their own network, and one of the series."""
    root = tmp_path_factory.mktemp("student")
    sample = data_module.load_sample().subset(200, 360)
    mine = dataclasses.replace(
        EXPERIMENTS["S9/compact"], name="S9/mine", model="mine", reference_accuracy=None
    )
    MODELS["mine"] = Mine
    run_experiment(mine, sample, Settings(SMOKE, "sample", output_dir=root), seeds=2)
    del MODELS["mine"]
    (root / "results" / "_smoke-sample").rename(root / "full")
    shutil.rmtree(root / "results")
    (root / "full").rename(root / "results")
    shutil.copytree(
        ROOT / "results" / "S9" / "compact",
        root / "results" / "S9" / "compact",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    return root


def test_a_students_run_gets_the_same_page_without_the_others(student_root):
    page = report.write_run_report("S9/mine", student_root)
    assert page == student_root / "results" / "S9" / "mine" / "README.md"
    text = page.read_text()
    metrics = json.loads((page.parent / "metrics.json").read_text())
    assert text.startswith("# S9/mine: report\n")
    mean, std = metrics["test_accuracy_mean"], metrics["test_accuracy_std"]
    assert f"**{mean:.2f} ± {std:.2f} %** (2 seeds)" in text
    assert f"{metrics['params']:,} parameters" in text
    assert "BatchNorm2d-2" in text and "| conv1 | 32 | 3 | 0 | 4 | 8 | 4 | 3 |" in text
    assert (page.parent / "log.txt").read_text() in text
    assert f"❌ failed: {metrics['device']}" in text, "a requirement on the run"
    assert "| receptive field > 44 | ❌ failed: " in text, "a requirement on the network"
    assert "compact" not in text
    assert "check S9 my_network.py:Mine --run results/S9/mine" in text, "mine is in no file yet"
    assert_links_exist(page)


def test_a_students_own_figure_is_shown_under_its_name(student_root):
    figure = student_root / "results" / "S9" / "mine" / "strange_idea.png"
    figure.write_bytes(b"")
    run_page = report.write_run_report("S9/mine", student_root)
    assert "![Strange idea (mine)](strange_idea.png)" in run_page.read_text()
    report.write_notebook_reports(student_root)
    notebook_page = student_root / "results" / "S9" / "README.md"
    assert "![Strange idea (mine)](mine/strange_idea.png)" in notebook_page.read_text()
    figure.unlink()


def test_a_network_without_layer_tables_has_a_page_all_the_same(student_root, tmp_path):
    folder = tmp_path / "results" / "S9" / "mine"
    shutil.copytree(student_root / "results" / "S9" / "mine", folder)
    (folder / "summary.txt").unlink()
    (folder / "receptive_field.csv").unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"mult_adds": None, "receptive_field": {}, "net": "net.py:Mine"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = report.write_run_report("S9/mine", tmp_path).read_text()
    assert "no table of its layers" in text and "no table of its receptive field" in text
    assert "python -m helpers check S9 net.py:Mine --run results/S9/mine" in text


def test_a_run_that_is_not_saved_is_named_with_those_that_are(student_root):
    with pytest.raises(ValueError, match=r"run=S9/never: .*metrics\.json.*S9/compact, S9/mine"):
        report.write_run_report("S9/never", student_root)
    assert not (student_root / "results" / "S9" / "never").exists()


def test_the_runs_of_the_series_come_first_and_in_the_order_of_the_list(student_root):
    assert list(METRICS) == [run for run in EXPERIMENTS if run in METRICS]
    all_metrics = report.load_all_metrics(student_root / "results")
    assert list(all_metrics) == ["S9/compact", "S9/mine"]


def test_no_saved_run_is_one_clear_line(tmp_path):
    (tmp_path / "results").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there are no saved runs in .*results"):
        report.write_results_tables(tmp_path)


SCHEMAS = {
    "": report.METRIC_TYPES,
    "recipe": report.RECIPE_TYPES,
    "versions": report.VERSION_TYPES,
    "seeds": report.SEED_TYPES,
    "requirements": report.REQUIREMENT_TYPES,
    "trained_on": report.ENVIRONMENT_TYPES,
}


def select(metrics, parent):
    """Return the object of these metrics that has the keys of a schema."""
    if not parent:
        return metrics
    return metrics[parent][-1] if isinstance(metrics[parent], list) else metrics[parent]


@pytest.fixture
def metrics_file(tmp_path):
    file = tmp_path / "S7" / "s7_dropout" / "metrics.json"
    file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "results" / "S7" / "s7_dropout" / "metrics.json", file)
    report.load_all_metrics(tmp_path)
    return file


@pytest.mark.parametrize(
    ("parent", "key"), [(parent, key) for parent, schema in SCHEMAS.items() for key in schema]
)
@pytest.mark.parametrize("damage", ["missing", "another type"])
def test_damaged_metrics_are_named_before_anything_is_drawn(
    parent, key, damage, metrics_file, monkeypatch
):
    def no_drawing(*_, **__):
        raise AssertionError

    monkeypatch.setattr(report, "render_template", no_drawing)
    monkeypatch.setattr(report, "plot_comparison", no_drawing)
    metrics = json.loads(metrics_file.read_text())
    if damage == "missing":
        del select(metrics, parent)[key]
    else:
        select(metrics, parent)[key] = [[]]
    metrics_file.write_text(json.dumps(metrics))
    with pytest.raises(CorruptFileError) as error:
        report.load_all_metrics(metrics_file.parents[2])
    assert str(error.value).startswith(f"{metrics_file} is damaged (TypeError: ")
    assert key in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": True}, "params is True, expected int"),
        ({"test_accuracy": float("nan")}, "test_accuracy is nan, expected a finite number"),
        ({"class_accuracy": {"cat": "high"}}, "cat is 'high', expected float | int"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": ["0"]}, "seeds is '0', expected an object"),
        ({"augmentation": [["Pad"]]}, r"augmentation has ['Pad'], expected a name and its"),
        ({"trained_on": "here"}, "trained_on is 'h', expected an object"),
    ],
)
def test_values_that_no_page_could_show_are_damage(change, message, metrics_file):
    metrics = json.loads(metrics_file.read_text()) | change
    metrics_file.write_text(json.dumps(metrics))
    with pytest.raises(CorruptFileError, match=re.escape(message)):
        report.load_all_metrics(metrics_file.parents[2])


def test_a_run_without_a_log_is_named(student_root, tmp_path):
    folder = tmp_path / "results" / "S9" / "mine"
    shutil.copytree(student_root / "results" / "S9" / "mine", folder)
    (folder / "log.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*S9/mine/log\.txt"):
        report.write_notebook_reports(tmp_path)


def test_a_text_file_that_is_not_text_is_named(student_root, tmp_path):
    folder = tmp_path / "results" / "S9" / "mine"
    shutil.copytree(student_root / "results" / "S9" / "mine", folder)
    (folder / "summary.txt").write_bytes(b"\xff")
    with pytest.raises(CorruptFileError, match=r"S9/mine/summary\.txt is damaged"):
        report.write_run_report("S9/mine", tmp_path)


@pytest.mark.parametrize("text", ["begin\n", "begin\nend\nend\n", "begin\nbegin\nend\n", "end\n"])
def test_markers_must_be_there_once(text, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md needs the lines begin and end, once each"):
        report.replace_between(file, "begin", "end", "new")
    assert file.read_text() == text


def test_text_between_markers_is_replaced_and_nothing_else(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\nbegin\nold\nend\nafter\n")
    report.replace_between(file, "begin", "end", "new")
    assert file.read_text() == "before\nbegin\n\nnew\n\nend\nafter\n"


def test_a_markdown_table_has_a_row_of_dashes_under_its_head():
    table = report.markdown_table([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}])
    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


def test_the_comparison_shows_every_run_and_submission_with_its_number():
    figure = report.plot_comparison(METRICS)
    figure.canvas.draw()
    [axis] = figure.axes
    reached = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    published = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "s"]
    assert reached == [metrics["test_accuracy_mean"] for metrics in METRICS.values()]
    expected = [m["published_test_accuracy"] for m in METRICS.values()]
    assert published == [accuracy for accuracy in expected if accuracy]
    numbers = [f"{accuracy:.1f}" for accuracy in (*reached, *published)]
    assert sorted(text.get_text() for text in axis.texts) == sorted(numbers)
    points = [axis.transData.transform((x, y)) for line in axis.lines for x, y in line.get_xydata()]
    boxes = [text.get_window_extent() for text in axis.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), axis.texts[i]
        assert not any(box.padded(2).contains(*point) for point in points), axis.texts[i]
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)


def test_the_bars_of_the_comparison_are_the_deviations_over_seeds():
    [axis] = report.plot_comparison(METRICS).axes
    lengths = []
    for container in axis.containers:
        [segments] = [lines.get_segments() for lines in container.lines[2]]
        lengths.append(segments[0][1, 0] - segments[0][0, 0])
    deviations = [metrics["test_accuracy_std"] or 0 for metrics in METRICS.values()]
    assert lengths == pytest.approx([2 * deviation for deviation in deviations], abs=1e-6)


@pytest.mark.parametrize("notebook", ORDER)
def test_the_first_cell_of_a_notebook_has_its_requirements_and_all_published_numbers(notebook):
    page = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
    opening = "".join(page["cells"][0]["source"])
    for name, metrics in METRICS.items():
        if not name.startswith(f"{notebook}/"):
            continue
        assert format_accuracy(metrics) in opening
        assert EXPERIMENTS[name].published in opening
        assert f"{metrics['params']:,}" in opening
        assert f"{metrics['device']}, {metrics['precision']}" in opening
        for row in metrics["requirements"]:
            assert (row["requirement"] in opening) == (row["kind"] != "claimed")
    rows = [row for row in opening.splitlines() if "✅" in row or "❌" in row]
    checked = {
        row["requirement"]
        for name, metrics in METRICS.items()
        if name.startswith(f"{notebook}/")
        for row in metrics["requirements"]
        if row["kind"] != "claimed"
    }
    assert len(rows) == len(checked)


def test_the_published_texts_contain_the_accuracy_that_ours_is_compared_with():
    for experiment in EXPERIMENTS.values():
        if experiment.reference_accuracy:
            assert f"{experiment.reference_accuracy} %" in experiment.published
            assert experiment.reference_epochs
