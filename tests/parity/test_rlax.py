"""Parity with rlax's V-MPO and MPO where they are right, and where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, methods, numerics
from gempi_jax.contracts import Counts, Evaluation, Samples

rlax = pytest.importorskip("rlax")

SHAPE = (6, 8)
EPSILON_ETA, EPSILON_ALPHA, ETA, ALPHA = 0.1, 0.01, 0.7, 5.0
rng = np.random.default_rng(0)
ADVANTAGES = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
LOG_PROBS = jnp.asarray(rng.normal(-2, 0.5, SHAPE), jnp.float32)
KL = jnp.asarray(rng.random(SHAPE) * 0.02, jnp.float32)


def on_policy(advantages, mask=None):
    zeros = jnp.zeros(advantages.shape)
    return Samples(advantages, zeros, zeros[None], mask)


def ours(method, duals, log_probs, kl):
    """E-step dual plus M-step loss, as rlax adds them."""
    target = method.e_step(duals, on_policy(ADVANTAGES))
    terms = jnp.ones((*SHAPE, 1), bool)
    counts = Counts(*[jnp.float32(ADVANTAGES.size)] * 2)
    evaluation = Evaluation(log_probs[..., None], terms, {"kl": kl[..., None]}, counts)
    return target.dual_loss + method.m_step(duals, target, evaluation).loss, target.weights


def theirs(function, duals, log_probs, kl, **options):
    penalty = rlax.LagrangePenalty(duals["multiplier/kl"], jnp.float32(EPSILON_ALPHA))
    temperature = rlax.LagrangePenalty(duals["temperature"][0], jnp.float32(EPSILON_ETA))
    loss, outputs = function(log_probs, ADVANTAGES, temperature, [(kl, penalty)], **options)
    return jnp.mean(loss), outputs.normalized_weights


DUALS = {"temperature": jnp.array([ETA]), "multiplier/kl": jnp.float32(ALPHA)}


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_vmpo_loss_and_all_its_gradients(fraction):
    method = methods.vmpo(EPSILON_ETA, EPSILON_ALPHA, fraction, temperature=em.Dual(), enforced=em.Lagrangian())
    gradients = jax.jit(jax.value_and_grad(lambda *x: ours(method, *x), argnums=(0, 1, 2), has_aux=True))
    mine = gradients(DUALS, LOG_PROBS, KL)
    other = jax.jit(
        jax.value_and_grad(
            lambda *x: theirs(rlax.vmpo_loss, *x, top_k_fraction=fraction), argnums=(0, 1, 2), has_aux=True
        )
    )(DUALS, LOG_PROBS, KL)
    for one, two in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_mpo_is_the_group_scope():
    # rlax: [states, actions] with the samples of a state last, a mean over states; the KL is per state.
    spec = em.GempiSpec((em.Anchor("old", budget=EPSILON_ETA),), em.Dual(ETA), scope=em.Scope.GROUP)
    method = methods.from_spec(spec)
    duals = {"temperature": jnp.array([ETA])}

    def mine(duals, log_probs):
        target = method.e_step(duals, on_policy(ADVANTAGES))
        nll = em.weighted_nll(log_probs[..., None], target.weights, jnp.ones((*SHAPE, 1), bool))
        return target.dual_loss + nll

    def other(duals, log_probs):
        temperature = rlax.LagrangePenalty(duals["temperature"][0], jnp.float32(EPSILON_ETA))
        nothing = rlax.LagrangePenalty(jnp.float32(1.0), jnp.float32(1e-9))
        zero_kl = [(jnp.zeros(SHAPE[0]), nothing)]
        loss, _ = rlax.mpo_loss(log_probs, ADVANTAGES, temperature, zero_kl, sample_axis=1)
        return jnp.mean(loss)

    one = jax.jit(jax.value_and_grad(mine, argnums=(0, 1)))(duals, LOG_PROBS)
    two = jax.jit(jax.value_and_grad(other, argnums=(0, 1)))(duals, LOG_PROBS)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def rlax_weights(advantages, mask, fraction):
    penalty = rlax.LagrangePenalty(jnp.float32(1.0), jnp.float32(0.1))
    _, outputs = rlax.vmpo_loss(
        jnp.zeros_like(advantages),
        advantages,
        penalty,
        [(jnp.zeros_like(advantages), penalty)],
        restarting_weights=mask,
        top_k_fraction=fraction,
    )
    return outputs.normalized_weights


def test_where_rlax_masks_by_multiplication_all_weight_is_lost():
    advantages, mask = jnp.array([-1000.0, -1001.0, 0.0]), jnp.array([True, True, False])
    # The masked advantage enters the maximum as 0, and exp(-1000) underflows.
    np.testing.assert_array_equal(rlax_weights(advantages, mask.astype(jnp.float32), 1.0), [0.0, 0.0, 0.0])
    weights = em.normalize_weights(advantages, where=mask)
    np.testing.assert_allclose(weights, [np.e / (1 + np.e), 1 / (1 + np.e), 0.0], rtol=1e-5)


def test_where_rlax_selects_by_threshold_ties_fill_the_batch():
    advantages = jnp.ones(8)
    assert int(jnp.sum(rlax_weights(advantages, jnp.ones(8), 0.5) > 0)) == 8
    assert int(jnp.sum(numerics.top_k_mask(advantages, 0.5))) == 4


def test_where_rlax_cannot_say_that_nothing_is_constrained():
    penalty = rlax.LagrangePenalty(jnp.float32(1.0), jnp.float32(0.1))
    with pytest.raises((AttributeError, ValueError)):
        rlax.vmpo_loss(jnp.zeros(4), jnp.arange(4.0), penalty, [])
    assert methods.awr().needs.trust_region is None
