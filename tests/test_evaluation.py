"""What is said of predictions."""

import dataclasses

import numpy as np
import pytest

from helpers import evaluation
from helpers.data import load_sample


@pytest.fixture(scope="module")
def sample():
    return load_sample()


def test_mistakes_are_described_by_the_pair_and_the_most_confident_one(sample):
    data = dataclasses.replace(
        sample.subset(10, 6), test_labels=np.array([3, 3, 5, 5, 0, 0]), full_test_size=6
    )
    logits = np.full((6, 10), -5, np.float32)
    for image, (predicted, logit) in enumerate([(5, 0), (3, 0), (3, 0), (5, 0), (8, 9), (0, 0)]):
        logits[image, predicted] = logit
    text = evaluation.describe_mistakes(logits, data)
    # cat -> dog once and dog -> cat once are two of three mistakes; airplane -> ship is the surest.
    assert text.startswith("2 of 3 mistakes mix cat and dog.")
    assert text.endswith("airplane -> ship (100%).")
    right = 10 * np.eye(10, dtype=np.float32)[data.test_labels]
    assert evaluation.describe_mistakes(right, data) == "no mistakes on 6 test images"
