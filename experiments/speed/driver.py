"""Sides that take turns: one process each, pinned to one core, with the same environment."""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.speed.peers import ROOT, interpreter
from experiments.speed.work import Job

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Large pages; with them a worker keeps freed memory, too."""

WARM_UP = 2
"""Turns that are not counted: the first compiles, and Tunix compiles again in the second."""


class Timing(NamedTuple):
    """What a side took.

    Attributes:
      job: what it did.
      ready: CPU seconds until its first turn, imports and loading included.
      first: its first turn, with compilation.
      turns: the counted ones.
    """

    job: Job
    ready: dict[str, Any]
    first: dict[str, Any]
    turns: list[dict[str, Any]]

    @property
    def seconds(self) -> list[float]:
        """CPU seconds by turn."""
        return [turn["cpu_s"] for turn in self.turns]

    @property
    def median(self) -> float:
        """CPU seconds."""
        return statistics.median(self.seconds)

    @property
    def peak_mib(self) -> float:
        """Resident memory at its largest, since the process began."""
        return max(turn["peak_mib"] for turn in (self.first, *self.turns))

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict() | {"job": dataclasses.asdict(self.job), "median_s": self.median}


class Worker:
    """One side's process.

    Args:
      job: what it does.
    """

    def __init__(self, job: Job):
        self.job = job
        environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT | ALLOCATOR}
        environment |= ENVIRONMENT | (ALLOCATOR if job.allocator else {})
        if job.platform:
            environment["JAX_PLATFORMS"] = job.platform
        if job.dump:
            environment["XLA_FLAGS"] += f" --xla_dump_to={job.dump} --xla_dump_hlo_as_text"
        command = [str(interpreter(job.side)), "-m", "experiments.speed.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with contextlib.ExitStack() as held:
            self._log = held.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            self._process = held.enter_context(
                subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=self._log, **pipes)
            )
            self.ready = self.turn(job.write())
            # Until here an error ends the process and closes its files.
            self._held = held.pop_all()

    def turn(self, line: str = "") -> dict[str, Any]:
        """Lets it do one iteration; its report.

        Raises:
          RuntimeError: the process ended; with the last lines that it printed.
        """
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # said below
        answer = self._process.stdout.readline()
        if not answer:
            self._log.seek(0)
            lines = "".join(self._log.readlines()[-12:])
            raise RuntimeError(f"{self.job.side} {self.job.method}: ended with status {self._process.wait()}\n{lines}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process, which waits for its turn."""
        # One that has died still has a line to read.
        with contextlib.suppress(BrokenPipeError):
            self._held.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alternate(jobs: Sequence[Job], turns: int, warm_up: int = WARM_UP) -> list[Timing]:
    """Runs the jobs side by side, one iteration of each after the other.

    Args:
      jobs: what to compare; all are in memory at the same time.
      turns: that are counted, of each.
      warm_up: turns before them, at least 1.

    Returns:
      In the order of the jobs.
    """
    workers: list[Worker] = []
    try:
        # One after the other: they share a core.
        for job in jobs:
            workers.append(Worker(job))
        rows = [[worker.turn() for worker in workers] for _ in range(warm_up + turns)]
    finally:
        for worker in workers:
            worker.close()
    by_worker = list(zip(*rows, strict=True))
    return [
        Timing(worker.job, worker.ready, reports[0], list(reports[warm_up:]))
        for worker, reports in zip(workers, by_worker, strict=True)
    ]


def free_core() -> int | None:
    """The last core that this process may use, which is the one least used by others; ``None`` where nothing pins."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def scratch() -> tempfile.TemporaryDirectory:
    """A folder for models and rows, gone at the end."""
    return tempfile.TemporaryDirectory(prefix="gempi_jax-benchmark-")


def commit() -> str:
    """Of this checkout; empty outside of one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def processor() -> str:
    """Its name, as Linux says it."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
