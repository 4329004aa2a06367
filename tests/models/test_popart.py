"""PopArt: outputs survive every move of the statistics, which are the moving moments of the returns."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.models import PopArt, PopArtHead, preserve_outputs

HEAD = PopArtHead()
FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
PARAMS = {"value": {"kernel": jnp.arange(4.0)[:, None] - 1.0, "bias": jnp.array([0.3])}}
sizes = st.floats(1e-2, 1e4)


@given(st.floats(-1e3, 1e3), sizes, st.floats(-1e3, 1e3), sizes)
def test_outputs_are_preserved_whatever_the_statistics_do(mean, scale, new_mean, new_scale):
    old, new = (PopArt(jnp.float32(m), jnp.float32(s) ** 2) for m, s in ((mean, scale), (new_mean, new_scale)))
    before = old.denormalize(HEAD.apply({"params": PARAMS}, FEATURES))
    after = new.denormalize(HEAD.apply({"params": preserve_outputs(PARAMS, old, new)}, FEATURES))
    # To the rounding of float32 at the largest number that is added on the way.
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * (abs(mean) + abs(new_mean) + 10 * scale))


def test_statistics_are_the_moving_moments_of_the_returns():
    # beta = 1/4 from mean 0, variance 1; returns 1 and 3: mean 2, second moment 5.
    # mu = 2/4 = 0.5; nu = 3/4 * 1 + 5/4 = 2; variance = 2 - 0.25 = 1.75.
    moved = PopArt.initial().updated(jnp.array([1.0, 3.0, 99.0]), 0.25, where=jnp.array([True, True, False]))
    np.testing.assert_allclose(moved, [0.5, 1.75], rtol=1e-6)
    # Again: mu = 0.375 + 0.5 = 0.875; nu = 1.5 + 1.25 = 2.75; variance = 2.75 - 0.765625.
    np.testing.assert_allclose(moved.updated(jnp.array([1.0, 3.0]), 0.25), [0.875, 1.984375], rtol=1e-6)


def test_nothing_moves_where_nothing_is_real():
    start = PopArt(jnp.float32(3.0), jnp.float32(2.0))
    moved = start.updated(jnp.array([jnp.nan, 5.0]) * 0 + 1, 0.5, where=jnp.array([False, False]))
    jax.tree.map(np.testing.assert_array_equal, moved, start)


def test_the_variance_of_returns_far_from_zero_does_not_cancel():
    returns = 1e5 + jnp.array([-1.0, 1.0])
    moved = PopArt(jnp.float32(1e5), jnp.float32(1.0)).updated(returns, 0.5)
    np.testing.assert_allclose(moved.scale, 1.0, rtol=1e-3)


def test_normalised_targets_are_what_the_head_learns():
    statistics = PopArt(jnp.float32(10.0), jnp.float32(4.0))
    np.testing.assert_allclose(statistics.normalize(jnp.array([12.0])), [1.0])
    np.testing.assert_allclose(statistics.denormalize(jnp.array([1.0])), [12.0])
