"""Figures of data, models, training runs and predictions.

Every function returns a Matplotlib figure. The caller shows it or writes it to a file. Figures have
Matplotlib's default style, whatever style the user has set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from torch import Tensor, nn
from torchvision.utils import make_grid

from helpers.data import ImageData
from helpers.evaluation import confidence, find_mistakes, most_confused
from helpers.inspection import (
    block_cost_percentages,
    effective_receptive_field,
    execution_order,
    get_activations,
    theoretical_receptive_field,
    trace_layers,
)
from helpers.lr_finder import interpolate_best_lr
from helpers.results import Result

# Okabe and Ito's palette: readers with color vision deficiency can tell these colors apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"


def new_figure(width: float, height: float, title: str, **grid: Any) -> tuple[Figure, Any]:
    """Create a white figure with a title.

    Args:
        width: Width in inches.
        height: Height in inches.
        title: The title above all axes. Long lines are wrapped.
        **grid: Arguments of `Figure.subplots`, for example `nrows`, `ncols`.

    Returns:
        The figure and its axes, or an array of axes if the grid has more than one.
    """
    figure = Figure((width, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, wrap=True)
    return figure, figure.subplots(**grid)


@style.context("default")
def plot_bars(table: pd.DataFrame, unit: str, title: str) -> Figure:
    """Plot a table as horizontal bars.

    Args:
        table: Numbers. Each row is a group of bars, named by the index. Each of at most two
            columns has a color.
        unit: The label of the x axis.
        title: The title.

    Returns:
        The figure.
    """
    figure, axis = new_figure(9, 1.6 + 0.15 * table.size, title)
    _draw_bars(axis, table, unit)
    if table.shape[1] > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_bars(axis: Axes, table: pd.DataFrame, unit: str) -> None:
    """Draw a table as horizontal bars with their values, first row on top."""
    all_integers = (table % 1 == 0).all(axis=None)
    table.plot.barh(ax=axis, color=[BLUE, ORANGE], width=0.8, legend=False)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="{:,.0f}" if all_integers else "{:.1f}", padding=3, fontsize=8)
    axis.set(xlabel=unit, xlim=(0, 1.1 * table.max(axis=None)))
    axis.invert_yaxis()


@style.context("default")
def plot_images(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 5
) -> Figure:
    """Plot images in rows, each with its caption above it.

    Args:
        images: Images (H, W, 3), uint8 or floats in [0, 1], or maps (H, W). Sizes may differ.
            Without images, the figure says that there are none.
        captions: One caption for each image. May be empty strings.
        title: The title.
        columns: The number of images in a row.

    Returns:
        The figure.
    """
    if len(images) == 0:
        return _message_figure("No images", title)
    rows = -(-len(images) // columns)
    image_size = 9.5 / columns
    rows_with_captions = {i // columns for i, caption in enumerate(captions) if caption}
    height = 0.6 + rows * image_size + 0.3 * len(rows_with_captions)
    figure, axes = new_figure(9.5, height, title, nrows=rows, ncols=columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(caption, fontsize=9)
    return figure


def _message_figure(message: str, title: str) -> Figure:
    """Return a figure that contains only a message."""
    figure, axis = new_figure(9.5, 1.6, title)
    axis.axis("off")
    axis.text(0.5, 0.5, message, ha="center", va="center", fontsize=12, transform=axis.transAxes)
    return figure


@style.context("default")
def plot_no_mistakes(data: ImageData, title: str) -> Figure:
    """Create a figure that says that all test images are classified correctly.

    Args:
        data: The data with the test images.
        title: The title.

    Returns:
        The figure.
    """
    message = f"No mistakes: all {len(data.test_labels):,} test images are classified correctly."
    return _message_figure(message, title)


@style.context("default")
def plot_classes(data: ImageData) -> Figure:
    """Plot the first training image of each class under the name of the class.

    Args:
        data: The data.

    Returns:
        The figure. A class without a training image is left out.
    """
    classes, first = np.unique(data.train_labels, return_index=True)
    captions = [data.classes[label] for label in classes]
    title = f"One training image of each class: {data.title}"
    return plot_images(data.train_images[first], captions, title)


@style.context("default")
def plot_augmentations(
    data: ImageData, transform: A.Compose, n: int = 10, copies: int = 3, seed: int = 0
) -> Figure:
    """Plot the first training images and augmented copies of each below it.

    Args:
        data: The data.
        transform: An augmentation of `helpers.transforms`. This function seeds it.
        n: The number of images.
        copies: The number of augmented copies of each image.
        seed: Seeds the augmentation.

    Returns:
        The figure.
    """
    transform.set_random_seed(seed)
    originals = data.train_images[:n]
    images = list(originals)
    for _ in range(copies):
        images += [transform(image=image)["image"] for image in originals]
    title = f"{len(originals)} images, and {copies} augmented copies of each below: {data.title}"
    return plot_images(images, [""] * len(images), title, columns=len(originals))


@style.context("default")
def plot_history(*results: Result, required: float | None = None) -> Figure:
    """Plot accuracy and loss after every epoch, and the learning rate of every step.

    Args:
        *results: One run, or two runs to compare.
        required: The test accuracy in % that the assignment requires, drawn as a line.

    Returns:
        The figure, with three panels. A color is a run; dashed lines are training values.
    """
    names = " and ".join(result.metrics["net"] for result in results)
    title = f"Training of {names} on {results[0].metrics['dataset']}"
    figure, axes = new_figure(10, 3.6, title, ncols=3)
    for result, color in zip(results, (BLUE, ORANGE), strict=False):
        epochs = pd.DataFrame(result.history.epochs)
        name = result.metrics["net"]
        for axis, metric in zip(axes, ("accuracy", "loss"), strict=False):
            axis.plot(epochs["epoch"], epochs[f"test_{metric}"], color=color, label=f"{name}, test")
            axis.plot(
                epochs["epoch"],
                epochs[f"train_{metric}"],
                "--",
                color=color,
                label=f"{name}, train",
            )
        lrs = result.history.lrs
        steps = np.arange(1, len(lrs) + 1)
        axes[2].plot(steps * len(epochs) / len(lrs), lrs, color=color, label=name)
    if required:
        axes[0].axhline(required, color="black", linestyle=":", label=f"required: {required:g} %")
    axes[0].set(ylabel="accuracy (%)")
    axes[1].set(ylabel="loss (cross-entropy)")
    axes[2].set(ylabel="learning rate", ylim=0)
    for axis in axes:
        axis.set(xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


@style.context("default")
def plot_calibration(result: Result, data: ImageData) -> Figure:
    """Plot the accuracy of predictions against their confidence (a reliability diagram).

    The title states the mean confidence, the accuracy and the expected calibration error over ten
    bins (C. Guo et al., arXiv:1706.04599). A bin with less than 0.5 % of the images counts in the
    error but has no point.

    Args:
        result: The run.
        data: The data with the test images.

    Returns:
        The figure.
    """
    confidences = confidence(result.logits)
    correct = result.logits.argmax(axis=1) == data.test_labels
    predictions = pd.DataFrame({"confidence": confidences, "accuracy": correct})
    bins = predictions.groupby(np.ceil(10 * confidences))
    means = bins.mean()
    fractions = bins.size() / len(confidences)
    calibration_error = (means["accuracy"] - means["confidence"]).abs() @ fractions
    title = (
        f"Calibration: {result.title}\n"
        f"mean confidence {100 * confidences.mean():.1f} %, accuracy {100 * correct.mean():.1f} %\n"
        f"expected calibration error {calibration_error:.3f}"
    )
    figure, (upper, lower) = new_figure(6, 5.4, title, nrows=2, sharex=True, height_ratios=[3, 1])
    points = means[fractions >= 0.005]
    upper.plot(points["confidence"], points["accuracy"], "s-", color=BLUE, label="accuracy")
    upper.plot([0, 1], [0, 1], "k:", label="perfect calibration")
    upper.set(ylabel="accuracy (fraction right)")
    upper.legend()
    lower.bar(means["confidence"], 100 * fractions, 0.05, color=ORANGE)
    lower.set(xlabel="confidence", ylabel="images (%)")
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    return figure


@style.context("default")
def plot_misclassified(result: Result, data: ImageData, n: int = 10) -> Figure:
    """Plot the first mistakes, then the most confident ones.

    Each caption states the true class, the predicted class and the confidence. Without mistakes,
    the figure says so.

    Args:
        result: The run.
        data: The data with the test images.
        n: The number of first mistakes and of most confident mistakes.

    Returns:
        The figure.
    """
    mistakes = find_mistakes(result.logits, data.test_labels)
    if len(mistakes) == 0:
        return plot_no_mistakes(data, f"Mistakes: {result.title}")
    confidences = confidence(result.logits)
    predicted = result.logits.argmax(axis=1)
    most_confident = mistakes[np.argsort(-confidences[mistakes])]
    indices = np.concatenate([mistakes[:n], most_confident[:n]])
    captions = []
    for i in indices:
        true_class = data.classes[data.test_labels[i]]
        predicted_class = data.classes[predicted[i]]
        captions.append(f"{true_class}\n-> {predicted_class} ({confidences[i]:.0%})")
    shown = min(n, len(mistakes))
    title = (
        f"The first {shown} of {len(mistakes):,} mistakes, then the {shown} most confident: "
        f"{result.title}"
    )
    return plot_images(data.test_images[indices], captions, title)


@style.context("default")
def plot_class_accuracy(*results: Result) -> Figure:
    """Plot the test accuracy of each class.

    Args:
        *results: One run, or two runs on the same data to compare.

    Returns:
        The figure.
    """
    accuracies = {result.metrics["net"]: result.metrics["class_accuracy"] for result in results}
    table = pd.DataFrame(accuracies)
    table = table.loc[table.mean(axis=1).sort_values().index]  # the most accurate class on top
    title = f"Accuracy by class: {results[0].metrics['dataset']}"
    figure, axis = new_figure(9, 4, title)
    for name, color, marker in zip(table, (BLUE, ORANGE), ("o", "s"), strict=False):
        axis.plot(table[name], range(len(table)), marker, color=color, label=name)
    axis.set_yticks(range(len(table)), table.index)
    axis.set(xlabel="test accuracy (%)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


@style.context("default")
def plot_confusion_matrix(result: Result, data: ImageData) -> Figure:
    """Plot the number of misclassified test images for each true and predicted class.

    The title states the most frequent confusion.

    Args:
        result: The run.
        data: The data with the test images.

    Returns:
        The figure, with the true classes in rows.
    """
    true, predicted, count = most_confused(result.logits, data.test_labels)
    if count == 0:
        most_frequent = "no mistakes"
    else:
        most_frequent = (
            f"most frequent confusion: {data.classes[true]} predicted as "
            f"{data.classes[predicted]}, {count} times"
        )
    figure, axis = new_figure(7.5, 6.8, f"Mistakes by class: {result.title}\n{most_frequent}")
    labels = range(len(data.classes))
    counts = confusion_matrix(data.test_labels, result.logits.argmax(axis=1), labels=labels)
    np.fill_diagonal(counts, 0)  # beside the right answers, mistakes would be too pale to compare
    display = ConfusionMatrixDisplay(counts, display_labels=data.classes)
    display.plot(ax=axis, cmap="Blues", xticks_rotation=45, colorbar=False)
    for label in labels:
        display.text_[label, label].set_text("")
    axis.set(xlabel="predicted class", ylabel="true class")
    return figure


@style.context("default")
def plot_layer_costs(model: nn.Module, model_name: str) -> Figure:
    """Plot each block's percentage of the parameters and of the multiply-adds.

    Args:
        model: The model.
        model_name: The name of the model, for the title.

    Returns:
        The figure.
    """
    title = f"Where the parameters and multiply-adds are: {model_name}"
    return plot_bars(block_cost_percentages(model), "percentage of the total (%)", title)


@style.context("default")
def plot_receptive_fields(result: Result, data: ImageData, modules: Sequence[str]) -> Figure:
    """Plot how the receptive field grows from module to module.

    The first panel shows the theoretical fields as squares on the second test image. The others
    show the effective fields over the first 100 test images (W. Luo et al., arXiv:1701.04128).
    They are bright where pixels have a strong influence; each panel has its own scale.

    Args:
        result: The run.
        data: The data with the test images.
        modules: Names of modules, from input to output, for example ["block1", "block2"].

    Returns:
        The figure, with a panel for all theoretical fields and one for each effective field.

    Raises:
        AttributeError: If the model has no such module.
    """
    title = f"Receptive field of the central output of each block: {result.title}"
    count = len(modules)
    figure, axes = new_figure(10, 3.9, title, ncols=1 + count, width_ratios=[2, *[1] * count])
    nominal, *effective = np.atleast_1d(axes)
    layers = trace_layers(result.model)
    squares = [theoretical_receptive_field(layers, module) for module in modules]
    inputs = _normalize(data, data.test_images[:100])
    nominal.imshow(data.test_images[1])
    colors = colormaps["viridis"](np.linspace(0.9, 0.1, count))
    for color, module, (top, left, height, width) in zip(colors, modules, squares, strict=True):
        corner = (left - 0.5, top - 0.5)  # pixel 0 extends from -0.5 to 0.5
        label = f"{module}: {height:.0f}x{width:.0f}"
        square = Rectangle(corner, width, height, fill=False, color=color, lw=2.5, label=label)
        nominal.add_patch(square)
    # The squares are not exactly centered, so a margin keeps them inside the panel.
    half_width = max(squares[-1][2:]) / 2 + 8
    limits = (16 - half_width, 16 + half_width)
    nominal.set(xlim=limits, ylim=limits[::-1], xlabel="column (pixels)", ylabel="row (pixels)")
    nominal.set_title("theoretical", fontsize=10)
    nominal.legend(fontsize=8, loc="lower left")
    for axis, module in zip(effective, modules, strict=True):
        axis.imshow(effective_receptive_field(result.model, module, inputs))
        axis.set_title(f"effective: {module}", fontsize=10)
        axis.set(xlabel="column (pixels)")
    return figure


@style.context("default")
def plot_activations(result: Result, data: ImageData, modules: Sequence[str]) -> Figure:
    """Plot the second test image and the eight strongest feature maps of each module.

    Args:
        result: The run.
        data: The data with the test images.
        modules: Names of modules, for example ["block1", "block2"].

    Returns:
        The figure, with a row for each module. Captions state the module and the channel.

    Raises:
        AttributeError: If the model has no such module.
    """
    image = data.test_images[1]
    inputs = _normalize(data, image[None])
    images = []
    captions = []
    for module in modules:
        maps = get_activations(result.model, module, inputs)[0].detach().numpy()
        strongest = np.argsort(-maps.mean(axis=(1, 2)))[:8]
        images += [image, *maps[strongest]]
        captions += ["image", *(f"{module}, {channel}" for channel in strongest)]
    title = f"The strongest feature maps: {result.title}"
    return plot_images(images, captions, title, columns=9)


@style.context("default")
def plot_values_read(grids: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Plot which values of a feature map kernels read.

    Args:
        grids: For each kernel, two boolean grids (H, W): the values that one output reads, and
            those that all outputs read together.

    Returns:
        The figure, with a column for each kernel. Captions state the share of the second grid.
    """
    title = "Values that one output reads (above), and that all outputs read (below)"
    figure, axes = new_figure(10, 4.6, title, nrows=2, ncols=len(grids), squeeze=False)
    for (upper, lower), (name, (one, every)) in zip(axes.T, grids.items(), strict=True):
        for axis, grid in ((upper, one), (lower, every)):
            height, width = grid.shape
            axis.imshow(grid, "Blues", vmin=0, vmax=1.5)
            axis.set_xticks(np.arange(width) - 0.5, minor=True)
            axis.set_yticks(np.arange(height) - 0.5, minor=True)
            axis.grid(which="minor", color="silver")
            axis.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
        upper.set_title(name, fontsize=10)
        lower.set_xlabel(f"{every.mean():.0%} of the values")
    return figure


