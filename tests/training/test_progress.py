"""The progress line: in place on a terminal, plain and rare elsewhere, with the time that is left."""

import io
import math
import os

import pytest

from gempi_jax.training import progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, steps, seconds_per_step=1.0, **settings):
    clock = Clock()
    with progress.Progress(stream=stream, clock=clock, **settings) as line:
        for step in steps:
            clock.now += seconds_per_step
            line.update("rl", step, 50, {"reward": step / 100, "unseen": 1.0, "phase": "rl"})
    return stream.getvalue()


def test_plain_lines_come_now_and_then_and_at_the_end():
    lines = run(io.StringIO(), range(1, 51), every_seconds=20).splitlines()
    assert lines == [
        "rl 1/50  0:01 + ?  reward 0.010",
        "rl 21/50  0:21 + 0:29  reward 0.210",
        "rl 41/50  0:41 + 0:09  reward 0.410",
        "rl 50/50  0:50 + 0:00  reward 0.500",
    ]


def test_a_terminal_gets_one_line_rewritten(monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    text = run(Terminal(), [1, 2])
    assert text == "\r\x1b[Krl 1/50  0:01 + ?  \r\x1b[Krl 2/50  0:02 + 0:4\n"


def test_what_matters_fits_before_the_loss():
    stream = io.StringIO()
    names = ("reward", "heldout/reward", "mstep/kl", "estep/ess_fraction", "estep/temperature", "loss")
    with progress.Progress(stream=stream, clock=Clock()) as line:
        line.update("rl", 1, 9, dict.fromkeys(names, 0.5))
    expected = "reward 0.500  held-out 0.500  kl 0.500  ess 0.500  temperature 0.500  loss 0.500"
    assert stream.getvalue() == f"rl 1/9  0:00 + ?  {expected}\n"
    # A method without a trust region has its KL from the reference to show.
    with progress.Progress(stream=stream, clock=Clock()) as line:
        line.update("rl", 1, 9, {"kl": 0.25})
    assert stream.getvalue().endswith("kl to ref 0.250\n")


def test_steps_without_a_signal_are_counted():
    stream = io.StringIO()
    line = progress.Progress(stream=stream, every_seconds=0.0)
    for step, flat in enumerate((0.0, 1.0, 1.0, 0.0), start=1):
        line.update("rl", step, 4, {"estep/flat_batch": flat, "reward": 1.0})
    first, *_, last = stream.getvalue().splitlines()
    assert "signal" not in first
    assert "no signal in 2 steps: all rewards equal, left out" in last


def test_the_line_of_the_last_step_is_ended():
    assert run(Terminal(), [49, 50]).endswith("reward 0.500\n")


def test_the_time_left_is_by_the_pace_of_this_process_and_phase():
    assert run(io.StringIO(), [31, 32], seconds_per_step=5.0, every_seconds=0).endswith("0:10 + 1:30  reward 0.320\n")
    stream, clock = io.StringIO(), Clock()
    line = progress.Progress(stream=stream, clock=clock, every_seconds=100)
    # Steps of one second, then of ten, of which the first is not counted.
    for step, phase, seconds in ((1, "sft", 1), (2, "sft", 1), (3, "rl", 60), (4, "rl", 10), (10, "rl", 60)):
        clock.now += seconds
        line.update(phase, step, 10 if step == 10 else 20, {})
    assert stream.getvalue().splitlines() == ["sft 1/20  0:01 + ?", "rl 3/20  1:02 + ?", "rl 10/10  2:12 + 0:00"]


def test_a_metric_that_is_rare_keeps_its_last_value_within_the_phase():
    stream, clock = io.StringIO(), Clock()
    line = progress.Progress(stream=stream, clock=clock, every_seconds=0)
    line.update("rl", 1, 3, {"heldout/reward": 0.25, "reward": 1})
    line.update("rl", 2, 3, {"reward": math.nan})
    line.update("next", 3, 3, {"reward": 0.5})
    assert stream.getvalue().splitlines()[1:] == [
        "rl 2/3  0:00 + 0:00  reward nan  held-out 0.250",
        "next 3/3  0:00 + 0:00  reward 0.500",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (-1.2345, "-1.23"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (1.23e-5, "1.2e-05"),
        (123456.0, "1.2e+05"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert progress.compact(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "0:07"), (750.0, "12:30"), (3723.0, "1:02:03"), (59.6, "1:00")])
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
