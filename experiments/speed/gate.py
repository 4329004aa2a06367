"""Where a library's own loop waits for its turn: called once per iteration, from inside that loop."""

import json
import os
import resource
import sys
import time
from typing import Any


class Gate:
    """Reports what the iteration since its last call took, and waits for a line before it lets the next one begin.

    CPU seconds are of all threads of the process, counted from call to call: work that goes on in the background
    while another side has its turn is not lost.

    Args:
      report: takes one line of text.
    """

    def __init__(self, report):
        self._report = report
        self._cpu = time.process_time()
        self._wall = time.perf_counter()
        self._turn = -1

    def __call__(self, **extra: Any) -> None:
        """``extra`` goes into the report."""
        now = time.process_time()
        row = {
            "turn": self._turn,
            "cpu_s": now - self._cpu,
            "wall_s": time.perf_counter() - self._wall,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **extra,
        }
        self._report(json.dumps(row))
        if not sys.stdin.readline():
            sys.stdout.flush()
            # Straight away: libraries' threads and exit handlers have nothing to finish.
            os._exit(0)
        self._turn += 1
        self._cpu, self._wall = now, time.perf_counter()
