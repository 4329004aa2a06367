"""Rows of RESULTS.md from the workdirs of runs in environments.

    python -m experiments.results runs/cartpole_vmpo runs/cartpole_ppo --target=495

A row has the mean of the episodes that ended in the last tenth of the steps with its 95 % interval over seeds, the
lowest and the highest seed, the greedy policy's return, when the last seed first passed the target, the curve of the
mean by tenths of the steps, and the speed.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from experiments.make_report import folder
from gempi_jax.report.aggregate import summarize
from gempi_jax.report.records import Run, Series, read_run
from gempi_jax.report.tables import Table, number, to_markdown

TENTHS = 10


def by_tenths(series: Series, total: int) -> np.ndarray:
    """Means of a seed's rows by tenths of the run; NaN where no episode ended."""
    place = np.minimum((series.steps - 1) * TENTHS // max(total, 1), TENTHS - 1)
    return np.array([series.values[place == i].mean() if (place == i).any() else np.nan for i in range(TENTHS)])


def passed(series: Series, target: float) -> float:
    """The first step whose return is the target; NaN where none is."""
    above = np.flatnonzero(series.values >= target)
    return float(series.steps[above[0]]) if len(above) else np.nan


def row(run: Run, target: float | None) -> tuple[str, ...]:
    """What a run came to."""
    total = max(row["step"] for row in run.rows)
    seeds = [series for series in run.by_seed("episode/return") if len(series.steps)]
    curves = np.stack([by_tenths(series, total) for series in seeds]).astype(float)
    ends = curves[:, -1]
    found = summarize(ends.tolist())
    interval = f" [{number(found.low, 3)}, {number(found.high, 3)}]" if found.count > 1 else ""
    greedy = run.series("heldout/episode/return").values
    cells = [
        run.name,
        str(run.config.get("core", "–")),
        str(len(seeds)),
        f"{total:,}",
        f"{number(found.mean)}{interval}",
        f"{number(float(ends.min()), 3)} to {number(float(ends.max()), 3)}",
        number(float(greedy[-1])) if len(greedy) else "–",
    ]
    if target is not None:
        when = np.array([passed(series, target) for series in seeds])
        missing = int(np.isnan(when).sum())
        latest = f"{int(np.nanmax(when)):,}" if missing < len(when) else "–"
        cells.append(latest + (f" ({missing} never)" if missing else ""))
    speed = run.series("perf/steps_per_second").values
    means = [curve[~np.isnan(curve)] for curve in curves.T]
    cells.append(" ".join(number(float(mean.mean()), 3) if len(mean) else "–" for mean in means))
    cells.append(number(float(np.median(speed)), 2))
    return tuple(cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.results", description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=folder, metavar="WORKDIR", help="of a run in environments")
    parser.add_argument("--target", type=float, help="a return that is to be passed")
    options = parser.parse_args(arguments)
    try:
        rows = [row(read_run(workdir), options.target) for workdir in options.workdirs]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reached = () if options.target is None else (f"all above {number(options.target)} at",)
    head = ("run", "core", "seeds", "steps of each", "return, last tenth [95 %]", "seeds", "greedy", *reached)
    print(to_markdown(Table((*head, "by tenths of the steps", "steps/s"), rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
