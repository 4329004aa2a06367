"""Dropout's rate is the one that was asked for, in the share that is dropped and in the scale of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models.dropout import drop, keep_mask

SIZE = 1 << 20


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 1 / 3, 0.5, 0.999])
def test_the_share_that_is_dropped_is_the_rate(rate):
    mask = np.asarray(keep_mask(jax.random.key(0), rate, (SIZE // 4, 4)))
    # Five standard deviations of a share of 2^20 draws: 0.1 % and 0.4 % are told apart, as are 10 % and 10.16 %.
    assert abs((~mask).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / SIZE)
    neighbours = np.corrcoef(mask.reshape(-1)[:-1], mask.reshape(-1)[1:])[0, 1]
    assert abs(neighbours) < 0.01


def test_the_mean_stays():
    values = np.asarray(drop(jax.random.key(1), 0.1, jnp.ones(SIZE)))
    np.testing.assert_allclose(np.unique(values), [0.0, 1 / 0.9], rtol=1e-4)
    assert values.mean() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 0)])
def test_any_shape(shape):
    assert keep_mask(jax.random.key(0), 0.5, shape).shape == shape
