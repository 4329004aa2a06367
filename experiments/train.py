"""Trains what a config describes.

    python -m experiments.train --config=FILE[:arg] --workdir=DIR [--config.key=value ...]

Started again with the same command, a run goes on where it was; with another config, its workdir is refused.
"""

import dataclasses
import math
import pathlib
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from gempi_jax.report import write_report
from gempi_jax.report.html import FILE_NAME
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.heap import keep_freed_memory
from gempi_jax.runners.llm import run
from gempi_jax.runners.settings import MeshSettings
from gempi_jax.training.loop import TooManySkippedUpdates
from gempi_jax.training.preemption import Preempted

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run, e.g. configs/llm/arithmetic.py:vmpo.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything of the run goes.")
MOST_CPU_DEVICES = 64
flags.mark_flags_as_required(["config", "workdir"])


def cpu_devices(mesh: MeshSettings) -> int:
    """How many CPU devices a mesh may have; each takes threads of this process. On accelerators this changes nothing.

    A mesh that is larger finds too few devices and is refused; thousands of them would end the process without a word.
    """
    return min(max(1, math.prod(dataclasses.astuple(mesh))), MOST_CPU_DEVICES)


def main(argv: list[str]) -> int | None:
    """Runs, and turns expected mistakes into one readable message and exit status 2."""
    if len(argv) > 1:
        print(f"unexpected arguments {argv[1:]}: settings are given as --config.key=value", file=sys.stderr)
        return 2
    absl_logging.set_verbosity(absl_logging.WARNING)
    keep_freed_memory()
    try:
        config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
        settings = settings_from_config(config)
        jax.config.update("jax_num_cpu_devices", cpu_devices(settings.mesh))
        export = run(settings, workdir, config.to_dict(), report=write_report)
    except Preempted:
        print("stopped as asked; the same command goes on from here")
        raise
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TooManySkippedUpdates as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"exported to {export}; report: {workdir / FILE_NAME}")
    return None


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; what is wrong with them is said in one line, exit status 2."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # a config file may raise anything
        lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip(" '\"\n")]
        given = next((arg for arg in argv if arg.startswith("--config.") and _names(arg, lines)), None)
        print(f"error: {given + ': ' if given else ''}{' '.join(lines[-2:])}", file=sys.stderr)
        sys.exit(2)


def _names(argument: str, lines: list[str]) -> bool:
    """Whether an error is about the last name of this override."""
    key = argument.split("=")[0].split(".")[-1]
    return any(f"'{key}'" in line or f'"{key}"' in line for line in lines)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
