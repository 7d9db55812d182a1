"""The report of the benchmarks: a page with tables and figures, and a table in docs/speed.md."""

import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from helpers.config import ROOT
from helpers.experiments import EXPERIMENTS
from helpers.files import atomic_write
from helpers.plotting import BLUE, ORANGE
from helpers.report import markdown_table, replace_between
from tools.benchmarks.pipelines import LOADERS, PIPELINES

# The lines in docs/speed.md that enclose the table.
BEGIN = "<!-- speed: made by `make report` -->"
END = "<!-- end of speed -->"
COLORS = {"baseline": ORANGE, "project": BLUE}
TEMPLATES = Path(__file__).with_name("templates")


def section(benchmark: dict) -> str:
    """Return the tables of one benchmark as Markdown.

    Args:
        benchmark: The content of a result file.
    """
    roofline = benchmark["roofline"]
    networks = benchmark["networks"].items()
    paragraphs = [
        f"## {_title(benchmark)}",
        f"Measured on {benchmark['date']} with PyTorch {benchmark['versions']['torch']}. Speeds "
        f"are medians of {benchmark['repetitions']} repetitions, with the pipelines in turns. "
        "First steps, memory and operators were measured once. The peak is "
        f"{roofline['flops'] / 1e9:,.0f} GFLOP/s ({roofline['by']}), and a large copy moves "
        f"{roofline['copy_bytes'] / 1e9:.0f} GB/s.",
        markdown_table([_training_row(name, network, roofline) for name, network in networks]),
        markdown_table([_loading_row(name, network) for name, network in networks]),
        markdown_table([_other_row(name, network) for name, network in networks]),
        markdown_table([_operators_row(name, network, roofline) for name, network in networks]),
    ]
    if "scaling" in benchmark:
        paragraphs.append(_scaling_text(benchmark["scaling"]))
    return "\n\n".join(paragraphs)


def overview(benchmarks: list[dict]) -> str:
    """Return a Markdown table of training speeds, with a column for each benchmark.

    Args:
        benchmarks: The contents of the result files.
    """
    names = dict.fromkeys(name for benchmark in benchmarks for name in benchmark["networks"])
    rows = []
    for name in names:
        row = {"training images/s": f"`{name}`"}
        for benchmark in benchmarks:
            row[_title(benchmark)] = _comparison(benchmark["networks"].get(name))
        rows.append(row)
    dates = {_title(benchmark): benchmark["date"] for benchmark in benchmarks}
    rows.append({"training images/s": "measured on", **dates})
    return markdown_table(rows)


