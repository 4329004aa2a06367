"""What a run writes for people to read: ``config.json``, ``metrics.jsonl``, ``samples.jsonl``, TensorBoard events.

A resumed run continues these files as if it had never stopped: rows after the step that it resumes from are cut, and
written again by the steps that are computed again. Write everything of step s before the checkpoint of step s.
"""

import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from gempi_jax.training import jsonfiles

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CHECKPOINTS = "checkpoints"


class WorkdirError(ValueError):
    """A folder that this run must not write to."""


def workdir_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder that a path means, ``~`` and ``~name`` being home folders.

    Raises:
      WorkdirError: there is no such home folder.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise WorkdirError(
            f"workdir {path}: {pathlib.Path(path).parts[0]} is nobody's home; give a full path"
        ) from error


def claim_workdir(path: str | os.PathLike[str], config: Mapping[str, Any]) -> pathlib.Path:
    """Makes the folder of a run, or finds that of the same run again; touches nothing that belongs to another.

    Args:
      path: the workdir.
      config: nested settings that JSON can hold.

    Returns:
      The folder; it holds ``config.json``.

    Raises:
      WorkdirError: see :func:`check_workdir`, or the folder cannot be written to.
    """
    check_workdir(path, config)
    folder = pathlib.Path(path)
    text = json.dumps(jsonfiles.jsonable(config), indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / CONFIG).exists():
            jsonfiles.write_atomically(folder / CONFIG, text.encode())
    except OSError as error:
        raise WorkdirError(f"workdir {folder} cannot be written to ({error}): give another --workdir") from error
    return folder


def check_workdir(path: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Whether a run may have this folder; writes nothing, so that it can be asked before a model is read.

    Args:
      path: the workdir, there or not.
      config: nested settings that JSON can hold.

    Raises:
      WorkdirError: the folder is none, may not be written to, or holds another config, an unreadable one, or results
        without one.
    """
    folder = pathlib.Path(path)
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if nearest != folder and not nearest.is_dir():
        raise WorkdirError(f"workdir {folder} lies under {nearest}, which is a file: give another --workdir")
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise WorkdirError(f"workdir {folder}: {nearest} may not be written to; give another --workdir, or the rights")
    if folder.exists() and not folder.is_dir():
        raise WorkdirError(f"workdir {folder} is a file: give another --workdir")
    file = folder / CONFIG
    if file.exists():
        _check_same_config(file, config)
        return
    leftovers = [name for name in (METRICS, SAMPLES, CHECKPOINTS) if (folder / name).exists()]
    if leftovers:
        raise WorkdirError(
            f"workdir {folder} holds {', '.join(leftovers)} but no {CONFIG}, so whose they are is unknown: "
            f"give another --workdir, or put the run's {CONFIG} back"
        )


def _check_same_config(file: pathlib.Path, config: Mapping[str, Any]) -> None:
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise WorkdirError(f"{file} is not valid JSON ({error}): repair it, or give another --workdir") from error
    if not isinstance(found, dict):
        raise WorkdirError(f"{file} holds a {type(found).__name__}, no object: repair it, or give another --workdir")
    changed = jsonfiles.differences(found, config)
    if changed:
        lines = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in changed)
        raise WorkdirError(
            f"workdir {file.parent} holds another run; its {CONFIG} differs in\n{lines}\n"
            "Give these settings their old values to resume it, or give another --workdir."
        )


class JsonLines:
    """One JSON object per line; each reaches the operating system before ``append`` returns.

    Args:
      path: the file, made on the first row.
      resumed_at: the step that the run resumes from; rows of later steps are cut. ``None``: from the beginning, so
        every row is.

    Raises:
      ValueError: a line other than the last is no row; the file is left as it was.
    """

    def __init__(self, path: pathlib.Path, *, resumed_at: int | None):
        self._path = path
        self._cut(-1 if resumed_at is None else resumed_at)

    def append(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds one row, its keys sorted behind ``step``."""
        if "step" in row:
            raise ValueError(f"{self._path.name}: the row of step {step} brings its own 'step': rename that key")
        data = {"step": step, **{key: jsonfiles.jsonable(row[key], key) for key in sorted(row)}}
        with open(self._path, "ab", buffering=0) as file:
            file.write((json.dumps(data, allow_nan=False) + "\n").encode())

    def _cut(self, last_step: int) -> None:
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        *lines, half_written = content.split(b"\n")
        steps = [self._step(line, number) for number, line in enumerate(lines, start=1)]
        kept = [line for line, step in zip(lines, steps, strict=True) if step <= last_step]
        if half_written or len(kept) < len(lines):
            jsonfiles.write_atomically(self._path, b"".join(line + b"\n" for line in kept))

    def _step(self, line: bytes, number: int) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._path}, line {number}: no row with a 'step': {line[:80]!r}; repair or remove that line"
            ) from error


class Writer:
    """The files of one run; usable in a ``with`` statement.

    Args:
      workdir: an existing folder.
      resumed_at: the global step of the checkpoint that the run resumes from, ``None`` from the beginning.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, resumed_at: int | None):
        folder = pathlib.Path(workdir)
        self._metrics = JsonLines(folder / METRICS, resumed_at=resumed_at)
        self._samples = JsonLines(folder / SAMPLES, resumed_at=resumed_at)
        first = 0 if resumed_at is None else resumed_at + 1
        # Two starts within one second would share tensorboardX's file name, and the second would empty the first's.
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns() % 10**9:09d}.{os.getpid()}")
        self._event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def metrics(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Writes the metrics of one step: a row of ``metrics.jsonl`` and TensorBoard scalars.

        Args:
          step: global step.
          values: by name; NaN and infinities are written as the strings "NaN", "Infinity", "-Infinity", which
            ``float`` reads.  Texts, the phase for instance, go to the row alone.
        """
        # + 0.0: minus zero equals zero, so it is written as zero.
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        floats = {name: float(value) + 0.0 for name, value in values.items() if name not in texts}
        self._metrics.append(step, {**floats, **texts})
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in sorted(floats.items())]
        self._event(Event(step=step, summary=Summary(value=scalars)))

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of any JSON data, prompts and completions for instance, to ``samples.jsonl``."""
        for row in rows:
            self._samples.append(step, row)

    def close(self) -> None:
        """Closes the event file. Nothing waits in memory for it: each call above has written what it was given."""
        self._events.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()
