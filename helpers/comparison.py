"""Whether two results differ by more than chance."""

import numpy as np
from scipy.stats import binomtest, ttest_ind

from helpers.data import ImageData
from helpers.results import Result

FEW_SEEDS = 3


def compare_on_same_images(first: Result, second: Result, data: ImageData) -> str:
    """Compare two networks on the same test images (McNemar's exact test), as text.

    Only images that one network classifies correctly and the other does not say which is better. If
    both were equally good, such an image would be as likely to favor one as the other.

    Args:
        first: A run.
        second: The run to compare with.
        data: The data with the test images of both runs.

    Raises:
        ValueError: If the runs were evaluated on other numbers of images.
    """
    for result in (first, second):
        if len(result.logits) != len(data.test_labels):
            raise ValueError(
                f"{result.metrics['net']} was evaluated on {len(result.logits):,} images, but the "
                f"data have {len(data.test_labels):,} test images: load both with the same data"
            )
    first_right = first.logits.argmax(1) == data.test_labels
    second_right = second.logits.argmax(1) == data.test_labels
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(second_right & ~first_right))
    p = binomtest(only_second, only_first + only_second).pvalue if only_first + only_second else 1.0
    difference = 100 * (only_second - only_first) / len(data.test_labels)
    return (
        f"{_names(first, second)}: {difference:+.2f} points on the same {len(data.test_labels):,} "
        f"images\n  right with {second.metrics['net']} alone: {only_second:,}, with "
        f"{first.metrics['net']} alone: {only_first:,}\n  McNemar's exact test: p = {p:.2g}"
    )


def compare_seeds(first: Result, second: Result) -> str:
    """Compare the mean accuracies of two runs over their seeds (Welch's t-test), as text.

    Args:
        first: A run.
        second: The run to compare with.
    """
    accuracies = [
        [seed["test_accuracy"] for seed in result.metrics["seeds"]] for result in (first, second)
    ]
    difference = np.mean(accuracies[1]) - np.mean(accuracies[0])
    text = f"{_names(first, second)}: {difference:+.2f} points between the means over seeds"
    fewest = min(map(len, accuracies))
    if fewest < 2:
        return f"{text}; one seed says nothing about chance"
    if not np.ptp(accuracies[0]) and not np.ptp(accuracies[1]):
        return f"{text}; the seeds of each run are all equal, so there is nothing to test"
    test = ttest_ind(accuracies[1], accuracies[0], equal_var=False)
    low, high = test.confidence_interval()
    text += f"\n  95 % confidence interval {low:+.2f} to {high:+.2f}; "
    text += f"Welch's t-test: p = {test.pvalue:.2g}"
    if fewest <= FEW_SEEDS:
        text += f"\n  {fewest} seeds decide little: only a large difference shows"
    return text


def _names(first: Result, second: Result) -> str:
    """Return the difference that is compared, in words."""
    return f"{second.metrics['net']} - {first.metrics['net']}"
