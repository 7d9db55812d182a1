"""Comparisons say how large a difference is and how easily chance explains it."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from helpers.comparison import compare_on_same_images, compare_seeds


def make_result(name, accuracies=(), predictions=()):
    seeds = [{"test_accuracy": accuracy} for accuracy in accuracies]
    logits = np.eye(10)[np.asarray(predictions, int)]
    return SimpleNamespace(metrics={"net": name, "seeds": seeds}, logits=logits)


def compare_counts(only_first, only_second, both):
    """Return the text for counts of images that one network, the other, or both get right."""
    labels = np.zeros(only_first + only_second + both, int)
    first, second = labels.copy(), labels.copy()
    second[:only_first] = 1
    first[only_first : only_first + only_second] = 1
    data = SimpleNamespace(test_labels=labels)
    return compare_on_same_images(
        make_result("s9", predictions=first), make_result("compact", predictions=second), data
    )


def test_networks_are_compared_by_the_images_that_one_of_them_gets_right():
    text = compare_counts(only_first=5, only_second=15, both=80)
    assert text == (
        "compact - s9: +10.00 points on the same 100 images\n"
        "  right with compact alone: 15, with s9 alone: 5\n  McNemar's exact test: p = 0.041"
    )
    # Twice the lower tail of a binomial distribution.
    assert f"p = {2 * stats.binom.cdf(5, 20, 0.5):.2g}" in text
    assert compare_counts(15, 5, 80).startswith("compact - s9: -10.00 points")
    assert compare_counts(0, 0, 10).endswith("p = 1")


def test_runs_of_other_images_are_not_compared():
    first, second = make_result("s9", predictions=[0] * 9), make_result("s9", predictions=[0] * 8)
    data = SimpleNamespace(test_labels=np.zeros(9, int))
    with pytest.raises(ValueError, match="s9 was evaluated on 8 images, but the data have 9"):
        compare_on_same_images(first, second, data)


def test_seeds_are_compared_by_welchs_test():
    first, second = make_result("s9", [91.0, 92.0]), make_result("compact", [92.0, 93.0, 95.0])
    variances = 0.5 / 2, (7 / 3) / 3  # of the two means
    error = sum(variances) ** 0.5
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 1 + variances[1] ** 2 / 2)
    difference = 280 / 3 - 91.5
    margin = error * stats.t.ppf(0.975, freedom)
    p = 2 * stats.t.sf(difference / error, freedom)
    text = (
        f"compact - s9: +{difference:.2f} points between the means over seeds\n  95 % confidence "
        f"interval {difference - margin:+.2f} to {difference + margin:+.2f}; Welch's t-test: "
        f"p = {p:.2g}\n  2 seeds decide little: only a large difference shows"
    )
    assert compare_seeds(first, second) == text
    assert compare_seeds(second, first).startswith(f"s9 - compact: -{difference:.2f} points")
    many = make_result("mine", [90.0, 91.0, 92.0, 93.0])
    assert "decide little" not in compare_seeds(many, many)


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [([90.0], "one seed says nothing about chance"), ([91.0, 91.0], "nothing to test")],
)
def test_seeds_that_cannot_be_compared_say_so(accuracies, said):
    text = compare_seeds(make_result("s9", [92.0, 92.0]), make_result("mine", accuracies))
    assert text.startswith("mine - s9: -")
    assert said in text
