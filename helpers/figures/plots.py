"""Figures, returned for the caller to show or keep; their colours all readers can tell apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.training.loop import History

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette for colour-blind readers


def _figure(width: float, height: float, title: str, **grid):
    figure = Figure((width, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title)
    return figure, figure.subplots(**grid)


def class_counts(train: np.ndarray, test: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """How many training and test images each class has, from labels (N,)."""
    figure, axis = _figure(9, 4, title)
    edges = np.arange(len(classes) + 1) - 0.5
    _, _, parts = axis.hist([train, test], edges, color=[BLUE, ORANGE], label=["train", "test"])
    for bars in parts:
        axis.bar_label(bars, fontsize=7)
    axis.set(xlabel="class", ylabel="images", xticks=range(len(classes)), xticklabels=classes)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def gallery(images: np.ndarray, captions: Sequence[str], title: str, columns: int = 5) -> Figure:
    """Images (N, H, W, 3), uint8 or floats in [0, 1], in rows, each under its caption."""
    rows, side = -(-len(images) // columns), 9.5 / columns
    size = 9.5, 0.6 + rows * (side + (0.3 if any(captions) else 0))
    figure, axes = _figure(*size, title, nrows=rows, ncols=columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image)
        axis.set_title(caption, fontsize=9)
    return figure


def curves(history: History, title: str) -> Figure:
    """Loss and accuracy of every epoch, training and test."""
    figure, axes = _figure(10, 4, title, ncols=2)
    rows = pd.DataFrame(history.rows)
    for axis, key, unit in zip(axes, ("loss", "accuracy"), ("cross-entropy", "%"), strict=True):
        for part, colour, style in (("train", BLUE, "o--"), ("test", ORANGE, "o-")):
            values = rows[f"{part}_{key}"]
            axis.plot(rows["epoch"], values, style, color=colour, markersize=3, label=part)
        axis.set(xlabel="epoch", ylabel=f"{key} ({unit})", title=key.capitalize())
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def learning_rates(history: History, title: str) -> Figure:
    """The learning rate of every optimizer step, as it was applied."""
    figure, axis = _figure(8, 3, title)
    axis.plot(range(1, len(history.learning_rates) + 1), history.learning_rates, color=BLUE)
    axis.set(xlabel="optimizer step", ylabel="learning rate")
    axis.grid(alpha=0.3)
    return figure


def range_test(found: pd.DataFrame, bounds: Sequence[float], max_lr: float, title: str) -> Figure:
    """The loss of a range test over the learning rate, the bounds and the rate chosen."""
    figure, axis = _figure(8, 3.5, title)
    axis.semilogx(found["learning_rate"], found["loss"], color=BLUE)
    axis.axvspan(*bounds, color=ORANGE, alpha=0.2, label="bounds")
    axis.axvline(max_lr, color=ORANGE, linestyle="--", label=f"max_lr {max_lr:.2g}")
    axis.set(xlabel="learning rate", ylabel="smoothed loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def class_accuracy(accuracies: dict[str, float], title: str) -> Figure:
    """A bar for each class's accuracy in %, and the mean of all."""
    figure, axis = _figure(8, 3.8, title)
    bars = axis.barh(list(accuracies), list(accuracies.values()), color=BLUE)
    axis.bar_label(bars, fmt="%.1f", padding=3)
    mean = np.mean(list(accuracies.values()))
    axis.axvline(mean, color=ORANGE, linestyle="--", label=f"mean {mean:.2f} %")
    axis.set(xlabel="test accuracy (%)", ylabel="class", xlim=(0, 110))
    axis.invert_yaxis()
    figure.legend(loc="outside lower center")
    return figure


def confusion(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The confusion matrix of labels (N,) and logits (N, 10), in images, true classes in rows."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, axis = _figure(7.5, 6.5, title)
    ConfusionMatrixDisplay.from_predictions(
        labels, logits.argmax(axis=1), labels=range(len(classes)), display_labels=classes,
        ax=axis, cmap="Blues", xticks_rotation=45, colorbar=False,
    )  # fmt: skip
    axis.set(xlabel="predicted class", ylabel="true class")
    return figure


def comparison(runs: Sequence[dict]) -> Figure:
    """Parameters and test accuracy of runs, given by their metrics, and of the hand-ins.

    A line joins what was published for a network to what it reaches here; bars are the standard
    deviation over seeds.
    """
    table = pd.DataFrame(runs)
    keys = ["params", "test_accuracy_mean", "test_accuracy_std", "published_test_accuracy"]
    params, mean, std, published = table[keys].astype(float).to_numpy().T
    figure, axis = _figure(9, 4.6, "Test accuracy by number of parameters")
    axis.vlines(params, published, mean, color="lightgrey", zorder=0)
    axis.plot(params, published, "s", color=ORANGE, label="hand-in, as published")
    axis.errorbar(params, mean, std, fmt="o", color=BLUE, capsize=3, label="trained here")
    for net, of_net in table.groupby("net"):
        place = of_net["params"].max(), of_net["test_accuracy_mean"].max()
        axis.annotate(net, place, (0, 8), textcoords="offset points", ha="center")
    axis.set(xlabel="parameters (log scale)", ylabel="test accuracy (%)", xscale="log")
    axis.margins(0.08, 0.1)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure
