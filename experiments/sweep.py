"""Runs one config with several seeds, some at a time, and compares what came out.

    python -m experiments.sweep --config=configs/llm/arithmetic.py:vmpo --workdir=runs/seeds --seeds=5

Overrides, ``--config.key=value``, reach every run.  Each run is ``experiments.train`` in a process and a workdir of its
own, so a sweep that is stopped goes on where it was.
``--pin`` gives each run a core of its own, for timings that mean something.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import subprocess
import sys

from experiments import make_report
from gempi_jax.training.preemption import EXIT_STATUS


def main() -> int:
    """Starts the runs; the exit status is 1 when one of them failed or was stopped, after all the others are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="as for experiments.train")
    parser.add_argument("--workdir", required=True, type=make_report.folder, help="holds a folder for each seed")
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, ...")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--pin", action="store_true", help="one core for each run")
    arguments, overrides = parser.parse_known_args()
    unknown = [override for override in overrides if not override.startswith("--config.")]
    if unknown or arguments.seeds < 1 or arguments.jobs < 1:
        parser.error(f"unknown arguments {unknown}" if unknown else "--seeds and --jobs must be at least 1")
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    cores = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def run(seed: int) -> tuple[pathlib.Path, int]:
        workdir = arguments.workdir / f"seed_{seed}"
        command = [sys.executable, "-m", "experiments.train", f"--config={arguments.config}", f"--workdir={workdir}"]
        core = cores.get() if arguments.pin else None
        with open(arguments.workdir / f"seed_{seed}.log", "a") as log:
            process = subprocess.Popen(
                [*command, f"--config.seed={seed}", *overrides], stdout=log, stderr=subprocess.STDOUT
            )
            if core is not None:
                # All threads start from the first one, which has not started any yet.
                os.sched_setaffinity(process.pid, {core})
            code = process.wait()
        if core is not None:
            cores.put(core)
        said = {0: "done", EXIT_STATUS: "stopped; the same command goes on with it"}
        print(f"seed {seed}: {said.get(code, f'failed, see {log.name}')}", flush=True)
        return workdir, code

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(run, range(arguments.seeds)))
    finished = [workdir for workdir, code in results if code == 0]
    if finished:
        make_report.main([*map(str, finished), f"--output={arguments.workdir}"])
    return int(len(finished) < len(results))


if __name__ == "__main__":
    sys.exit(main())
