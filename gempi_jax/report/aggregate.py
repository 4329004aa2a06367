"""Curves that can be read, and several seeds as one curve or one figure with its spread."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gempi_jax.report.records import Series

# The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; beyond, _t_quantile's expansion errs by < 1e-5.
_T_QUANTILES = (
    12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814,
    2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596,
    2.07961, 2.07387, 2.06866, 2.06390, 2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227,
)  # fmt: skip
_NORMAL_QUANTILE = 1.959963985


class Summary(NamedTuple):
    """A figure over several runs.

    Attributes:
      mean: over the runs.
      std: sample standard deviation (divided by count - 1); NaN for one run.
      low, high: 95 % interval of the mean, Student's t; NaN for one run.
      count: runs.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int


class Band(NamedTuple):
    """A curve over several runs: mean and 95 % interval at each step, NaN bounds where one run stands alone."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over ``window`` values; at the ends over those that are there, evenly on both sides.

    A shrinking symmetric window neither shifts the curve in time nor flattens its slope at the ends.

    Args:
      values: [N].
      window: number of values, at least 1; an even one counts as the next odd one.

    Returns:
      [N].
    """
    if window < 1:
        raise ValueError(f"window = {window}: give at least 1")
    values = np.asarray(values, np.float64)
    index = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """As :func:`smooth`, with medians: what remains of a curve when single spikes are gone."""
    values = np.asarray(values, np.float64)
    last = len(values) - 1
    halves = [min(window // 2, index, last - index) for index in range(len(values))]
    return np.array([np.median(values[index - half : index + half + 1]) for index, half in enumerate(halves)])


def summarize(values: Sequence[float]) -> Summary:
    """Mean, spread and interval of one figure over runs; values that are not finite raise."""
    array = np.asarray(values, np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"cannot summarize {list(values)!r}: give at least one number, all finite")
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    std = float(array.std(ddof=1))
    margin = _t_quantile(count - 1) * std / math.sqrt(count)
    return Summary(mean, std, mean - margin, mean + margin, count)


def band(series: Sequence[Series], points: int = 400) -> Band:
    """Several runs as one curve, over the steps that all of them reached.

    Args:
      series: of the same metric; empty ones are left out.
      points: the most steps of the result; between recorded steps runs are interpolated linearly.

    Returns:
      The curve; without a step where no run has one, or where runs do not overlap.
    """
    series = [one for one in series if len(one.steps)]
    if not series:
        return Band(*(np.zeros(0) for _ in Band._fields))
    first, last = max(one.steps[0] for one in series), min(one.steps[-1] for one in series)
    steps = np.unique(np.concatenate([one.steps for one in series]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > points:
        steps = np.linspace(first, last, points)
    matrix = np.stack([np.interp(steps, one.steps, one.values) for one in series])
    mean = matrix.mean(0)
    if len(series) == 1:
        return Band(steps, mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    margin = _t_quantile(len(series) - 1) * matrix.std(0, ddof=1) / math.sqrt(len(series))
    return Band(steps, mean, mean - margin, mean + margin)


def _t_quantile(degrees: int) -> float:
    """Table, then the expansion of t's quantile around the normal's in 1/degrees (Abramowitz & Stegun 26.7.5)."""
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    z, n = _NORMAL_QUANTILE, degrees
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / n**power for power, term in enumerate(terms, start=1))
