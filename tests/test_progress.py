"""Progress within an epoch: a bar in a terminal, one line that is overwritten in a notebook."""

import contextlib
import io
import itertools
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from helpers import progress
from helpers.progress import ProgressBar, announce_time


class Clock:
    """Stands for the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


class Batches:
    """Batches that take the given numbers of seconds each: to load and to train on."""

    def __init__(self, clock, seconds):
        self.clock = clock
        self.seconds = seconds

    def __len__(self):
        return len(self.seconds)

    def __iter__(self):
        for number, seconds in enumerate(self.seconds):
            self.clock.now += seconds
            yield number


class FakeKernel:
    """A shell with a kernel that records what is displayed: time, text, display_id, update."""

    def __init__(self, clock):
        self.clock = clock
        self.kernel = self
        self.display_pub = self
        self.displayed = []

    def publish(self, data, metadata=None, transient=None, update=False, **_):
        if "image/png" in data:  # the curve
            data = {"text/plain": "accuracy"}
        assert data.keys() == {"text/plain"}, "GitHub and nbconvert show plain text"
        entry = SimpleNamespace(
            time=self.clock.now, text=data["text/plain"], id=transient["display_id"], update=update
        )
        self.displayed.append(entry)


@contextlib.contextmanager
def in_notebook():
    """Make IPython see a notebook's kernel; yields the kernel and the clock."""
    clock = Clock()
    kernel = FakeKernel(clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        patch.setattr(InteractiveShell, "initialized", lambda: True)
        patch.setattr(InteractiveShell, "instance", lambda: kernel)
        yield kernel, clock


@given(epochs=st.lists(st.lists(st.floats(0.01, 0.9), max_size=40), min_size=1, max_size=3))
def test_a_notebook_shows_one_line_that_is_updated_every_second_and_ends_blank(epochs):
    out, err = io.StringIO(), io.StringIO()
    with (
        in_notebook() as (kernel, clock),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        bar = ProgressBar()
        for epoch, seconds in enumerate(epochs):
            last_update, earlier = clock.now, len(kernel.displayed)
            batches = []
            for batch in bar.track(Batches(clock, seconds), f"epoch {epoch}", 100):
                batches.append(batch)
                if len(kernel.displayed) > earlier:
                    last_update = max(last_update, kernel.displayed[-1].time)
                assert clock.now - last_update < 1
            assert batches == list(range(len(seconds)))
            updates = kernel.displayed[earlier:]
            assert bool(updates) == (bool(earlier) or sum(seconds) >= 1)
            assert all(update.text.startswith(f"epoch {epoch}: ") for update in updates[:-1])
            assert not updates or updates[-1].text == ""
            for previous, update in itertools.pairwise(updates[:-1]):
                assert update.time - previous.time >= 1
    assert re.fullmatch(r"(about \d+ (seconds|minutes) to go\n)?", out.getvalue())
    assert err.getvalue() == ""
    assert len({entry.id for entry in kernel.displayed}) <= 1, "one line for all epochs"
    assert [entry.update for entry in kernel.displayed[:2]] in ([], [False, True])


def test_the_line_states_the_progress_the_speed_and_the_time_left():
    with in_notebook() as (kernel, clock):
        for _ in ProgressBar().track(Batches(clock, [0.5] * 30), "epoch 3", 100):
            pass
    lines = [entry.text for entry in kernel.displayed if entry.text]
    # A batch is done if the next one is asked for.
    assert [re.search(r"(\d+)/30", line)[1] for line in lines] == [f"{n}" for n in range(1, 30, 2)]
    assert re.search(r"epoch 3: +30%.* 9/30 \[00:05<00:1\d, +1\.80 batches/s\]", lines[4])
    assert all(len(line) <= 79 for line in lines)


def test_an_interrupted_epoch_leaves_a_blank_line():
    with in_notebook() as (kernel, clock):
        for batch in ProgressBar().track(Batches(clock, [2] * 30), "epoch 3", 30):
            if batch == 4:
                break
    assert kernel.displayed[-2].text.startswith("epoch 3: ")
    assert kernel.displayed[-1].text == ""


def test_the_time_of_all_steps_is_printed_in_the_first_epoch_only(capsys):
    with in_notebook() as (_, clock):
        bar = ProgressBar()
        for epoch in range(3):
            remaining_steps = (3 - epoch) * 20
            list(bar.track(Batches(clock, [2] * 20), f"epoch {epoch}", remaining_steps))
    # After the sixth batch, at two seconds each.
    assert capsys.readouterr().out == "about 2 minutes to go\n"


def test_in_a_terminal_it_is_a_bar_that_disappears(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    clock = Clock()
    assert list(ProgressBar().track(Batches(clock, [0] * 20), "epoch 3", 100)) == list(range(20))
    assert "epoch 3:   0%" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[2].strip() == ""


def test_it_shows_nothing_in_a_file_or_if_it_is_disabled(capsys):
    clock = Clock()
    assert list(ProgressBar().track(Batches(clock, [5] * 20), "epoch 3", 100)) == list(range(20))
    with in_notebook() as (kernel, clock):
        disabled = ProgressBar(enabled=False)
        assert list(disabled.track(Batches(clock, [5] * 20), "epoch 3", 100)) == list(range(20))
    assert not kernel.displayed
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "steps", "line"),
    [
        ([9, 9, 9, 9, *[2] * 10], 50, "about 88 seconds to go"),
        ([9, 9, 9, 9, *[2] * 10], 51, "about 2 minutes to go"),
        ([9, 9, 9, 9, *[2] * 10], 306, "about 10 minutes to go"),
        ([9, 9, 9, 9, 5.1], 14, "about 51 seconds to go"),
        ([9, 9, 9, 9, 5], 14, None),
        ([9, 9, 9, 9], 14, None),
        ([0.5] * 10, 100, None),
    ],
)
def test_the_time_to_go_is_printed_once_and_without_the_first_steps(
    seconds, steps, line, monkeypatch, capsys
):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    batches = Batches(clock, seconds)
    assert list(announce_time(batches, steps)) == list(range(len(seconds)))
    assert capsys.readouterr().out.splitlines() == ([line] if line else [])


def test_a_notebook_shows_a_curve_that_grows_and_is_removed_at_the_end(monkeypatch):
    shown = []

    class Kernel:
        kernel = property(lambda self: self)
        display_pub = property(lambda self: self)

        def publish(self, data, metadata=None, transient=None, update=False, **_):
            shown.append((data, update, transient["display_id"]))

    monkeypatch.setattr(InteractiveShell, "initialized", lambda: True)
    kernel = Kernel()
    monkeypatch.setattr(InteractiveShell, "instance", lambda: kernel)
    rows = [
        {"epoch": epoch, "train_accuracy": 40.0 + epoch, "test_accuracy": 50.0 + epoch}
        for epoch in (1, 2, 3)
    ]
    bar = ProgressBar()
    for number in (1, 2, 3):
        bar.show_curve(rows[:number], total_epochs=3)
    pictures, updates, ids = zip(*shown, strict=True)
    assert len(set(ids)) == 1
    assert updates == (False, True, True)
    assert pictures[0]["image/png"] != pictures[1]["image/png"]
    assert pictures[2] == {"text/plain": ""}, "stored outputs stay clean"
    ProgressBar(enabled=False).show_curve(rows[:1], total_epochs=3)
    assert len(shown) == 3


def test_outside_a_notebook_there_is_no_curve(capsys):
    ProgressBar().show_curve([{"epoch": 1, "train_accuracy": 1.0, "test_accuracy": 1.0}], 2)
    assert capsys.readouterr().out == ""