@style.context("default")
def plot_kernels(models: Mapping[str, nn.Module], data: ImageData, title: str) -> Figure:
    """Plot the kernels of each model's first convolution and the correlation of their outputs.

    Args:
        models: Models by name.
        data: The data. The outputs are those for the first 100 training images.
        title: The title.

    Returns:
        The figure, with a row for each model.
    """
    figure, axes = new_figure(
        9, 0.4 + 3 * len(models), title, nrows=len(models), ncols=2, squeeze=False
    )
    inputs = _normalize(data, data.train_images[:100])
    for (kernel_axis, correlation_axis), (name, model) in zip(axes, models.items(), strict=True):
        convolution = next(m for m in execution_order(model) if isinstance(m, nn.Conv2d))
        kernels = convolution.weight.detach().cpu()
        largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True)
        tiles = make_grid(kernels / largest / 2 + 0.5, nrow=8, padding=1)
        kernel_axis.imshow(tiles.permute(1, 2, 0).numpy())
        kernel_axis.set_title(f"{name} kernels")
        kernel_axis.axis("off")
        with torch.no_grad():
            outputs = convolution(inputs.to(convolution.weight.device)).cpu()
        correlation = torch.corrcoef(outputs.transpose(0, 1).flatten(1))
        image = correlation_axis.imshow(correlation.numpy(), cmap="PuOr_r", vmin=-1, vmax=1)
        correlation_axis.set(title=f"{name}: correlation", xlabel="kernel", ylabel="kernel")
        figure.colorbar(image, ax=correlation_axis)
    return figure


