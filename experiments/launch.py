"""From a command line to a run, and from whatever goes wrong to an exit status and a message."""

import dataclasses
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from gempi_jax import user_code
from gempi_jax.report import write_report
from gempi_jax.report.html import FILE_NAME
from gempi_jax.rl import EnvironmentFailed
from gempi_jax.runners import controlrun as control
from gempi_jax.runners import llm
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.compiled import keep_compiled
from gempi_jax.runners.heap import keep_freed_memory
from gempi_jax.runners.overrides import Override, read_overrides
from gempi_jax.runners.settings import ControlSettings, MeshSettings
from gempi_jax.training.loop import TooManySkippedUpdates
from gempi_jax.training.preemption import Preempted
from gempi_jax.training.writers import workdir_path

MOST_CPU_DEVICES = 64
_OURS = tuple(
    str(pathlib.Path(__file__).parents[1] / name) + os.sep for name in ("gempi_jax", "experiments", "configs")
)


def launch(config: str | None, workdir: str | None, arguments: Sequence[str]) -> int:
    """Runs, and says what went wrong.

    Mistakes of the user's take one line, and so do limits of the machine; anything else is a mistake of ours, with a
    traceback to report.

    Args:
      config: ``FILE`` or ``FILE:arg``.
      workdir: of the run.
      arguments: the settings, ``--config.key=value``.

    Returns:
      The exit status: 0, 2 for mistakes of the user's, 1 for failures.

    Raises:
      Preempted: the run was told to stop and is saved; ends the process with status 75.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    keep_freed_memory()
    keep_compiled()
    try:
        return _run(config, workdir, arguments)
    except Preempted:
        print("stopped as asked; the same command goes on from here")
        raise
    except SystemExit as error:
        return _say(f"something that the run called ended the process ({error!r})", 1)
    except (TooManySkippedUpdates, EnvironmentFailed) as error:
        return _say(str(error), 1)
    except Exception as error:
        if is_message(error):
            return _say(str(error), 2)
        on_device = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
        if on_device or isinstance(error, MemoryError):
            return _say(f"out of memory: {' '.join(str(error).split())[:200]}; {_LESS_MEMORY}", 1)
        traceback.print_exc()
        return _say(
            "this is a mistake in gempi_jax and not in your config, data or reward; please report it with the lines "
            "above and the command",
            1,
        )


_LESS_MEMORY = "raise num_microbatches, or lower batch_prompts, num_generations or the lengths of the phase"


def is_message(error: BaseException) -> bool:
    """Whether an error was raised to be read: by a ``raise`` of this repository, or by the operating system.

    A ValueError from inside a library is a mistake that nothing here foresaw.
    """
    if isinstance(error, OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    said = bool(frames) and frames[-1].filename.startswith(_OURS) and (frames[-1].line or "").startswith("raise ")
    return said and isinstance(error, ValueError | ImportError)


def _say(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _run(config_name: str | None, workdir_name: str | None, arguments: Sequence[str]) -> int:
    for flag, value in (("--config", config_name), ("--workdir", workdir_name)):
        if not value:
            raise ValueError(
                f"{flag} is not given; the command is python -m experiments.train --config=FILE[:arg] --workdir=DIR"
            )
    config, workdir = load_config(config_name), workdir_path(workdir_name)
    for override in read_overrides(arguments, config.to_dict()):
        set_override(config, override)
    settings = settings_from_config(config)
    jax.config.update("jax_num_cpu_devices", cpu_devices(settings.mesh))
    run, left = (control, "checkpoints in") if isinstance(settings, ControlSettings) else (llm, "exported to")
    folder = run.run(settings, workdir, config.to_dict(), report=write_report)
    print(f"{left} {folder}; report: {workdir / FILE_NAME}")
    return 0


def load_config(name: str) -> ConfigDict:
    """What ``get_config`` of a file returns.

    Args:
      name: ``FILE``, or ``FILE:arg``.

    Raises:
      ValueError: there is no such file, it raises (says at which line), or no ``get_config`` of it returns settings.
    """
    path, colon, argument = name.partition(":")
    file = pathlib.Path(os.path.expanduser(path)).resolve()
    if not file.is_file() or file.suffix != ".py":
        what = f"{path} is no Python file" if file.is_file() else f"there is no file {path}"
        raise ValueError(f"--config={name}: {what}; give one such as configs/llm/arithmetic.py:vmpo")
    try:
        module = user_code.import_file(file)
        with user_code.alone(file):
            config = module.get_config(*([argument] if colon else []))
    except BaseException as error:
        user_code.let_through(error)
        raise ValueError(f"--config={name}: {user_code.describe(error, file)}") from error
    if not isinstance(config, ConfigDict | dict):
        raise ValueError(
            f"--config={name}: get_config returns {config!r:.60}, a {type(config).__name__}; return the ConfigDict"
        )
    return ConfigDict(config)


def set_override(config: ConfigDict, override: Override) -> None:
    """Gives a setting its value; a section that the config leaves out is made for it."""
    *sections, name = override.path
    for section in sections:
        if not isinstance(config.get(section), ConfigDict):
            with config.unlocked(), config.ignore_type():
                config[section] = ConfigDict()
        config = config[section]
    value = override.value
    with config.unlocked(), config.ignore_type():
        # Names of columns may hold dots.
        config[name] = ConfigDict(value, allow_dotted_keys=True) if isinstance(value, dict) else value


def cpu_devices(mesh: MeshSettings) -> int:
    """How many CPU devices a mesh may have; each takes threads of this process. On accelerators this changes nothing.

    A mesh that is larger finds too few devices and is refused; thousands of them would end the process without a word.
    """
    return min(max(1, math.prod(dataclasses.astuple(mesh))), MOST_CPU_DEVICES)
