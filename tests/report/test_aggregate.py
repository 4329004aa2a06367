import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gempi_jax.report import aggregate
from gempi_jax.report.aggregate import band, running_median, smooth, summarize
from gempi_jax.report.records import Series


def test_smoothing_by_hand():
    # Window 3: the ends have no neighbour on one side and stay; (1+2+6)/3 = 3, (2+6+3)/3 = 11/3.
    np.testing.assert_allclose(smooth(np.array([1.0, 2.0, 6.0, 3.0]), 3), [1.0, 3.0, 11 / 3, 3.0])
    np.testing.assert_allclose(running_median(np.array([1.0, 2.0, 6.0, 3.0]), 3), [1.0, 2.0, 3.0, 3.0])


@given(st.integers(1, 40), st.integers(1, 15), st.floats(-3, 3), st.floats(-3, 3))
def test_smoothing_leaves_a_straight_line_alone(length, window, slope, start):
    line = start + slope * np.arange(length)

    np.testing.assert_allclose(smooth(line, window), line, atol=1e-9)


def test_a_window_of_zero_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        smooth(np.ones(3), 0)


@pytest.mark.parametrize("degrees", [1, 2, 5, 30, 31, 50, 1000])
def test_the_quantiles_of_student(degrees):
    assert aggregate._t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=2e-5)


def test_a_summary_by_hand():
    # Mean 4, deviations -2, 0, 2: std 2; t(2) = 4.30265, margin 4.30265 * 2 / sqrt(3) = 4.96827.
    summary = summarize([2.0, 4.0, 6.0])

    assert summary.mean == 4.0
    assert summary.std == pytest.approx(2.0)
    assert (summary.low, summary.high) == (pytest.approx(-0.96827, abs=1e-5), pytest.approx(8.96827, abs=1e-5))


def test_one_run_has_no_spread():
    summary = summarize([3.0])

    assert summary.mean == 3.0
    assert math.isnan(summary.std)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_a_summary_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="at least one number, all finite"):
        summarize(values)


def test_a_band_covers_the_steps_that_all_runs_reached():
    # The second run lacks step 2 and stops at 3: there its line passes through 3.
    runs = [
        Series(np.array([1, 2, 3, 4]), np.array([1.0, 2.0, 3.0, 9.0])),
        Series(np.array([1, 3]), np.array([2.0, 4.0])),
    ]

    result = band([*runs, Series(np.zeros(0, int), np.zeros(0))])

    assert result.steps.tolist() == [1, 2, 3]
    np.testing.assert_allclose(result.mean, [1.5, 2.5, 3.5])
    # std of two values 1 apart is 1/sqrt(2); margin 12.7062 / sqrt(2) / sqrt(2).
    np.testing.assert_allclose(result.high - result.mean, 12.7062 / 2)


def test_a_band_of_nothing_is_empty():
    assert len(band([]).steps) == 0


def test_a_band_of_many_steps_is_thinned():
    steps = np.arange(1000)
    result = band([Series(steps, steps * 2.0)] * 2, points=50)

    assert len(result.steps) == 50
    np.testing.assert_allclose(result.mean, 2.0 * result.steps)
