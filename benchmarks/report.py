"""What benchmarks found: a page of tables, one table for the README, and a figure each."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.ways import LOADERS
from helpers.figures.plots import BLUE, ORANGE
from helpers.runs.results import write as write_file
from helpers.settings import ROOT
from upkeep.tables import fill, markdown, rendered

BEGIN, END = "<!-- speed: made by `make report` -->", "<!-- end of speed -->"


def section(found: dict) -> str:
    """The benchmark of one device, in Markdown."""
    ceiling = found["ceiling"]
    growth = [
        f"{what}: " + ", ".join(f"{value}: {speed:,.0f}" for value, speed in speeds.items())
        for what, speeds in found.get("growth of s7", {}).items()
    ]
    grown = (
        ["Images a second of `s7`, once each, by " + "; by ".join(growth) + "."] if growth else []
    )
    return "\n\n".join(
        [
            f"## {_setting(found)}",
            f"Measured on {found['date']} with PyTorch {found['versions']['torch']}: medians of "
            f"{found['repetitions']} repetitions of either way by turns; first steps, memory "
            f"and operators once. The ceiling is "
            f"{ceiling['flops'] / 1e9:,.0f} GFLOP/s ({ceiling['by']}); a large copy moves "
            f"{ceiling['copy_bytes'] / 1e9:.0f} GB/s.",
            markdown([_training(net, row, ceiling) for net, row in found["networks"].items()]),
            markdown([_loading(net, row) for net, row in found["networks"].items()]),
            markdown([_beside(net, row) for net, row in found["networks"].items()]),
            markdown([_costly(net, row, ceiling) for net, row in found["networks"].items()]),
            *grown,
        ]
    )


def _setting(found: dict) -> str:
    named = (found["device"], found["precision"], found.get("instruction_set"))
    return ", ".join(filter(None, named))


def overview(benchmarks: list[dict]) -> str:
    """Training images a second of each network, the hand-ins' way -> ours, a column a benchmark."""
    nets = dict.fromkeys(net for found in benchmarks for net in found["networks"])
    return markdown(
        [
            {"training images/s": f"`{net}`"} | {_setting(f): _both(net, f) for f in benchmarks}
            for net in nets
        ]
    )


def _both(net: str, found: dict) -> str:
    if net not in found["networks"]:
        return "-"
    theirs, ours = (found["networks"][net][way]["images_per_second"] for way in ("theirs", "ours"))
    return f"{theirs:,.0f} -> {ours:,.0f}, **{ours / theirs:.2f}x**"


def _training(net: str, row: dict, ceiling: dict) -> dict[str, str]:
    theirs, ours = row["theirs"], row["ours"]
    speeds = theirs["images_per_second"], ours["images_per_second"]
    achieved = _achieved(row)
    share = speeds[1] / ours["loaded_per_second"]  # in the step itself only without workers
    return {
        "training": f"`{net}`",
        "hand-ins' way, images/s": f"{speeds[0]:,.0f}",
        "ours, images/s": f"{speeds[1]:,.0f}",
        "ratio": f"**{speeds[1] / speeds[0]:.2f}x**",
        "ours, GFLOP/s": f"{achieved / 1e9:,.0f}",
        "of the ceiling": f"{achieved / ceiling['flops']:.0%}",
        "loading alone, of a step's time": f"{share:.1%}",
    } | ({"GPU busy": f"{row['busy']:.0%}"} if "busy" in row else {})


def _achieved(row: dict) -> float:
    return 6 * row["mult_adds"] * row["ours"]["images_per_second"]  # forward 2, backward 4 FLOP


def _loading(net: str, row: dict) -> dict[str, str]:
    ways = [way for way in LOADERS if way in row]  # early files have two
    names = {"theirs": "hand-ins' way", "own transforms": "Albumentations' own transforms"}
    cells = {"loading alone": f"`{net}`"}
    for figure, unit in (
        ("loaded_per_second", "images/s"),
        ("loading_cpu_microseconds", "µs of CPU an image"),
    ):
        for way in ways:
            cells[f"{names.get(way, way)}, {unit}"] = f"{row[way][figure]:,.0f}"
    return cells


def _beside(net: str, row: dict) -> dict[str, str]:
    both = row["theirs"], row["ours"]

    def pair(figure: str, unit: float = 1, digits: int = 0) -> str:
        return " / ".join(f"{way[figure] / unit:,.{digits}f}" for way in both)

    return {
        "theirs / ours": f"`{net}`",
        "evaluation, images/s": pair("evaluated_per_second"),
        "peak memory without workers, GiB": pair("peak_memory", 2**30, 1),
        "start to first step, s": pair("seconds_to_first_step", 1, 1),
    }


def _costly(net: str, row: dict, ceiling: dict) -> dict[str, str]:
    operators = row["operators"]
    shares = ", ".join(
        f"{'loading' if 'DataLoader' in operator else operator} {share:.0%}"
        for operator, share in operators.items()
    )
    convolving = sum(share for operator, share in operators.items() if "conv" in operator)
    alone = f"{_achieved(row) / convolving / ceiling['flops']:.0%}" if convolving else ""
    return {
        "ours": f"`{net}`",
        "operators that cost most, of the time of all": shares,
        "convolutions while they run, of the ceiling": alone,
    }


def figure(found: dict) -> Figure:
    """Images a second of every network both ways, and of `s7` as its cost grows."""
    drawn = Figure((10, 6.5), dpi=100, layout="constrained", facecolor="white")
    drawn.suptitle(f"Training speed: {_setting(found)}")
    growth = found.get("growth of s7", {})
    axes = drawn.subplot_mosaic([["networks"] * 3, list(growth)] if growth else [["networks"]])
    names = list(found["networks"])
    for shift, way, colour in ((-0.2, "theirs", ORANGE), (0.2, "ours", BLUE)):
        speeds = [found["networks"][net][way]["images_per_second"] for net in names]
        label = {"theirs": "the hand-ins' way", "ours": "ours"}[way]
        places = [place + shift for place in range(len(names))]
        bars = axes["networks"].bar(places, speeds, 0.4, color=colour, label=label)
        axes["networks"].bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes["networks"].set_xticks(range(len(names)), names)
    axes["networks"].set(xlabel="network", ylabel="training images/s")
    axes["networks"].margins(y=0.1)
    axes["networks"].legend()
    for what, speeds in growth.items():
        axes[what].plot(list(map(str, speeds)), list(speeds.values()), "o-", color=BLUE)
        axes[what].set(xlabel=what, ylabel="training images/s", title="s7")
        axes[what].set_ylim(0, 1.15 * max(speeds.values()))
        axes[what].grid(alpha=0.3)
    return drawn


def write(root: Path = ROOT) -> None:
    """Write the figure of every benchmark kept, the page of all, and their overview in README."""
    folder = root / "results" / "benchmark"
    kept = {file: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    for file, found in kept.items():
        figure(found).savefig(file.with_suffix(".png"))
    sections = {file.stem: section(found) for file, found in kept.items()}
    write_file(folder / "README.md", rendered("benchmark.md.jinja", sections=sections))
    fill(root / "README.md", BEGIN, END, overview(list(kept.values())))
