"""One line that says how far the run is, how it goes, and when it ends."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

SHOWN = {
    "reward": "reward",
    "heldout/reward": "held-out",
    "mstep/kl": "kl",
    "kl": "kl to ref",
    "estep/ess_fraction": "ess",
    "estep/temperature": "temperature",
    "loss": "loss",
}
"""Metrics on the line and their short names; one that a step lacks keeps its last value of the phase.

The loss comes last: of all these it says least, and a narrow terminal cuts off the end.
"""


class Progress:
    """Shows how far a run is: a line rewritten in place on a terminal, a plain line now and then elsewhere.

    Args:
      shown: metric name -> short name, in the order of the line.
      every_seconds: between two lines; by default 0.1 on a terminal and 10 elsewhere. The last step, and the first of
        each phase, are always shown.
      stream: a text file, by default standard error.
      clock: seconds; for tests.
    """

    def __init__(
        self,
        *,
        shown: Mapping[str, str] = SHOWN,
        every_seconds: float | int | None = None,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._shown = shown
        self._stream = sys.stderr if stream is None else stream
        self._in_place = self._stream.isatty()
        self._every = every_seconds if every_seconds is not None else (0.1 if self._in_place else 10.0)
        self._clock = clock
        self._begin = clock()
        self._last = -float("inf")
        self._phase: str | None = None
        self._phase_begin = (0, 0.0)
        self._values: dict[str, float] = {}
        self._open_line = False
        self._said: set[str] = set()
        self._without_signal = 0

    def update(self, phase: str, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Takes in the metrics of a step and shows the line when it is time.

        Args:
          phase: its name.
          step: steps of the run that are done.
          total: steps of the run.
          metrics: by full name.
        """
        now = self._clock()
        new_phase = phase != self._phase
        if new_phase:
            self._phase, self._phase_begin, self._values, self._said = phase, (step, now), {}, set()
        self._values.update({name: float(metrics[name]) for name in self._shown if name in metrics})
        self._without_signal += metrics.get("estep/flat_batch", 0.0) > 0
        if now - self._last < self._every and step < total and not new_phase:
            return
        self._last = now
        line = self._line(step, total, now)
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + line[:width])
            self._open_line = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
        if step >= total:
            self.close()

    def note(self, notes: Mapping[str, str]) -> None:
        """Says each note on a line of its own, once in a phase.

        Args:
          notes: sentences by what they are about.
        """
        for name in notes.keys() - self._said:
            self.close()
            self._stream.write(f"{self._phase}: {notes[name]}\n")
            self._stream.flush()
            self._said.add(name)

    def close(self) -> None:
        """Ends the line, so that what is written next starts on one of its own."""
        if self._open_line:
            self._stream.write("\n")
            self._stream.flush()
            self._open_line = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, step: int, total: int, now: float) -> str:
        # Judged by the phase's own pace, without its first step, which compiles.
        first, begin = self._phase_begin
        pace = (now - begin) / (step - first) if step > first else None
        left = "0:00" if step >= total else "?" if pace is None else duration(pace * (total - step))
        parts = [f"{self._phase} {step}/{total}", f"{duration(now - self._begin)} + {left}"]
        parts += [
            f"{short} {compact(self._values[name])}" for name, short in self._shown.items() if name in self._values
        ]
        if self._without_signal:
            parts.insert(2, f"no signal in {self._without_signal} steps: all rewards equal, left out")
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def compact(value: float) -> str:
    """Three digits: ``0.123``, ``12.3``, ``1.2e-05``; numbers in a column hardly move."""
    size = abs(value)
    if size != size or size == float("inf"):
        return str(value)
    if size and not 1e-3 <= size < 1e4:
        return f"{value:.1e}"
    return f"{value:.{3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0}f}"
