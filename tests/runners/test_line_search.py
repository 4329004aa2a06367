"""D_M of the language world at the end of an iteration, and its budget in a run's metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.contracts import Counts
from gempi_jax.em import Lagrangian
from gempi_jax.methods import vmpo
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.runners.batch import Batch, Scored
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.world import LanguageWorld
from gempi_jax.training.line_search import limit_step
from gempi_jax.training.state import TrainState

MODEL = Decoder(
    DecoderConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2, residual_dropout=0.5)
)


@pytest.fixture(scope="module")
def case(random_params):
    """A policy, another one, and completions with a mask."""
    old = random_params(MODEL)
    new = jax.tree.map(lambda leaf: leaf * 1.3, old)
    prompts, lengths = jnp.array([[1, 2, 3], [4, 5, 0]]), jnp.array([3, 2])
    completions, mask = jnp.arange(12).reshape(2, 2, 3) % 11, jnp.ones((2, 2, 3), bool).at[0, 1, 2].set(False)
    zeros = jnp.zeros((2, 2, 3))
    batch = Batch(prompts, lengths, completions, mask, zeros, zeros, jnp.zeros((2, 2)), jnp.arange(2))
    return old, new, Scored(batch, jnp.zeros((2, 8)), zeros)


def test_the_divergence_is_that_of_updates_without_dropout(case):
    old, new, scored = case
    searched = LanguageWorld(Policy(MODEL, None), vmpo().needs, dropout=True)
    calm = LanguageWorld(Policy(MODEL, None), vmpo(enforced=Lagrangian()).needs)

    @jax.jit
    def run(old, new):
        args = {"policy": new}, {"old": old}, scored
        counts = Counts(*calm.count(scored))
        paid, free = (world.evaluate(*args, jax.random.key(0), counts) for world in (calm, searched))
        return searched.divergence(*args)["kl"], paid.divergence["kl"].sum(), free.divergence

    metric, paid, free = run(old, new)
    # Eleven real tokens of twelve; no update evaluates what the search measures.
    assert metric.weight == 11
    np.testing.assert_allclose(metric.sum, paid, rtol=1e-5)
    assert metric.sum > 0.01
    assert free == {}


def test_a_language_model_ends_at_its_budget(case):
    old, new, scored = case
    method = vmpo(epsilon_alpha=1e-3)
    world = LanguageWorld(Policy(MODEL, None), method.needs, dropout=True).world()
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, {"policy": new}, (), {}, {}, {"old": old}, jax.random.key(0), zero, zero)
    state, metrics = jax.jit(functools.partial(limit_step, method, world))(state, scored)
    np.testing.assert_allclose(world.divergence(state.params, state.snapshots, scored)["kl"].mean(), 1e-3, rtol=0.02)
    np.testing.assert_allclose(metrics["mstep/kl_over_budget"].mean(), 1.0, rtol=0.02)
    assert metrics["mstep/step_scale"].mean() < 1
