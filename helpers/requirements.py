"""What the assignments demand, judged on the network itself and on what its run measured."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import nn

from helpers.receptive_field import Layer, layers, receptive_field
from helpers.summary import parameter_count

Judgement = tuple[str, bool]  # what was measured, and whether it passes


class Network:
    """What the checks read: the layers in the order of execution, and the parameters."""

    def __init__(self, model: nn.Module):
        self.layers = layers(model)
        self.params = parameter_count(model)
        poolings = [i for i, layer in enumerate(self.layers) if layer.kind == "global pool"]
        self.gap = poolings[0] if poolings else len(self.layers)  # everything else is before it

    def where(self, condition: Callable[[Layer], bool]) -> list[Layer]:
        """The layers that fulfil the condition."""
        return [layer for layer in self.layers if condition(layer)]


def _named(found: Iterable[Layer]) -> str:
    return ", ".join(layer.name for layer in found) or "none"


def blocks(net: Network) -> Judgement:
    """C1-C2-C3-C4-O: convolutions on maps of four sizes, then the output."""
    sizes = dict.fromkeys(x.nin for x in net.layers[: net.gap] if x.kind == "conv")
    return " -> ".join(f"{size}x{size}" for size in sizes), len(sizes) == 4


def three_max_poolings(net: Network) -> Judgement:
    """Three max poolings, a global one not counted."""
    found = net.where(lambda x: x.kind == "pool" and isinstance(x.module, nn.MaxPool2d))
    return f"{len(found)} ({_named(found)})", len(found) == 3


def field_over_44(net: Network) -> Judgement:
    """A receptive field over 44, the global pooling counted; both are shown."""
    before, including = receptive_field(net.layers)
    return f"{including} ({before} before the global pooling)", including > 44


def separable(net: Network) -> Judgement:
    """A depthwise convolution over 1x1 whose output a pointwise convolution reads."""
    read = {x.source for x in net.where(lambda x: x.is_pointwise)}
    found = net.where(lambda x: x.is_depthwise and x.kernel > 1 and x.name in read)
    return _named(found), bool(found)


def dilated(net: Network) -> Judgement:
    """A dilated convolution over 1x1: a kernel of one pixel has nothing to dilate."""
    found = net.where(lambda x: x.kind == "conv" and x.kernel > 1 and x.dilation > 1)
    return _named(found), bool(found)


def global_average(net: Network) -> Judgement:
    """Global average (not max) pooling."""
    name = _named(net.layers[net.gap :][:1])
    return name, name == "gap"


def fully_connected(net: Network) -> Judgement:
    """A linear layer or a 1x1 convolution on the pooled features."""
    after = net.layers[net.gap + 1 :]
    return _named(after), bool(after) and all(x.kernel == 1 for x in after)


def params_below(limit: int) -> Callable[[Network], Judgement]:
    """Fewer parameters than the limit."""
    return lambda net: (f"{net.params:,}", net.params < limit)


def on_gpu(metrics: dict[str, Any]) -> Judgement:
    """Trained on a GPU."""
    return metrics["device"], metrics["device_type"] == "cuda"


def accuracy(percent: float) -> Callable[[dict[str, Any]], Judgement]:
    """At least so many % of CIFAR-10's 10,000 test images right after the last epoch."""

    def check(metrics: dict[str, Any]) -> Judgement:
        reached, images = metrics["test_accuracy"], metrics["test_images"]
        whole = metrics["dataset"] == "CIFAR-10" and images == 10_000
        text = f"{reached:.2f} % of {images:,} ({metrics['dataset']}), epoch {metrics['epochs']}"
        return text, reached >= percent and whole

    return check


S7_NETWORK = {
    "C1-C2-C3-C4-O: four blocks, then the output": blocks,
    "three max poolings": three_max_poolings,
    "receptive field > 44": field_over_44,
    "depthwise separable convolution, k > 1": separable,
    "dilated convolution, k > 1 and d > 1": dilated,
    "global average pooling": global_average,
    "FC (or 1x1 convolution) after it": fully_connected,
    "< 1M parameters": params_below(1_000_000),
}
S7_RUN = {"runs on the GPU": on_gpu, "test accuracy >= 80 %": accuracy(80)}

# For each notebook: the demands on the network, and those on the run.
DEMANDS = {"S7": (S7_NETWORK, S7_RUN)}


def of_network(notebook: str, model: nn.Module) -> pd.DataFrame:
    """The notebook's demands on the network: demand, measured, passed."""
    return _judge(DEMANDS[notebook][0], Network(model))


def of_run(notebook: str, metrics: dict[str, Any]) -> pd.DataFrame:
    """The notebook's demands on the run whose `metrics.json` this is."""
    return _judge(DEMANDS[notebook][1], metrics)


def _judge(demands: dict[str, Callable[[Any], Judgement]], subject: Any) -> pd.DataFrame:
    rows = [(demand, *check(subject)) for demand, check in demands.items()]
    return pd.DataFrame(rows, columns=["demand", "measured", "passed"])
