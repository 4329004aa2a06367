"""One contract for every method of the table; a new method is a new row by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, methods
from gempi_jax.contracts import Counts, Evaluation, Samples

GROUPS, SAMPLES, LENGTH = 3, 4, 5


def world(method: methods.Method, seed: int = 0):
    """Random samples and a random evaluation as a world would hand them over."""
    rng = np.random.default_rng(seed)
    shape = (GROUPS, SAMPLES)
    sampler = jnp.asarray(rng.normal(-10.0, 1.0, shape), jnp.float32)
    anchors = sampler[None] + jnp.asarray(rng.normal(0.0, 0.1, (len(method.needs.anchors), *shape)), jnp.float32)
    samples = Samples(jnp.asarray(rng.normal(size=shape), jnp.float32), sampler, anchors, jnp.ones(shape, bool))
    terms = (*shape, LENGTH)
    parts = () if method.needs.trust_region is None else method.needs.trust_region.divergence.parts
    evaluation = Evaluation(
        jnp.asarray(rng.normal(-1.0, 0.1, terms), jnp.float32),
        jnp.asarray(rng.random(terms) < 0.8),
        {part: jnp.asarray(rng.random(terms), jnp.float32) for part in parts},
        Counts(jnp.float32(GROUPS * SAMPLES * LENGTH), jnp.float32(GROUPS * SAMPLES)),
    )
    return samples, evaluation


EM_METHODS = sorted(set(methods.METHODS) & {"sft", "awr", "vmpo", "dar", "rl_em", "at_dar", "dar_tr", "top_k_dar"})


@pytest.mark.parametrize("name", EM_METHODS)
def test_contract(name):
    method = methods.METHODS[name]()
    assert set(method.needs.anchors) <= set(method.needs.snapshots) <= {"ref", "old"}
    duals = method.init()
    samples, evaluation = world(method)
    target = jax.jit(method.e_step)(duals, samples)
    assert target.weights.shape == samples.advantages.shape
    assert np.all(np.asarray(target.weights) >= 0)
    # Weights are data for the M-step: nothing flows back into the samples.
    advantages, tangents = samples.advantages, jnp.ones_like(samples.advantages)
    weights = jax.jit(lambda a: method.e_step(duals, samples._replace(advantages=a)).weights)
    assert not np.any(jax.jvp(weights, (advantages,), (tangents,))[1])

    def loss(duals, log_probs):
        return method.m_step(duals, target, evaluation._replace(log_probs=log_probs)).loss

    by_dual, by_log_prob = jax.jit(jax.grad(loss, argnums=(0, 1)))(duals, evaluation.log_probs)
    np.testing.assert_allclose(by_log_prob, -np.asarray(target.weights)[..., None] * evaluation.mask, rtol=1e-5)
    for leaf in jax.tree.leaves((by_dual, target, method.m_step(duals, target, evaluation))):
        assert np.all(np.isfinite(leaf))
    region = method.needs.trust_region
    paid_for = region is not None and not region.at_end
    assert paid_for == any(key.startswith("multiplier") for key in duals)


def test_snapshots_follow_from_anchors_and_trust_region():
    assert methods.sft().needs.snapshots == ()
    assert methods.dar().needs.snapshots == ("ref", "old")
    assert methods.rl_em().needs.snapshots == ("ref",)
    assert methods.rl_em(epsilon_alpha=0.01).needs.snapshots == ("ref", "old")
    assert methods.vmpo().needs.anchors == ("old",)


def test_duals_by_mechanism():
    assert methods.dar().init() == {}
    assert set(methods.vmpo(temperature=em.Dual(), enforced=em.Lagrangian()).init()) == {"temperature", "multiplier/kl"}
    assert methods.vmpo().init() == {}
    assert set(methods.vmpo(penalty=0.1, temperature=em.Dual()).init()) == {"temperature"}
    assert methods.at_dar(temperature=em.Dual(2.0)).init()["temperature"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: methods.vmpo(top_k_fraction=0.0),
        lambda: methods.vmpo(epsilon_eta=-1.0),
        lambda: methods.dar(alpha=0.0),
        lambda: methods.awr(beta=float("nan")),
    ],
)
def test_factories_refuse_nonsense(build):
    with pytest.raises(ValueError, match=r"must be positive|share kept"):
        build()
