"""Predictions of a trained model, accuracy, confidence and mistakes."""

from collections import Counter

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, recall_score

from helpers import inspection
from helpers.data import ImageData
from helpers.device import eval_mode, match_memory_format
from helpers.files import try_or_none

EVALUATION_BATCH_SIZE = 500


@torch.inference_mode()
def predict(model: torch.nn.Module, data: ImageData, images: np.ndarray) -> torch.Tensor:
    """Return the logits of images, computed in evaluation mode and without TF32.

    Args:
        model: The model. Its modules keep their modes.
        data: Normalizes the images.
        images: uint8 (N, 32, 32, 3).

    Returns:
        float32 (N, 10), on the model's device.
    """
    device = next(model.parameters()).device
    logits = [torch.zeros(0, 10, device=device)]
    cudnn = torch.backends.cudnn
    with (
        eval_mode(model),
        # `flags` resets what it is not given.
        cudnn.flags(
            enabled=True,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        ),
    ):
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(EVALUATION_BATCH_SIZE):
            inputs = match_memory_format(data.normalize(batch.to(device)), model)
            logits.append(model(inputs).float())
    return torch.cat(logits)


def test_accuracy(logits: np.ndarray, data: ImageData) -> float:
    """Return the share of test images that are classified correctly, in %.

    Args:
        logits: (N, 10) for all test images.
        data: The data with the labels.

    Raises:
        ValueError: If the number of logits is not the number of test images.
    """
    if len(logits) != len(data.test_labels):
        raise ValueError(f"{len(logits)} predictions for {len(data.test_labels)} test images")
    return float(100 * np.mean(logits.argmax(axis=1) == data.test_labels))


def per_class_accuracy(logits: np.ndarray, data: ImageData) -> dict[str, float]:
    """Return the share of each class's test images that are classified correctly, in %.

    Args:
        logits: (N, 10) for all test images.
        data: The data with the labels.

    Returns:
        The accuracy by the class's name. Classes without test images are left out.
    """
    present = np.unique(data.test_labels)
    recalls = recall_score(
        data.test_labels, logits.argmax(axis=1), labels=present, average=None, zero_division=0
    )
    return {
        data.classes[label]: float(100 * recall)
        for label, recall in zip(present, recalls, strict=True)
    }


def confidence(logits: np.ndarray) -> np.ndarray:
    """Return the probability (softmax) of each image's predicted class.

    Args:
        logits: (N, 10).

    Returns:
        (N,) in [0, 1].
    """
    return torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()


def find_mistakes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices of the images that are classified wrongly, in ascending order.

    Args:
        logits: (N, 10).
        labels: (N,).
    """
    return np.flatnonzero(logits.argmax(axis=1) != labels)


def most_confused(logits: np.ndarray, labels: np.ndarray) -> tuple[int, int, int]:
    """Return the most frequent kind of mistake.

    Args:
        logits: (N, 10).
        labels: (N,).

    Returns:
        The true class, the predicted class, and how often they occur together. The count is 0 if
        there are no mistakes.
    """
    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=range(logits.shape[1]))
    np.fill_diagonal(counts, 0)
    true, predicted = np.unravel_index(counts.argmax(), counts.shape)
    return int(true), int(predicted), int(counts[true, predicted])


def describe_mistakes(logits: np.ndarray, data: ImageData) -> str:
    """Return how often the two classes mixed up most are mixed up, and the most confident mistake.

    Args:
        logits: Logits (N, 10) of the test images.
        data: The data with the test images.
    """
    mistakes = find_mistakes(logits, data.test_labels)
    if len(mistakes) == 0:
        return f"no mistakes on {len(logits):,} test images"
    true, predicted = data.test_labels[mistakes], logits[mistakes].argmax(axis=1)
    pairs = np.sort([true, predicted], axis=0)
    (first, second), count = Counter(zip(*pairs.tolist(), strict=True)).most_common(1)[0]
    confidences = confidence(logits[mistakes])
    worst = confidences.argmax()
    return (
        f"{count} of {len(mistakes):,} mistakes mix {data.classes[first]} and "
        f"{data.classes[second]}. The most confident mistake: {data.classes[true[worst]]} -> "
        f"{data.classes[predicted[worst]]} ({confidences[worst]:.0%})."
    )


def evaluate_model(
    model: torch.nn.Module, data: ImageData, tta: bool = True
) -> tuple[dict, np.ndarray]:
    """Measure everything about a model that needs no training history.

    Args:
        model: The trained model.
        data: The data with the test images.
        tta: Also measure the accuracy with flip test-time augmentation, which averages the logits
            of an image and its mirror image.

    Returns:
        The entries for `metrics.json`, accuracies in %, and the logits (N, 10) of the test images.
    """
    logits = predict(model, data, data.test_images).cpu().numpy()
    traced = try_or_none("receptive field and multiply-adds", lambda: inspection.trace(model))
    receptive_field = {}
    if traced:
        before_pooling, including_pooling = inspection.receptive_field_of(traced.layers)
        receptive_field = {
            "before_pooling": inspection.format_size(before_pooling),
            "including_pooling": inspection.format_size(including_pooling),
        }
    buffer_weights = traced.num_buffer_weights if traced else 0
    measured = {
        "params": inspection.count_parameters(model) + buffer_weights,
        "mult_adds": traced.mult_adds if traced else None,
        "receptive_field": receptive_field,
        "test_images": len(data.test_labels),
        "test_accuracy": test_accuracy(logits, data),
        "class_accuracy": per_class_accuracy(logits, data),
    }
    if tta:
        mirrored = np.ascontiguousarray(data.test_images[:, :, ::-1])
        summed = logits + predict(model, data, mirrored).cpu().numpy()
        measured["test_accuracy_flip_tta"] = test_accuracy(summed, data)
    return measured, logits
