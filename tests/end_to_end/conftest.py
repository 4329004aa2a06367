"""Whole runs as users start them: real processes with the commands of the README."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Runs:
    """Starts ``experiments.train`` in processes that share a compilation cache."""

    def __init__(self, cache: pathlib.Path):
        self._environment = {
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }

    def start(self, config: str, workdir: pathlib.Path, *options: str, **environment: str) -> subprocess.Popen:
        """A run in the background."""
        command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={workdir}", *options]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
        """Waits for the end of a run: exit code and output."""
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output

    def run(self, config: str, workdir: pathlib.Path, *options: str, **environment: str) -> tuple[int, str]:
        """A run from start to end."""
        return self.finish(self.start(config, workdir, *options, **environment))

    def stop_when(self, process: subprocess.Popen, ready, number: int, seconds: float = 300) -> None:
        """Sends a signal as soon as ``ready()`` holds; the run must still be going then."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None, f"ended early: {process.communicate()[0]}"
            assert time.monotonic() < deadline, "never got there"
            time.sleep(0.005)
        process.send_signal(number)

    SIGKILL, SIGTERM = signal.SIGKILL, signal.SIGTERM


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """How to run; the cache lives as long as the session."""
    return Runs(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def rows():
    """Reads ``metrics.jsonl`` without what differs between any two runs: times and speeds."""

    def read(workdir: pathlib.Path) -> list[dict]:
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        timed = ("timing_s/", "perf/", "step_time")
        return [{k: v for k, v in json.loads(line).items() if not k.startswith(timed)} for line in lines]

    return read
