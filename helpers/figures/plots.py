"""Figures, returned for the caller to show or keep; their colours all readers can tell apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from helpers.evaluation import confidence
from helpers.training.loop import History

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette for colour-blind readers


def empty_figure(width: float, height: float, title: str, **grid) -> tuple[Figure, Axes]:
    """A white figure of so many inches under a title, and its axes or grid of axes."""
    figure = Figure((width, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title)
    return figure, figure.subplots(**grid)


def bars(table: pd.DataFrame, unit: str, title: str) -> Figure:
    """Horizontal bars: a group for each row, named by the index, and a colour for each column."""
    figure, axis = empty_figure(9, 1.6 + 0.15 * table.size, title)
    numbers = "{:,.0f}" if (table % 1 == 0).all(axis=None) else "{:.1f}"
    table.plot.barh(ax=axis, color=[BLUE, ORANGE], width=0.8, legend=False)
    for drawn in axis.containers:
        axis.bar_label(drawn, fmt=numbers, padding=3, fontsize=8)
    axis.set(xlabel=unit, xlim=(0, 1.1 * table.max(axis=None)))
    axis.invert_yaxis()
    if table.shape[1] > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def gallery(images: np.ndarray, captions: Sequence[str], title: str, columns: int = 5) -> Figure:
    """Images (N, H, W, 3), uint8 or floats in [0, 1], in rows, each under its caption."""
    rows, side = -(-len(images) // columns), 9.5 / columns
    captioned = {i // columns for i, caption in enumerate(captions) if caption}
    size = 9.5, 0.6 + rows * side + 0.3 * len(captioned)
    figure, axes = empty_figure(*size, title, nrows=rows, ncols=columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(caption, fontsize=9)
    return figure


def curves(history: History, title: str) -> Figure:
    """Loss and accuracy of every epoch over the learning rate of every step, as it was applied."""
    figure, axes = empty_figure(8, 8, title, nrows=3, sharex=True)
    rows, rates = pd.DataFrame(history.rows), history.learning_rates
    for axis, key, unit in zip(axes, ("accuracy", "loss"), ("%", "cross-entropy"), strict=False):
        options = {"x": "epoch", "y": [f"train_{key}", f"test_{key}"], "label": ["train", "test"]}
        options |= {"style": ["o--", "o-"], "color": [BLUE, ORANGE], "markersize": 3}
        rows.plot(ax=axis, xlabel="", ylabel=f"{key} ({unit})", **options)
    steps = np.arange(1, len(rates) + 1)
    axes[-1].plot(steps * len(rows) / len(rates), rates, color=BLUE)
    axes[-1].set(xlabel="epoch", ylabel="learning rate")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure


def reliability(labels: np.ndarray, logits: np.ndarray, title: str) -> Figure:
    """How often predictions are right, by how sure they are, and the expected calibration error.

    From labels (N,) and logits (N, 10); ten bins of confidence (C. Guo et al., arXiv:1706.04599). A
    bin with less than half a percent of the images counts in the error, but has no point.
    """
    sure, right = confidence(logits), logits.argmax(axis=1) == labels
    bins = pd.DataFrame({"sure": sure, "right": right}).groupby(np.ceil(10 * sure))
    means, shares = bins.mean(), bins.size() / len(sure)
    error = (means["right"] - means["sure"]).abs() @ shares
    figure, axis = empty_figure(6, 4.8, f"{title}\nexpected calibration error {error:.3f}")
    drawn = means[shares >= 0.005]
    axis.plot(drawn["sure"], drawn["right"], "s-", color=BLUE, label="accuracy")
    axis.plot([0, 1], [0, 1], "k:", label="perfect calibration")
    axis.bar(means["sure"], shares, 0.03, color=ORANGE, alpha=0.5, label="share of the images")
    axis.set(xlabel="confidence", ylabel="accuracy, share")
    axis.legend()
    return figure


def confusion(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The confusion matrix of labels (N,) and logits (N, 10), in images, true classes in rows."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, axis = empty_figure(7.5, 6.5, title)
    ConfusionMatrixDisplay.from_predictions(
        labels, logits.argmax(axis=1), labels=range(len(classes)), display_labels=classes,
        ax=axis, cmap="Blues", xticks_rotation=45, colorbar=False,
        im_kw={"norm": PowerNorm(0.5)},  # else few mistakes look like none
    )  # fmt: skip
    axis.set(xlabel="predicted class", ylabel="true class")
    return figure
