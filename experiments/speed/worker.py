"""One side's process: ``python -m experiments.speed.worker`` reads a job from its input, then waits for its turns."""

import importlib
import os
import sys

from experiments.speed.gate import Gate
from experiments.speed.work import Job
from gempi_jax.runners.heap import keep_freed_memory


def main() -> None:
    """Reads the job, gets ready, and works whenever a line comes."""
    # What libraries print goes elsewhere: the output is for reports alone.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = Job.load(sys.stdin.readline())
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    if job.allocator:
        keep_freed_memory()
    module = importlib.import_module(f"experiments.speed.sides.{job.side}")
    gate = Gate(lambda line: print(line, file=reports, flush=True))
    getattr(module, job.task)(job, gate)


if __name__ == "__main__":
    main()