@style.context("default")
def plot_singular_values(matrices: Mapping[str, Tensor], title: str) -> Figure:
    """Plot the singular values of matrices, relative to the largest one of each.

    Args:
        matrices: At most three matrices by name.
        title: The title.

    Returns:
        The figure.
    """
    figure, axis = new_figure(8, 3, title)
    for (name, matrix), color in zip(matrices.items(), (BLUE, ORANGE, "black"), strict=False):
        values = torch.linalg.svdvals(matrix.detach().float().cpu()).numpy()
        axis.plot(values / values.max(), ".-", color=color, label=name)
    axis.set(xlabel="index, in decreasing order", ylabel="singular value / largest", ylim=0)
    axis.legend()
    return figure


@style.context("default")
def plot_lr_search(lr_curve: pd.DataFrame, lr_trials: pd.DataFrame, title: str) -> Figure:
    """Plot the two stages of a learning-rate search.

    The first panel shows the range test: the loss of each step, its running average, and the rate
    at which the short runs begin. The second panel shows the validation loss of the short runs, a
    parabola through the best run and its two neighbors, and the selected learning rate. Without
    two neighbors of finite loss, there is no parabola.

    Args:
        lr_curve: The table of `lr_finder.lr_range_test`, with columns learning_rate and loss.
        lr_trials: The second table of `lr_finder.find_lr`, with columns learning_rate and loss.
        title: The title.

    Returns:
        The figure.
    """
    figure, (left, right) = new_figure(10, 4.2, title, ncols=2)
    _draw_range_test(left, lr_curve)
    _draw_short_runs(right, lr_trials)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def _draw_range_test(axis: Axes, lr_curve: pd.DataFrame) -> None:
    """Draw the loss of each step and its running average."""
    lrs, average = lr_curve["learning_rate"], lr_curve["loss"]
    start = lrs[average.idxmin()] / 10
    step_losses = (average - 0.95 * average.shift()) / 0.05  # inverts torch-lr-finder's average
    step_losses.iloc[0] = average.iloc[0]
    axis.semilogx(lrs, step_losses, ".", color="gray", label="each step")
    axis.plot(lrs, average, color=BLUE, label="running average")
    axis.axhline(np.log(10), color="black", linestyle=":", label=f"guessing: {np.log(10):.2f}")
    lowest = f"lowest average: {10 * start:.2g}"
    axis.plot(10 * start, average.min(), "v", color=ORANGE, label=lowest)
    axis.axvline(start, color=ORANGE, linestyle="--", label=f"a tenth of it: {start:.2g}")
    axis.set(title="range test", xlabel="learning rate", ylabel="training loss (cross-entropy)")


