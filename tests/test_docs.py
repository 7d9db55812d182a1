"""README.md and docs/ are short and linked, and every command and variable in them exists."""

import re
import tomllib

import pytest
from typer.main import get_command

from helpers import cli, report
from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = get_command(cli.app).commands
VARIABLES = set(re.findall(r"^ +([A-Z][A-Z_\d]+)  ", cli.ENVIRONMENT_HELP, re.MULTILINE))


def page_name(page):
    return str(page.relative_to(ROOT))


def code_of(page):
    """Return the listings and the code spans of a page, each on a line."""
    text = re.sub(r"\\\n +", "", page.read_text())  # a command on two lines
    listings = re.findall(r"^ *```\w*\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return "\n".join([*listings, *spans])


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_has_at_most_900_words_besides_the_table_of_results():
    before, _, rest = README.read_text().partition(report.BEGIN)
    text = before + rest.partition(report.END)[2]
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 900


def test_result_commands_and_pictures_come_before_the_first_section():
    first_screen = README.read_text().partition("\n## ")[0]
    assert report.BEGIN in first_screen
    assert "git clone" in first_screen
    assert "make run" in first_screen
    notebooks = re.findall(r"/notebooks/(\w+)\.ipynb", first_screen)
    assert {*notebooks} >= {name.partition("/")[0] for name in EXPERIMENTS}
    assert len(re.findall(r"!\[[^]]+\]\(results/", first_screen)) >= 2


def test_the_readme_shows_the_accuracies_of_the_saved_runs():
    table = report.readme_table(report.load_all_metrics(ROOT / "results"))
    assert f"{report.BEGIN}\n\n{table}\n\n{report.END}" in README.read_text(), "make report"


def test_the_readme_links_every_page_and_every_page_links_the_readme():
    for page in DOCS:
        assert f"]({page_name(page)})" in README.read_text()
        assert "](../README.md)" in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_their_anchors_exist(page):
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_options_and_modules_exist(page):
    code = code_of(page)
    targets = set(re.findall(r"^make +([a-z][\w-]*)", code, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
    for command, arguments in re.findall(r"-m helpers +([a-z]+)(.*)", code):
        assert command in COMMANDS, command
        options = {option for p in COMMANDS[command].params for option in [*p.opts, "--help"]}
        assert set(re.findall(r"--[a-z]+", arguments)) <= options, command
        if command == "train":
            assert arguments.split()[0] in {*EXPERIMENTS, "NOTEBOOK/NAME"}
    for module in re.findall(r"-m (tools[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for file in re.findall(r"[\w-]+\.(?:lock|yml)\b", code):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_variables_exist(page):
    variables = VARIABLES | set(re.findall(r"^([A-Z]+) =", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?<![\w.])([A-Z][A-Z_\d]+) ?=", code_of(page))) <= variables


def test_the_readme_lists_every_environment_variable_and_its_default():
    rows = re.findall(r"^\| `([A-Z_\d]+)` \| `([^`]*)`", README.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == VARIABLES
    defaults = dict(rows)
    for name in VARIABLES:
        description = cli.ENVIRONMENT_HELP.partition(f"{name} ")[2]
        default = re.search(r"\((\w+/?)[,)]", description)[1]
        assert defaults[name] == default, name


def test_the_readme_gives_a_reason_for_every_dependency():
    section = README.read_text().partition("## Dependencies")[2].partition("\n## ")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    declared = [*project["project"]["dependencies"], *groups["test"], *groups["lab"]]
    names = {re.match(r"[\w-]+", entry)[0] for entry in declared}
    listed = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)[2:]
    assert {name.split()[0] for row in listed for name in row.split(",")} == names


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_lines_are_short_outside_tables_and_addresses(page):
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            assert len(re.sub(r"\]\([^)]*\)", "]", line)) <= 120, line


@pytest.mark.parametrize("page", DOCS, ids=page_name)
def test_docs_hold_no_address_of_this_repository(page):
    """Publishing rewrites addresses in the README and the notebooks only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] not in page.read_text()
