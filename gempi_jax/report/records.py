"""Reads a workdir as it is found: finished, still running, or cut off in the middle of a line."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

SEED = "/seed_"
"""Between a metric's name and the number of a seed."""


class Phase(NamedTuple):
    """A stretch of a run; steps are global, both ends belong to it."""

    name: str
    first: int
    last: int


class Series(NamedTuple):
    """One metric over a run, where it is finite.

    Attributes:
      steps: [N] global steps, ascending.
      values: [N].
    """

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds.

    Attributes:
      workdir: its folder.
      config: ``config.json``; empty when there is none.
      rows: one dictionary per step of a phase, ascending; numbers are floats, NaN and infinities included.  Of a run in
        environments ``step`` is the number of their steps.
      phases: in the order in which they ran.
      samples: completions of held-out prompts, as ``samples.jsonl`` has them.
      problems: what could not be read, in words.
    """

    workdir: pathlib.Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    phases: tuple[Phase, ...]
    samples: list[dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def axis(self) -> str:
        """What ``step`` counts."""
        return "environment step" if self.rows and "env_steps" in self.rows[-1] else "step"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.workdir.name

    def names(self) -> list[str]:
        """All metrics, sorted."""
        return sorted({key for row in self.rows for key, value in row.items() if isinstance(value, float)})

    def series(self, name: str, phase: str | None = None) -> Series:
        """A metric, of the whole run or of one phase; empty when nothing finite was recorded."""
        rows = [row for row in self.rows if phase is None or row["phase"] == phase]
        pairs = [
            (row["step"], row[name]) for row in rows if isinstance(row.get(name), float) and np.isfinite(row[name])
        ]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return Series(np.asarray(steps, np.int64), np.asarray(values, np.float64))

    def by_seed(self, name: str, phase: str | None = None) -> list[Series]:
        """A metric of each of the seeds that ran side by side, or the one that was recorded."""
        seeds = [other for other in self.names() if other.startswith(f"{name}{SEED}")]
        return [self.series(each, phase) for each in seeds or [name]]


def read_run(workdir: str | pathlib.Path) -> Run:
    """Reads ``config.json``, ``metrics.jsonl`` and ``samples.jsonl``.

    A line that is no row is left out and named in ``problems``. Rows of the same step are merged, the later one wins:
    a resumed run writes again what it computes again.

    Args:
      workdir: the folder.

    Returns:
      The run.

    Raises:
      FileNotFoundError: there is no such folder, or it holds no ``metrics.jsonl``.
    """
    folder = pathlib.Path(workdir).resolve()
    if not (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(
            f"{folder} holds no metrics.jsonl, so there is nothing to report: give the workdir of a run that has begun"
        )
    problems: list[str] = []
    rows = _in_environment_steps(_merge(_read_rows(folder / "metrics.jsonl", problems)))
    samples = _read_rows(folder / "samples.jsonl", problems) if (folder / "samples.jsonl").is_file() else []
    return Run(folder, _read_config(folder / "config.json", problems), rows, _phases(rows), samples, tuple(problems))


def _read_config(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(f"{path.name} is missing.")
        return {}
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON: {error}.")
        return {}
    if not isinstance(config, dict):
        problems.append(f"{path.name} holds no object.")
        return {}
    return config


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, unreadable = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "phase": str(row.get("phase", "run"))})
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable.append(number)
    if unreadable:
        listing = ", ".join(map(str, unreadable[:5])) + (", …" if len(unreadable) > 5 else "")
        plural = "lines are" if len(unreadable) > 1 else "line is"
        problems.append(f"{path.name}: {len(unreadable)} {plural} no row and left out (line {listing}).")
    return rows


def _merge(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        merged.setdefault((row["step"], row["phase"]), {}).update({k: _number(k, v) for k, v in row.items()})
    return sorted(merged.values(), key=lambda row: row["step"])


def _in_environment_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Iterations of different sizes are compared by what they took from the environment."""
    return [{**row, "step": int(row["env_steps"])} if "env_steps" in row else row for row in rows]


def _number(key: str, value: Any) -> Any:
    """Metrics as floats; ``null`` and the texts "NaN", "Infinity", "-Infinity" are numbers that JSON lacks."""
    if key in ("step", "phase") or isinstance(value, bool | list | dict):
        return value
    if value is None:
        return float("nan")
    try:
        return float(value)
    except ValueError:
        return value


def _phases(rows: list[dict[str, Any]]) -> tuple[Phase, ...]:
    phases: dict[str, Phase] = {}
    for row in rows:
        name, step = row["phase"], row["step"]
        first = phases[name].first if name in phases else step
        phases[name] = Phase(name, first, step)
    return tuple(phases.values())