def _draw_short_runs(axis: Axes, lr_trials: pd.DataFrame) -> None:
    """Draw the loss of each short run and the parabola that selects the learning rate."""
    selected_lr = interpolate_best_lr(dict(lr_trials.to_numpy()))
    trials = lr_trials.sort_values("learning_rate").reset_index(drop=True)
    best = trials["loss"].argmin()
    nearest = trials[max(0, best - 1) : best + 2]
    axis.semilogx(trials["learning_rate"], trials["loss"], "o", color=BLUE, label="short runs")
    if len(nearest) == 3 and np.isfinite(nearest["loss"]).all():  # infinite if training diverged
        parabola = np.polyfit(np.log2(nearest["learning_rate"]), nearest["loss"], 2)
        lrs = np.geomspace(nearest["learning_rate"].min(), nearest["learning_rate"].max())
        losses = np.polyval(parabola, np.log2(lrs))
        axis.plot(lrs, losses, color=BLUE, label="parabola through the best three")
    axis.axvline(selected_lr, color=ORANGE, linestyle="--", label=f"selected: {selected_lr:.2g}")
    axis.minorticks_off()
    axis.set_xticks(trials["learning_rate"], [f"{lr:.2g}" for lr in trials["learning_rate"]])
    axis.set(title="short runs", xlabel="maximum learning rate")
    axis.set(ylabel="validation loss (cross-entropy)")


