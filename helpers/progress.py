"""Progress of training: a bar in a terminal; in a notebook one line of text and a curve."""

import base64
import io
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol

from tqdm import tqdm

WARMUP_STEPS = 3  # slower than the rest: memory is allocated and algorithms are chosen
ETA_AFTER_SECONDS = 5
UPDATE_SECONDS = 1


class SizedIterable(Sized, Iterable, Protocol):
    """An iterable with a length, such as a DataLoader."""


class ProgressBar:
    """Show the progress of iterations.

    tqdm is silent in a notebook, whose output is no terminal, and its notebook version needs
    widgets, which GitHub does not show. There, this class overwrites one line of text.

    Args:
        enabled: False shows nothing, for all processes but the main one.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self._handle = None
        self._curve = None
        self._announced = False

    def track(self, batches: SizedIterable, description: str, remaining_steps: int) -> Iterator:
        """Yield the batches and show how many are done, the speed, and the time left.

        In the first epoch, also print how long the whole training will take.

        Args:
            batches: The batches of one epoch.
            description: The text in front, for example "epoch 3".
            remaining_steps: The number of steps to the end of the training, these included.
        """
        if not self.enabled:
            yield from batches
            return
        if _in_notebook():
            tracked = self._track_in_notebook(batches, description)
        else:
            # disable=None hides the bar if stderr is not a terminal.
            tracked = tqdm(batches, description, leave=False, disable=None)
        if not self._announced:
            self._announced = True
            tracked = announce_time(tracked, remaining_steps)
        yield from tracked

    def show_curve(self, epochs: list[dict[str, float]], total_epochs: int) -> None:
        """In a notebook, draw the accuracies so far. After the last epoch, remove the drawing.

        Args:
            epochs: Rows with "epoch", "train_accuracy" and "test_accuracy" in %.
            total_epochs: The number of epochs of the training.
        """
        if not self.enabled or not _in_notebook():
            return
        if len(epochs) == total_epochs:
            if self._curve:
                self._curve.update({"text/plain": ""}, raw=True)
            return
        from matplotlib.figure import Figure

        figure = Figure((6, 2.5), dpi=100, layout="constrained", facecolor="white")
        axis = figure.subplots()
        for name, style in (("train", "o--"), ("test", "s-")):
            accuracies = [row[f"{name}_accuracy"] for row in epochs]
            axis.plot([row["epoch"] for row in epochs], accuracies, style, label=name)
        axis.set(xlabel="epoch", ylabel="accuracy (%)", xlim=(0.5, total_epochs + 0.5))
        axis.legend(loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        picture = {
            "image/png": base64.b64encode(buffer.getvalue()).decode(),
            "text/plain": f"accuracy after epoch {len(epochs)}",
        }
        if self._curve is None:
            from IPython.display import display

            self._curve = display(picture, raw=True, display_id=True)
        else:
            self._curve.update(picture, raw=True)

    def _track_in_notebook(self, batches: SizedIterable, description: str) -> Iterator:
        start = last_update = time.perf_counter()
        try:
            for number, batch in enumerate(batches):
                now = time.perf_counter()
                if now - last_update >= UPDATE_SECONDS:
                    meter = tqdm.format_meter(
                        number,
                        len(batches),
                        now - start,
                        ncols=79,
                        prefix=description,
                        unit=" batches",
                    )
                    self._show(meter)
                    last_update = now
                yield batch
        finally:  # also if training is interrupted
            if self._handle:
                self._show("")

    def _show(self, text: str) -> None:
        """Display the text, or overwrite what was displayed."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)


def _in_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def announce_time(batches: Iterable, total_steps: int) -> Iterator:
    """Yield the batches; after the first ones, print how long all steps will take.

    Args:
        batches: The batches of the first epoch.
        total_steps: The number of steps to the end of the training.
    """
    start = None
    announced = False
    for step, batch in enumerate(batches):
        if step == WARMUP_STEPS:
            start = time.perf_counter()
        elif start and not announced:
            elapsed = time.perf_counter() - start
            if elapsed > ETA_AFTER_SECONDS:
                # CUDA is asynchronous and lags a few steps. The error is small: no need to wait.
                seconds = elapsed / (step - WARMUP_STEPS) * (total_steps - step)
                if seconds >= 90:
                    tqdm.write(f"about {seconds / 60:.0f} minutes to go")
                else:
                    tqdm.write(f"about {seconds:.0f} seconds to go")
                announced = True
        yield batch
