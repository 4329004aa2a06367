"""One draw: frequencies, log-probabilities after truncation, and the draw's robustness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm.sampling import Sampling, draw, inverse_cumulative, nucleus_mask

OPTIONS = [
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    {"top_k": 1},
    {"top_k": 50, "top_p": 1.0},
]


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The sampling distribution of one row, by sorting, in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    order = np.argsort(-probabilities, kind="stable")
    kept = order[:top_k]
    if top_p is not None:
        mass = probabilities[kept] / probabilities[kept].sum()
        kept = kept[: np.searchsorted(np.cumsum(mass), top_p - 1e-9) + 1]
    if min_p is not None:
        kept = kept[probabilities[kept] >= min_p * probabilities[kept[0]]]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result


@pytest.mark.parametrize("options", OPTIONS)
def test_frequencies_and_log_probs_are_those_of_the_truncated_distribution(options):
    logits = 2.0 * jax.random.normal(jax.random.key(0), (23,))
    count = 20_000
    uniforms = jax.random.uniform(jax.random.key(1), (count,))
    drawn = jax.jit(lambda x, u: draw(x, u, Sampling(**options)))(jnp.broadcast_to(logits, (count, 23)), uniforms)
    expected = distribution(logits, **options)
    tokens = np.asarray(drawn.tokens)
    assert (expected[tokens] > 0).all()
    np.testing.assert_allclose(drawn.sampler_log_probs, np.log(expected[tokens]), atol=2e-6)
    np.testing.assert_allclose(drawn.model_log_probs, jax.nn.log_softmax(logits)[tokens], atol=2e-6)
    observed = np.bincount(tokens, minlength=23)
    kept = expected * count > 5
    statistic = ((observed - expected * count)[kept] ** 2 / (expected * count)[kept]).sum()
    # Above the 0.9999 quantile of chi-square for every number of degrees here.
    assert statistic < kept.sum() + 4 * np.sqrt(2 * kept.sum()) + 11


def test_greedy_takes_the_most_probable_with_certainty():
    logits = jax.random.normal(jax.random.key(0), (4, 5, 11))
    drawn = draw(logits, jnp.zeros((4, 5)), Sampling(temperature=0.0))
    np.testing.assert_array_equal(drawn.tokens, logits.argmax(-1))
    np.testing.assert_array_equal(drawn.sampler_log_probs, 0.0)


def test_a_traced_temperature_is_a_temperature():
    logits = jax.random.normal(jax.random.key(0), (6, 11))
    uniforms = jax.random.uniform(jax.random.key(1), (6,))
    traced = jax.jit(lambda temperature: draw(logits, uniforms, Sampling(temperature)))(jnp.float32(0.6))
    np.testing.assert_array_equal(traced.tokens, draw(logits, uniforms, Sampling(0.6)).tokens)


@pytest.mark.parametrize("size", [1, 3, 16, 100, 1000])
def test_the_inverse_of_the_cumulative_masses(size):
    masses = jax.random.uniform(jax.random.key(size), (size,)) * (jnp.arange(size) % 3 != 1)
    count = 500
    uniforms = jnp.linspace(0.0, 1.0, count, endpoint=False)
    index, total = inverse_cumulative(jnp.broadcast_to(masses, (count, size)), uniforms)
    ends = np.cumsum(np.asarray(masses, np.float64))
    expected = np.searchsorted(ends, np.asarray(uniforms, np.float64) * ends[-1], side="right")
    np.testing.assert_allclose(total, ends[-1], rtol=1e-6)
    assert (np.asarray(index) == expected).mean() > 0.99  # a neighbour where the point falls on a boundary


def test_no_rounding_ever_draws_what_has_no_mass():
    # One tiny and one large mass between zeros: the sums cannot resolve the tiny one, and u = 1 - 2^-24 is the last.
    masses = jnp.zeros((3, 700)).at[:, 5].set(1e-12).at[:, 350].set(1e4)
    uniforms = jnp.array([0.0, 0.5, 1.0 - 2.0**-24])
    index, _ = inverse_cumulative(masses, uniforms)
    assert set(np.asarray(index).tolist()) <= {5, 350}


def test_the_nucleus_is_the_smallest_sufficient_set():
    masses = jnp.array([[0.5, 1.0, 0.25, 0.25, 1e-30], [1.0, 0.0, 0.0, 0.0, 0.0]])
    # Shares of the first row: 1/4, 1/2, 1/8, 1/8, 0; the two eighths are tied and stay together.
    for top_p, expected in [(0.3, [0, 1, 0, 0, 0]), (0.6, [1, 1, 0, 0, 0]), (0.8, [1, 1, 1, 1, 0])]:
        mask = np.asarray(nucleus_mask(masses, top_p))
        np.testing.assert_array_equal(mask[0], np.array(expected, bool))
        np.testing.assert_array_equal(mask[1], [True, False, False, False, False])
