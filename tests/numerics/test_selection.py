"""Exact top-k: against a stable sort, with ties, masks and every size that hypothesis likes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.numerics import top_k_mask
from gempi_jax.numerics.selection import selection_size, sortable

SIZES = st.sampled_from([1, 7, 64, 4096])
KINDS = ("continuous", "binary", "constant", "huge", "infinite")


def draw(kind, size, rng):
    values = {
        "continuous": rng.normal(size=size),
        "binary": rng.integers(0, 2, size).astype(float),
        "constant": np.zeros(size),
        "huge": rng.choice([-3e38, -1e-37, 0.0, 1e-37, 3e38], size),
        "infinite": rng.choice([-np.inf, 0.0, np.inf], size),
    }
    return values[kind].astype(np.float32)


def by_sort(scores, tie_break, mask, k):
    """Indices in the order: score, then tie-break, both falling, then index."""
    order = np.lexsort((np.arange(scores.size), -tie_break, -scores))
    chosen = [i for i in order if mask[i]][:k]
    expected = np.zeros(scores.size, bool)
    expected[chosen] = True
    return expected


select = jax.jit(top_k_mask, static_argnums=1)


@given(SIZES, st.sampled_from(KINDS), st.sampled_from(KINDS), st.sampled_from([0.1, 0.5]), st.integers(0, 9))
def test_equals_a_stable_sort(size, kind, second, fraction, seed):
    rng = np.random.default_rng(seed)
    scores, tie_break = draw(kind, size, rng), draw(second, size, rng)
    mask = rng.random(size) < 0.8
    k = max(1, int(np.floor(fraction * mask.sum() + 1e-9)))
    expected = by_sort(scores, tie_break, mask, k)
    found = select(scores, fraction, where=jnp.asarray(mask), tie_break=tie_break)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["continuous", "binary", "rare", "sorted"])
def test_a_large_batch_is_searched_in_part_first_and_exactly_in_the_end(kind):
    size, rng = 200_000, np.random.default_rng(0)
    scores = {
        "continuous": rng.normal(size=size),
        "binary": rng.integers(0, 2, size),
        # What decides the selection is not in the part.
        "rare": np.where(np.arange(size) % 12 == 5, 1.0 + np.arange(size), 0.0),
        "sorted": np.arange(size)[::-1],
    }[kind].astype(np.float32)
    mask = rng.random(size) < 0.8
    found = np.asarray(select(scores, 0.25, where=jnp.asarray(mask), tie_break=np.zeros(size, np.float32)))
    k = int(0.25 * mask.sum())
    order = np.lexsort((np.arange(size), -scores))
    expected = np.zeros(size, bool)
    expected[order[mask[order]][:k]] = True
    np.testing.assert_array_equal(found, expected)


def test_keys_keep_the_order_of_floats():
    values = jnp.array([-jnp.inf, -1e30, -1.0, -1e-37, 0.0, 1e-37, 1.0, 1e30, jnp.inf])
    assert np.all(np.diff(np.asarray(sortable(values), np.int64)) > 0)
    zeros = jnp.array([-0.0, 0.0], jnp.float32)
    for keys in (sortable(zeros), jax.jit(sortable)(zeros)):
        assert keys.tolist() == [0, 0]
    # So a tie is one, compiled or not, and the second score decides.
    np.testing.assert_array_equal(select(zeros, 0.5, tie_break=jnp.array([1.0, 0.0])), [True, False])


@pytest.mark.parametrize(
    ("fraction", "number", "expected"),
    [
        (0.29, 100, 29),
        (0.7, 10, 7),
        (0.5, 1, 1),
        (0.01, 5, 1),
        (1.0, 2**30, 2**30),
        (1e-5, 10**6, 10),
        (0.999999, 2**30, 1_073_740_750),
        (0.33333, 300_000, 99_999),
    ],
)
def test_size_is_exact(fraction, number, expected):
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert int(selection_size(fraction, jnp.int32(number))) == expected


def test_nan_is_masked_and_nothing_real_selects_nothing():
    np.testing.assert_array_equal(select(jnp.array([jnp.nan, 1.0, 0.0]), 1.0), [False, True, True])
    assert not np.any(select(jnp.array([1.0, 2.0]), 1.0, where=jnp.zeros(2, bool)))


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="keeps a share in"):
        top_k_mask(jnp.ones(3), fraction)


def test_batched_by_vmap():
    scores = jnp.array([[1.0, 3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = jax.vmap(lambda row: top_k_mask(row, 0.5))(scores)
    np.testing.assert_array_equal(found, [[False, True, True, False], [True, True, False, False]])
