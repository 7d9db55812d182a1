"""What a trained network says about images, and how often it is right."""

import numpy as np
import torch

from helpers.devices import laid_out
from helpers.images.data import ImageData
from tracing.layers import at_rest


@torch.inference_mode()
def predict(model: torch.nn.Module, data: ImageData, images: np.ndarray) -> torch.Tensor:
    """Logits (N, 10) float32, on the network's device, for images (N, 32, 32, 3) uint8.

    The network runs in evaluation mode, TF32 off; all its modules' own modes come back.
    """
    device = next(model.parameters()).device
    logits = [torch.zeros(0, 10, device=device)]
    cudnn = torch.backends.cudnn
    chosen = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}  # else reset
    with at_rest(model), cudnn.flags(enabled=True, allow_tf32=False, **chosen):
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(500):
            batch = laid_out(data.normalise(batch.to(device)), model)
            logits.append(model(batch).float())
    return torch.cat(logits)


def check_test_set(data: ImageData) -> None:
    """Raise ValueError where what is called CIFAR-10 has not all of its 10,000 test images."""
    if data.title == "CIFAR-10" and len(data.test_labels) != 10_000:
        raise ValueError(f"{len(data.test_labels)} test images, but CIFAR-10 has 10,000")


def test_accuracy(logits: np.ndarray, data: ImageData) -> float:
    """The share of all test images whose largest logit is their label's, in %.

    Raises ValueError where the logits are not those of the whole test set.
    """
    check_test_set(data)
    if len(logits) != len(data.test_labels):
        raise ValueError(f"{len(logits)} predictions for {len(data.test_labels)} test images")
    return float(100 * np.mean(logits.argmax(axis=1) == data.test_labels))


def class_accuracy(logits: np.ndarray, data: ImageData) -> dict[str, float]:
    """The share of each class's test images that are recognised, in %; of classes that have any."""
    right = logits.argmax(axis=1) == data.test_labels
    found = {c: right[data.test_labels == i] for i, c in enumerate(data.classes)}
    return {c: float(100 * of_class.mean()) for c, of_class in found.items() if len(of_class)}


def confidence(logits: np.ndarray) -> np.ndarray:
    """The probability (softmax) given to each image's predicted class, (N,) in [0, 1]."""
    return torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()