@style.context("default")
def plot_ablation(table: pd.DataFrame, images: int) -> Figure:
    """Plot the validation accuracy of runs that each change one thing, beside the unchanged run.

    The error bars are 1.96 binomial standard errors of an accuracy on that many images. They leave
    out that two runs of one recipe differ, too.

    Args:
        table: A row for each run, the unchanged one first, with the columns name and "validation
            accuracy (%)".
        images: The number of validation images.

    Returns:
        The figure, with a dot for each run.
    """
    accuracy = table["validation accuracy (%)"]
    errors = 1.96 * np.sqrt(accuracy * (100 - accuracy) / images)
    figure, axis = new_figure(9, 1.2 + 0.4 * len(table), "One change at a time")
    rows = range(len(table))
    axis.errorbar(accuracy, rows, xerr=errors, fmt="o", color=BLUE, capsize=3)
    axis.axvline(accuracy.iloc[0], color="black", linestyle=":")
    axis.set_yticks(rows, table["name"])
    axis.set(xlabel="validation accuracy (%), with 95 % interval", ylim=(len(table) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    return figure


@style.context("default")
def plot_lr_sweep(sweep: pd.DataFrame, saved_lrs: Mapping[str, float]) -> Figure:
    """Plot the validation loss of short runs by learning rate, with a panel for each model.

    Losses are relative to the lowest one of each line.

    Args:
        sweep: The table `results/S10/rates.csv`, with columns name ("S7/s7, SGD, 0.05"), seed,
            learning rate and validation loss.
        saved_lrs: The maximum learning rate of the saved run of each model, by model name.

    Returns:
        The figure.
    """
    runs = sweep["name"].str.extract(r"/(?P<model>.*), (?P<optimizer>.*), ")
    sweep = sweep.assign(**runs).sort_values(["name", "learning rate"])
    model_names = sweep["model"].unique()
    columns = min(3, len(model_names))
    rows = -(-len(model_names) // columns)
    figure, axes = new_figure(
        10,
        3 * rows,
        "Short runs at learning rates a factor of two apart, by model and optimizer",
        nrows=rows,
        ncols=columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    colors = {"SGD": BLUE, "Muon": ORANGE, "AdamW": "black"}
    styles = ["o-", "s--"]
    for axis in axes.flat[len(model_names) :]:
        axis.axis("off")
    for axis, model_name in zip(axes.flat, model_names, strict=False):
        model_runs = sweep[sweep["model"] == model_name]
        for (optimizer, seed), line in model_runs.groupby(["optimizer", "seed"], sort=False):
            axis.semilogx(
                line["learning rate"],
                line["validation loss"] - line["validation loss"].min(),
                styles[seed],
                color=colors[optimizer],
                markersize=4,
                label=f"{optimizer}, seed {seed}",
            )
        axis.axvline(saved_lrs[model_name], color="gray", linestyle=":", label="saved run")
        axis.set_title(model_name, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.supxlabel("learning rate")
    figure.supylabel("validation loss above the line's minimum (cross-entropy)")
    return figure


@style.context("default")
def plot_schedules(result: Result) -> Figure:
    """Plot the learning rate of a run, of the same cycle with an end phase, and stepped wrongly.

    Args:
        result: A run whose scheduler was stepped after every batch.

    Returns:
        The figure, with a panel for the applied cycle and one for the cycle stepped after every
        epoch. Rates are relative to the maximum.
    """
    lrs = np.array(result.history.lrs)
    epochs = result.metrics["epochs"]
    batches = len(lrs) // epochs
    relative_lrs = lrs / lrs.max()
    position = np.arange(1, len(lrs) + 1) / batches
    peak = int(lrs.argmax())
    without = relative_lrs.copy()  # falls to the first rate instead
    without[peak:] = np.linspace(1, relative_lrs[0], len(lrs) - peak)
    figure, (left, right) = new_figure(10, 3.6, f"One cycle: {result.title}", ncols=2, sharey=True)
    left.plot(position, relative_lrs, color=BLUE, label="applied in this run")
    left.plot(position, without, "--", color=ORANGE, label="without annihilation")
    left.axhline(relative_lrs[0], color="gray", linestyle=":", label="first rate")
    left.set(title="stepped after every batch", ylabel="learning rate / maximum")
    right.plot(position, np.repeat(relative_lrs[:epochs], batches), color=ORANGE)
    right.set(title="the same schedule, stepped after every epoch")
    for axis in (left, right):
        axis.set(xlabel="epoch", ylim=(0, 1.05))
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


@style.context("default")
def plot_batch_statistics(table: pd.DataFrame) -> Figure:
    """Plot test accuracies with running and with recomputed batch statistics.

    Args:
        table: The table `results/S9/batch_statistics.csv`, with columns seed, epoch and two
            columns of test accuracies in %.

    Returns:
        The figure, with a panel for each seed.
    """
    lines = {
        "test accuracy (%), running statistics": ("running statistics", ORANGE, "o-"),
        "test accuracy (%), recomputed statistics": ("recomputed statistics", BLUE, "s--"),
    }
    seeds = table.sort_values("epoch").groupby("seed")
    title = "The same weights of compact with two sets of means and variances"
    figure, axes = new_figure(9, 3.6, title, ncols=len(seeds), sharey=True, squeeze=False)
    for axis, (seed, epochs) in zip(axes.flat, seeds, strict=True):
        for column, (label, color, marker) in lines.items():
            axis.plot(epochs["epoch"], epochs[column], marker, color=color, label=label)
        axis.set(title=f"seed {seed}", xlabel="epoch", ylabel="test accuracy (%)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    return figure


def _normalize(data: ImageData, images: np.ndarray) -> Tensor:
    """Return uint8 images (N, 32, 32, 3) as normalized inputs (N, 3, 32, 32)."""
    return data.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
