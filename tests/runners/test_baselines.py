"""Baselines: what they take off, and that equal rewards say nothing, whatever was taken off them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.numerics import standardize
from gempi_jax.runners.baselines import BASELINES


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1.0])
def test_equal_rewards_tell_nothing(name, reward):
    # The mean of six 0.1 is not 0.1 in float32.
    rewards = jnp.full((2, 6), reward, jnp.float32)
    baseline = BASELINES[name]

    @jax.jit
    def both(rewards):
        advantages = baseline(rewards)
        return advantages, standardize(advantages), baseline.signal(rewards)

    advantages, scores, signal = both(rewards)
    assert not np.any(signal)
    np.testing.assert_array_equal(scores, 0.0)
    if name in ("group_mean", "batch_mean"):
        np.testing.assert_array_equal(advantages, 0.0)


@pytest.mark.parametrize(
    ("name", "advantages", "told"),
    [
        ("group_mean", [[0.0] * 3, [2 / 3, -1 / 3, -1 / 3]], [[False] * 3, [True] * 3]),
        # Compared across prompts, the first one's samples are below the rest.
        ("batch_mean", [[-1 / 6] * 3, [5 / 6, -1 / 6, -1 / 6]], [[True] * 3] * 2),
        ("value", [[0.0] * 3, [1.0, 0.0, 0.0]], [[True] * 3] * 2),
        ("zero", [[0.0] * 3, [1.0, 0.0, 0.0]], [[True] * 3] * 2),
    ],
)
def test_what_is_compared_with_what(name, advantages, told):
    rewards = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(BASELINES[name](rewards), advantages, atol=1e-6)
    np.testing.assert_array_equal(BASELINES[name].signal(rewards), told)