def plot_benchmark(benchmark: dict) -> Figure:
    """Plot the training speed of every network, and below it the scaling of s7 if measured.

    Args:
        benchmark: The content of a result file.
    """
    figure = Figure((10, 6.5), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(f"Training speed: {_title(benchmark)}")
    scaling = benchmark.get("scaling", {})
    layout = [["networks"] * 3, list(scaling)] if scaling else [["networks"]]
    axes = figure.subplot_mosaic(layout)
    names = list(benchmark["networks"])
    for offset, pipeline in zip((-0.2, 0.2), PIPELINES, strict=True):
        speeds = [benchmark["networks"][name][pipeline]["images_per_second"] for name in names]
        bars = axes["networks"].bar(
            [position + offset for position in range(len(names))],
            speeds,
            width=0.4,
            color=COLORS[pipeline],
            label=pipeline,
        )
        axes["networks"].bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes["networks"].set_xticks(range(len(names)), names)
    axes["networks"].set(xlabel="network", ylabel="training images/s")
    axes["networks"].margins(y=0.1)
    axes["networks"].legend()
    for quantity, speeds in scaling.items():
        axes[quantity].plot(
            [str(value) for value in speeds], list(speeds.values()), "o-", color=BLUE
        )
        axes[quantity].set(xlabel=quantity, ylabel="training images/s", title="s7, project")
        axes[quantity].set_ylim(0, 1.15 * max(speeds.values()))
        axes[quantity].grid(alpha=0.3)
    return figure


def time_to_accuracy(benchmarks: list[dict], results_dir: Path) -> str:
    """Return a Markdown table of the minutes to the accuracy that each submission published.

    The submission's time is that of its epochs with the baseline's speed. The project's time is
    that of the epochs after which the saved run reached the same accuracy, with the project's
    speed. Both speeds were measured side by side.

    Args:
        benchmarks: The contents of the result files.
        results_dir: The folder of the saved runs.
    """
    rows = []
    for name, experiment in EXPERIMENTS.items():
        if experiment.reference_accuracy is None:
            continue
        history = pd.read_csv(results_dir / name / "history.csv")
        reached = history["test_accuracy"] >= experiment.reference_accuracy
        epochs = {
            "baseline": experiment.reference_epochs,
            "project": int(history["epoch"][reached].iloc[0]),
        }
        row = {
            "network": f"`{experiment.model}`",
            "published": f"{experiment.reference_accuracy} %",
            "epochs": "{baseline} -> {project}".format(**epochs),
        }
        for benchmark in benchmarks:
            network = benchmark["networks"][experiment.model]
            minutes = {
                pipeline: epochs[pipeline] * 50_000 / network[pipeline]["images_per_second"] / 60
                for pipeline in PIPELINES
            }
            row[f"minutes, {_title(benchmark)}"] = (
                f"{minutes['baseline']:,.0f} -> {minutes['project']:,.0f}, "
                f"**{minutes['baseline'] / minutes['project']:.1f}x**"
            )
        rows.append(row)
    return markdown_table(rows)


def write(root: Path = ROOT) -> None:
    """Write the figures and the page in `results/benchmark/`, and the tables in docs/speed.md.

    Args:
        root: The folder of `docs/` and `results/`.
    """
    folder = root / "results" / "benchmark"
    sections = {}
    benchmarks = []
    for file in sorted(folder.glob("*.json")):
        benchmark = json.loads(file.read_text(encoding="utf-8"))
        plot_benchmark(benchmark).savefig(file.with_suffix(".png"))
        sections[file.stem] = section(benchmark)
        benchmarks.append(benchmark)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    page = environment.get_template("benchmark.md.jinja").render(sections=sections)
    atomic_write(folder / "README.md", page)
    tables = [
        overview(benchmarks),
        "The next table shows minutes to the accuracy that the submission published:\n"
        "its epochs with the baseline -> the epochs of the saved run with the project.",
        time_to_accuracy(benchmarks, root / "results"),
    ]
    replace_between(root / "docs" / "speed.md", BEGIN, END, "\n\n".join(tables))


def _title(benchmark: dict) -> str:
    """Return device, precision and instruction set as text."""
    return f"{benchmark['device']}, {benchmark['precision']}, {benchmark['instruction_set']}"


def _comparison(network: dict | None) -> str:
    """Return both training speeds and their ratio as text."""
    if network is None:
        return "-"
    baseline, project = (network[pipeline]["images_per_second"] for pipeline in PIPELINES)
    return f"{baseline:,.0f} -> {project:,.0f}, **{project / baseline:.2f}x**"


def _training_row(name: str, network: dict, roofline: dict) -> dict[str, str]:
    """Return a row of the table of training speeds."""
    baseline, project = (network[pipeline]["images_per_second"] for pipeline in PIPELINES)
    flops = _training_flops(network)
    # With worker processes, loading is concurrent with the step.
    loading_share = project / network["project"]["loaded_per_second"]
    row = {
        "training": f"`{name}`",
        "baseline, images/s": f"{baseline:,.0f}",
        "project, images/s": f"{project:,.0f}",
        "ratio": f"**{project / baseline:.2f}x**",
        "project, GFLOP/s": f"{flops / 1e9:,.0f}",
        "of the peak": f"{flops / roofline['flops']:.0%}",
        "loading alone, of a step's time": f"{loading_share:.1%}",
    }
    if "gpu_busy" in network:
        row["GPU busy"] = f"{network['gpu_busy']:.0%}"
    return row


def _training_flops(network: dict) -> float:
    """Return FLOP/s of training: 2 per mult-add in the forward pass, 4 in the backward pass."""
    return 6 * network["mult_adds"] * network["project"]["images_per_second"]


def _loading_row(name: str, network: dict) -> dict[str, str]:
    """Return a row of the table of loading speeds."""
    row = {"loading alone": f"`{name}`"}
    for loader in LOADERS:
        row[f"{loader}, images/s"] = f"{network[loader]['loaded_per_second']:,.0f}"
    for loader in LOADERS:
        microseconds = network[loader]["loading_cpu_microseconds"]
        row[f"{loader}, µs of CPU per image"] = f"{microseconds:,.0f}"
    return row


def _other_row(name: str, network: dict) -> dict[str, str]:
    """Return a row of the table of evaluation, memory, and time to the first step."""

    def both(key: str, unit: float = 1, digits: int = 0) -> str:
        values = (network[pipeline][key] / unit for pipeline in PIPELINES)
        return " / ".join(f"{value:,.{digits}f}" for value in values)

    return {
        "baseline / project": f"`{name}`",
        "evaluation, images/s": both("evaluated_per_second"),
        "peak memory without workers, GiB": both("peak_memory", unit=2**30, digits=1),
        "start to first step, s": both("seconds_to_first_step", digits=1),
    }


def _operators_row(name: str, network: dict, roofline: dict) -> dict[str, str]:
    """Return a row of the table of the slowest operators."""
    shares = []
    conv_share = 0.0
    for operator, share in network["operators"].items():
        label = "loading" if "DataLoader" in operator else operator
        shares.append(f"{label} {share:.0%}")
        if "conv" in operator:
            conv_share += share
    conv_speed = ""
    if conv_share:
        conv_flops = _training_flops(network) / conv_share
        conv_speed = f"{conv_flops / roofline['flops']:.0%}"
    return {
        "project": f"`{name}`",
        "slowest operators, of the time of all": ", ".join(shares),
        "convolutions while they run, of the peak": conv_speed,
    }


def _scaling_text(scaling: dict[str, dict]) -> str:
    """Return the scaling measurement as a sentence."""
    quantities = []
    for quantity, speeds in scaling.items():
        values = ", ".join(f"{value}: {speed:,.0f}" for value, speed in speeds.items())
        quantities.append(f"by {quantity}: {values}")
    return f"Images per second of `s7` in the project, measured once, {'; '.join(quantities)}."
