"""Figures show the data they are given."""

import dataclasses

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import colab, drawings, grad_cam, plotting
from helpers.config import ROOT
from helpers.data import load_sample
from helpers.inspection import block_cost_percentages
from helpers.models import get_model
from helpers.results import Result
from helpers.training import History
from helpers.transforms import flip_shift

BLOCKS = ("block1", "block2", "block3", "block4")


@pytest.fixture(scope="module")
def data():
    return load_sample().subset(200, 40)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return get_model("s7")


def make_result(logits=None, model=None, **metrics):
    history = History([], [], [])
    metrics = {"net": "s7", "dataset": "sample"} | metrics
    return Result(None, model, history, metrics, logits, "s7 on sample")


def logits_for(predicted, scale=10.0):
    """Return logits whose largest entry is the predicted class, with the same confidence."""
    return (scale * np.eye(10)[predicted]).astype(np.float32)


def perfect_result(data):
    return make_result(logits_for(data.test_labels))


def panel_titles(figure):
    return [axis.get_title() for axis in figure.axes]


def image_arrays(figure):
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def legend_texts(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def render(figure):
    """Draw the figure, which finds errors in its layout."""
    figure.canvas.draw()
    return figure


# ------------------------------------------------------------------------------ bars and images


def test_a_long_title_stays_inside_the_figure():
    figure, _ = plotting.new_figure(4, 3, "a rather long title " * 6)
    render(figure)
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= 400
    assert extent.y1 <= 300


def test_bars_show_every_value_with_its_name():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.5]}, index=["first", "second"])
    axis = plotting.plot_bars(table.rename_axis("row"), "unit", "Title").axes[0]
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths == [[1.0, 2.0], [3.0, 4.5]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    assert axis.get_xlabel() == "unit"
    assert axis.get_ylabel() == "row"
    assert axis.yaxis_inverted()  # the first row is on top
    assert axis.get_xlim()[1] > 4.5
    assert {text.get_text() for text in axis.texts} == {"1.0", "2.0", "3.0", "4.5"}
    [counts] = plotting.plot_bars(pd.DataFrame({"images": [5000, 1000]}), "images", "Title").axes
    assert {text.get_text() for text in counts.texts} == {"5,000", "1,000"}


def test_bars_of_two_columns_have_two_colors_and_a_legend():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.5]})
    figure = plotting.plot_bars(table, "unit", "Title")
    colors = [bars[0].get_facecolor() for bars in figure.axes[0].containers]
    assert colors[0] != colors[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert plotting.plot_bars(table[["a"]], "unit", "Title").legends == []


def test_each_image_has_its_caption():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    figure = plotting.plot_images(images, ["none", "one", "two"], "Title", columns=2)
    assert panel_titles(figure) == ["none", "one", "two", ""]
    assert [axis.images[0].get_array().max() for axis in figure.axes[:3]] == [0, 1, 2]


def test_a_figure_without_images_says_so():
    figure = render(plotting.plot_images(np.zeros((0, 32, 32, 3), np.uint8), [], "Title"))
    assert figure.get_suptitle() == "Title"
    assert [text.get_text() for text in figure.axes[0].texts] == ["No images"]


def test_classes_are_shown_by_their_first_training_image(data):
    figure = plotting.plot_classes(data)
    assert panel_titles(figure) == list(data.classes)
    for label, shown in enumerate(image_arrays(figure)):
        first = np.flatnonzero(data.train_labels == label)[0]
        assert np.array_equal(shown, data.train_images[first])


def test_augmented_copies_are_below_their_images_and_repeat(data):
    figures = [plotting.plot_augmentations(data, flip_shift(data.mean), 4, 2) for _ in range(2)]
    images = image_arrays(figures[0])
    assert len(images) == 4 * (1 + 2)
    assert np.array_equal(images[:4], data.train_images[:4])
    assert not np.array_equal(images[4:8], images[:4])
    assert not np.array_equal(images[4:8], images[8:])
    assert np.array_equal(images, image_arrays(figures[1]))
    other = plotting.plot_augmentations(data, flip_shift(data.mean), 4, 2, seed=1)
    assert not np.array_equal(images, image_arrays(other))
    grid = figures[0].axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (3, 4)
    assert "4 images, and 2 augmented copies" in figures[0].get_suptitle()


# ----------------------------------------------------------------------------------------- runs


def test_history_shows_learning_rates_and_accuracies_over_the_same_epochs():
    epochs = [
        {"epoch": n, "train_loss": 2 / n, "test_loss": 3 / n, "train_accuracy": 10.0 * n,
         "test_accuracy": 9.0 * n}
        for n in (1, 2, 3)
    ]  # fmt: skip
    result = make_result()
    result.history = History(epochs, [0.1, 0.2, 0.3, 0.2, 0.1, 0.0])
    figure = plotting.plot_history(result, required=80)
    accuracy, loss, lr = figure.axes
    assert list(lr.lines[0].get_xdata()) == [0.5, 1, 1.5, 2, 2.5, 3]  # two steps an epoch
    assert list(lr.lines[0].get_ydata()) == [0.1, 0.2, 0.3, 0.2, 0.1, 0.0]
    test, train, required = accuracy.lines
    assert [list(line.get_ydata()) for line in (test, train)] == [[9, 18, 27], [10, 20, 30]]
    assert list(required.get_ydata()) == [80, 80]
    assert [list(line.get_ydata()) for line in loss.lines] == [[3, 1.5, 1], [2, 1, 2 / 3]]
    assert figure.get_suptitle() == "Training of s7 on sample"
    both = plotting.plot_history(result, result)
    assert [len(axis.lines) for axis in both.axes] == [4, 4, 2]
    assert both.axes[0].lines[0].get_color() != both.axes[0].lines[2].get_color()


def calibration_error(labels, logits):
    """Written out: C. Guo et al., arXiv:1706.04599, equation 3."""
    confidences = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()
    correct = logits.argmax(axis=1) == labels
    error = 0.0
    for low in np.linspace(0, 0.9, 10):
        in_bin = (confidences > low) & (confidences <= low + 0.1)
        if in_bin.any():
            error += in_bin.mean() * abs(correct[in_bin].mean() - confidences[in_bin].mean())
    return error


def data_with(labels, data):
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    return dataclasses.replace(
        data, test_images=images, test_labels=labels, full_test_size=len(labels)
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_calibration_states_the_expected_calibration_error(data, seed, scale):
    random = np.random.default_rng(seed)
    logits = (scale * random.standard_normal((200, 10))).astype(np.float32)
    labels = random.integers(0, 10, 200)
    figure = plotting.plot_calibration(make_result(logits), data_with(labels, data))
    error = float(figure.get_suptitle().split()[-1])
    assert error == pytest.approx(calibration_error(labels, logits), abs=6e-4)
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == pytest.approx(100)


def test_calibration_counts_the_border_of_a_bin_and_full_confidence(data):
    logits = np.full((4, 10), -100, np.float32)
    logits[:2, 0] = logits[2:, 1] = 0
    logits[2:, 2] = 0  # one half for each of two classes
    labels = np.array([0, 0, 1, 3])
    figure = plotting.plot_calibration(make_result(logits), data_with(labels, data))
    # Fully confident: always correct. Confidence one half: half of them correct.
    assert figure.get_suptitle() == (
        "Calibration: s7 on sample\n"
        "mean confidence 75.0 %, accuracy 75.0 %\nexpected calibration error 0.000"
    )


def test_the_upper_border_belongs_to_a_bin(data):
    logits = np.full((2, 10), -100, np.float32)
    logits[:, :2] = 0  # confidence 0.5, in the bin from 0.4 to 0.5
    logits[1, 0] = np.log(0.55 / 0.45)  # confidence 0.55, in the next bin
    figure = plotting.plot_calibration(make_result(logits), data_with(np.array([9, 0]), data))
    assert figure.get_suptitle().endswith("error 0.475")


def test_bins_of_few_images_have_no_point(data):
    # Of 200 images, exactly 0.5 % are in the second bin and less in none.
    logits = np.concatenate([logits_for(np.zeros(199, int)), logits_for([0], scale=0.5)])
    labels = np.zeros(200, int)
    axis = plotting.plot_calibration(make_result(logits), data_with(labels, data)).axes[0]
    assert len(axis.lines[0].get_xdata()) == 2
    logits, labels = np.concatenate([logits[:1], logits]), np.zeros(201, int)
    axis = plotting.plot_calibration(make_result(logits), data_with(labels, data)).axes[0]
    assert len(axis.lines[0].get_xdata()) == 1


def test_misclassified_shows_the_first_mistakes_then_the_most_confident(data):
    predicted = data.test_labels.copy()
    mistakes = [3, 5, 8, 13, 21]
    predicted[mistakes] = (predicted[mistakes] + 1) % 10
    logits = logits_for(predicted)
    logits[mistakes] *= np.array([0.3, 0.1, 0.5, 0.2, 0.4])[:, None]
    figure = plotting.plot_misclassified(make_result(logits), data, n=3)
    order = [3, 5, 8, 8, 21, 3]
    assert np.array_equal(image_arrays(figure), data.test_images[order])
    probability = np.exp(5) / (np.exp(5) + 9)
    true = data.test_labels[8]
    predicted_class = data.classes[(true + 1) % 10]
    caption = f"{data.classes[true]}\n-> {predicted_class} ({probability:.0%})"
    assert panel_titles(figure)[2] == caption
    assert "first 3 of 5 mistakes, then the 3 most confident" in figure.get_suptitle()


def test_misclassified_says_how_many_mistakes_it_shows(data):
    predicted = data.test_labels.copy()
    predicted[7] = (predicted[7] + 1) % 10
    figure = plotting.plot_misclassified(make_result(logits_for(predicted)), data)
    assert "first 1 of 1 mistakes, then the 1 most confident" in figure.get_suptitle()
    assert len(image_arrays(figure)) == 2


def test_without_mistakes_the_figures_say_so(data):
    result = perfect_result(data)
    figure = render(plotting.plot_misclassified(result, data))
    [text] = figure.axes[0].texts
    assert text.get_text() == "No mistakes: all 40 test images are classified correctly."
    matrix = render(plotting.plot_confusion_matrix(result, data))
    assert matrix.get_suptitle() == "Mistakes by class: s7 on sample\nno mistakes"
    render(plotting.plot_calibration(result, data))


def test_class_accuracies_of_two_runs_are_side_by_side_in_their_order():
    first = make_result(class_accuracy={"cat": 80.0, "dog": 90.0})
    second = make_result(net="compact", class_accuracy={"cat": 85.0, "dog": 70.0})
    [axis] = plotting.plot_class_accuracy(first, second).axes
    # The mean of cat is higher, so it is on top.
    assert [label.get_text() for label in axis.get_yticklabels()] == ["dog", "cat"]
    assert [list(line.get_xdata()) for line in axis.lines] == [[90, 80], [70, 85]]
    assert legend_texts(axis) == ["s7", "compact"]
    assert axis.lines[0].get_marker() != axis.lines[1].get_marker()
    assert plotting.plot_class_accuracy(first).get_suptitle() == "Accuracy by class: sample"


def test_confusion_matrix_has_the_true_classes_in_rows(data):
    labels = np.array([0, 0, 0, 1, 2])
    logits = logits_for([1, 1, 0, 1, 2])
    figure = plotting.plot_confusion_matrix(make_result(logits), data_with(labels, data))
    [axis] = figure.axes
    matrix = axis.images[0].get_array()
    assert matrix.shape == (10, 10)
    assert matrix[:3, :3].tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert "" in {text.get_text() for text in axis.texts}  # the diagonal is left blank
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert figure.get_suptitle().endswith(
        "most frequent confusion: airplane predicted as automobile, 2 times"
    )


# -------------------------------------------------------------------------------------- models


def test_layer_costs_are_drawn_as_percentages(model):
    figure = plotting.plot_layer_costs(model, "s7")
    parameters, mult_adds = figure.axes[0].containers
    table = block_cost_percentages(model)
    assert [bar.get_width() for bar in parameters] == pytest.approx(table["parameters"].to_list())
    assert [bar.get_width() for bar in mult_adds] == pytest.approx(table["multiply-adds"].to_list())
    assert figure.get_suptitle().endswith(": s7")


def test_receptive_fields_are_squares_over_one_image_and_gradients(model, data):
    figure = plotting.plot_receptive_fields(make_result(model=model), data, BLOCKS)
    nominal, *effective = figure.axes
    assert legend_texts(nominal) == [
        "block1: 8x8", "block2: 22x22", "block3: 42x42", "block4: 74x74",
    ]  # fmt: skip
    assert [square.get_width() for square in nominal.patches] == [8, 22, 42, 74]
    assert np.array_equal(nominal.images[0].get_array(), data.test_images[1])
    assert [axis.get_title() for axis in effective] == [f"effective: {block}" for block in BLOCKS]
    assert all(axis.images[0].get_array().shape == (32, 32) for axis in effective)


def test_effective_receptive_fields_are_those_of_100_test_images(model, monkeypatch):
    inputs = []
    monkeypatch.setattr(
        plotting,
        "effective_receptive_field",
        lambda model, module, images: inputs.append(images) or np.zeros((32, 32)),
    )
    data = load_sample()
    plotting.plot_receptive_fields(make_result(model=model), data, ["block1"])
    [images] = inputs
    pixels = torch.from_numpy(data.test_images[:100]).permute(0, 3, 1, 2)
    assert torch.equal(images, data.normalize(pixels))


def test_activations_are_the_strongest_maps_of_each_module(data):
    class FixedMaps(nn.Module):
        def forward(self, x):
            maps = torch.arange(10.0).view(1, 10, 1, 1).repeat(len(x), 1, 4, 4)
            maps[:, 0, 0, 0] = 20  # a high maximum, but a low mean
            return maps

    model = nn.Sequential(FixedMaps(), nn.Conv2d(10, 9, 1))
    figure = plotting.plot_activations(make_result(model=model), data, ["0", "1"])
    titles = panel_titles(figure)
    assert len(titles) == 2 * 9
    assert titles[:9] == ["image", *(f"0, {channel}" for channel in (9, 8, 7, 6, 5, 4, 3, 2))]
    assert titles[9] == "image"
    assert titles[10].startswith("1, ")
    assert np.array_equal(figure.axes[0].images[0].get_array(), data.test_images[1])
    assert (figure.axes[1].images[0].get_array() == 9).all()


def test_kernels_are_beside_the_correlation_of_their_outputs(data):
    images = np.random.default_rng(0).integers(0, 256, data.train_images.shape, np.uint8)
    images[:50, ..., 1] = images[:50, ..., 0]
    data = dataclasses.replace(data, train_images=images)
    models = {"first": get_model("s7"), "second": get_model("s7")}
    for model in models.values():
        nn.init.dirac_(model.block1[0][0].weight)  # passes the three colors through
    figure = plotting.plot_kernels(models, data, "Title")
    assert panel_titles(figure)[:4] == [
        "first kernels", "first: correlation", "second kernels", "second: correlation",
    ]  # fmt: skip
    correlation = figure.axes[1].images[0].get_array()
    channels = data.normalize(torch.from_numpy(data.train_images[:100]).permute(0, 3, 1, 2))
    expected = torch.corrcoef(channels.transpose(0, 1).flatten(1))
    assert np.allclose(correlation[:3, :3], expected, atol=1e-3)
    assert figure.axes[1].images[0].get_clim() == (-1, 1)
    kernels = figure.axes[0].images[0].get_array()
    assert kernels.min() >= 0
    assert kernels.max() == 1


def test_singular_values_are_relative_to_the_largest():
    matrices = {"gradient": torch.diag(torch.tensor([1.0, 4.0, 2.0])), "Muon": torch.eye(3)}
    [axis] = plotting.plot_singular_values(matrices, "Title").axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
    assert lines == {"gradient": [1.0, 0.5, 0.25], "Muon": [1.0, 1.0, 1.0]}


# ------------------------------------------------------------------------------- learning rates


CURVE = pd.DataFrame({"learning_rate": [1e-3, 1e-2, 0.1], "loss": [3.0, 2.9, 3.1]})
TRIALS = pd.DataFrame({"learning_rate": [2.0, 1.0, 4.0, 8.0], "loss": [1.0, 2.0, 2.0, 9.0]})


def test_lr_search_marks_the_lowest_average_and_a_tenth_of_its_rate():
    step_losses = np.array([3.0, 2.0, 1.0, 0.0, 4.0])
    averages = [step_losses[0]]
    for loss in step_losses[1:]:
        averages.append(0.05 * loss + 0.95 * averages[-1])
    lrs = [1e-3, 1e-2, 0.1, 0.2, 1.0]
    lr_curve = pd.DataFrame({"learning_rate": lrs, "loss": averages})
    axis, _ = plotting.plot_lr_search(lr_curve, TRIALS, "Title").axes
    steps, average, _, lowest, tenth = axis.lines
    assert steps.get_ydata() == pytest.approx(step_losses)
    assert average.get_ydata() == pytest.approx(averages)
    assert lowest.get_xdata()[0] == pytest.approx(0.2)
    assert lowest.get_ydata()[0] == min(averages)
    assert tenth.get_xdata()[0] == pytest.approx(0.02)
    texts = " ".join(legend_texts(axis))
    assert "lowest average: 0.2" in texts
    assert "a tenth of it: 0.02" in texts
    assert "guessing: 2.30" in texts


def test_lr_search_has_a_parabola_through_the_best_three():
    _, axis = plotting.plot_lr_search(CURVE, TRIALS, "Title").axes
    points, parabola, selected = axis.lines
    assert points.get_xdata().tolist() == [1, 2, 4, 8]
    assert points.get_ydata().tolist() == [2, 1, 2, 9]
    x, y = parabola.get_data()
    assert y == pytest.approx(1 + np.log2(x / 2) ** 2)
    assert (x.min(), x.max()) == pytest.approx((1, 4))
    assert selected.get_xdata()[0] == pytest.approx(2)
    assert "selected: 2" in legend_texts(axis)


def test_short_runs_that_diverged_have_no_parabola():
    lr_trials = pd.DataFrame({"learning_rate": [1.0, 2.0, 4.0], "loss": [2.0, 1.0, np.inf]})
    _, axis = render(plotting.plot_lr_search(CURVE, lr_trials, "Title")).axes
    assert legend_texts(axis) == ["short runs", "selected: 2"]
    at_the_border = pd.DataFrame({"learning_rate": [1.0, 2.0, 4.0], "loss": [1.0, 2.0, 3.0]})
    _, axis = plotting.plot_lr_search(CURVE, at_the_border, "Title").axes
    assert legend_texts(axis) == ["short runs", "selected: 1"]


def test_an_ablation_has_a_dot_with_an_interval_for_each_run():
    table = pd.DataFrame({"name": ["as trained", "other"], "validation accuracy (%)": [80.0, 50.0]})
    [axis] = plotting.plot_ablation(table, images=2_500).axes
    dots = axis.lines[0]
    assert dots.get_xdata().tolist() == [80, 50]
    [bars] = [container for container in axis.containers if container.has_xerr]
    [segments] = [lines.get_segments() for lines in bars.lines[2]]
    half = [(segment[1, 0] - segment[0, 0]) / 2 for segment in segments]
    assert half == pytest.approx([1.96 * 0.8, 1.96 * 1.0])  # sqrt(80 * 20 / 2500) points
    assert axis.yaxis_inverted()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["as trained", "other"]


def test_values_read_are_drawn_with_their_share():
    one, every = np.eye(4, dtype=bool), np.ones((4, 4), bool)
    every[0] = False
    figure = plotting.plot_values_read({"kernel": (one, every)})
    upper, lower = figure.axes
    assert np.array_equal(upper.images[0].get_array(), one)
    assert lower.get_xlabel() == "75% of the values"


def test_lr_sweep_has_a_panel_for_each_model_and_a_line_for_each_seed():
    sweep = pd.DataFrame(
        {
            "name": ["S7/a, SGD, 0.2", "S7/a, SGD, 0.1", "S7/a, Muon, 0.1", "S9/b, AdamW, 0.1"],
            "seed": [0, 0, 1, 0],
            "learning rate": [0.2, 0.1, 0.1, 0.1],
            "validation loss": [0.7, 0.9, 0.8, 0.5],
        }
    )
    figure = plotting.plot_lr_sweep(sweep, {"a": 0.15, "b": 0.05})
    first, second = figure.axes
    assert panel_titles(figure) == ["a", "b"]
    lines = {line.get_label(): line for line in first.lines}
    assert list(lines) == ["Muon, seed 1", "SGD, seed 0", "saved run"]
    assert lines["SGD, seed 0"].get_xdata().tolist() == [0.1, 0.2]
    assert lines["SGD, seed 0"].get_ydata() == pytest.approx([0.2, 0])
    assert lines["saved run"].get_xdata()[0] == 0.15
    assert lines["SGD, seed 0"].get_color() != lines["Muon, seed 1"].get_color()
    assert second.lines[-1].get_xdata()[0] == 0.05


def test_lr_sweep_draws_the_saved_table():
    sweep = pd.read_csv(ROOT / "results" / "S10" / "rates.csv")
    names = ["compact", "resnet18", "s10", "s7", "s7_dropout", "s9"]
    figure = plotting.plot_lr_sweep(sweep, dict.fromkeys(names, 0.1))
    assert sorted(panel_titles(figure)) == names
    runs = sweep["name"].str.replace(r", [^,]*$", "", regex=True)
    lines = sum(len(axis.lines) - 1 for axis in figure.axes)
    assert lines == len(set(zip(runs, sweep["seed"], strict=True)))


def test_schedules_are_those_of_every_step_and_of_every_epoch():
    result = make_result(epochs=2)
    result.history = History([], [1.0, 2.0, 4.0, 3.0, 1.0, 0.0])
    left, right = plotting.plot_schedules(result).axes
    applied, without, first = left.lines
    assert applied.get_xdata() == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert applied.get_ydata().tolist() == [0.25, 0.5, 1, 0.75, 0.25, 0]
    assert without.get_ydata() == pytest.approx([0.25, 0.5, 1, 0.75, 0.5, 0.25])
    assert first.get_ydata()[0] == 0.25
    assert right.lines[0].get_ydata().tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5]


def test_batch_statistics_have_a_panel_for_each_seed():
    table = pd.DataFrame(
        {
            "seed": [1, 1, 0],
            "epoch": [2, 1, 1],
            "test accuracy (%), running statistics": [60.0, 50.0, 40.0],
            "test accuracy (%), recomputed statistics": [70.0, 65.0, 45.0],
        }
    )
    figure = plotting.plot_batch_statistics(table)
    assert panel_titles(figure) == ["seed 0", "seed 1"]
    running, recomputed = figure.axes[1].lines
    assert (running.get_xdata().tolist(), running.get_ydata().tolist()) == ([1, 2], [50, 60])
    assert recomputed.get_ydata().tolist() == [65, 70]
    saved = pd.read_csv(ROOT / "results" / "S9" / "batch_statistics.csv")
    assert len(plotting.plot_batch_statistics(saved).axes) == saved["seed"].nunique()


def test_figures_keep_their_style_in_a_dark_one(data, tmp_path):
    result = perfect_result(data)
    result.history = History([], [1.0, 2.0])
    bright = plotting.plot_calibration(result, data)
    colab.save_and_show(bright, tmp_path / "bright.png")
    with matplotlib.style.context("dark_background"):
        dark = plotting.plot_calibration(result, data)
        colab.save_and_show(dark, tmp_path / "dark.png")
        assert matplotlib.rcParams["text.color"] == "white", "the user's style stays"
    assert (tmp_path / "bright.png").read_bytes() == (tmp_path / "dark.png").read_bytes()


@pytest.mark.parametrize("module", [plotting, drawings, grad_cam])
def test_every_figure_has_its_own_style(module):
    functions = [f for name, f in vars(module).items() if name.startswith(("plot_", "draw_"))]
    own = [f for f in functions if f.__module__ == module.__name__]
    assert len(own) >= 3
    assert all(hasattr(function, "__wrapped__") for function in own)
