"""Temperatures at their floor, 1e-8, where log-weights are 1e8 nats: the dual's gradient is eps - D, and it recovers.

The targets, divergences and gradients are compared with bisection in float64, written without a line of the package.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

FLOOR = 1e-8
# In each group two samples are tied for the best, apart by nothing but what the anchors say of them.
ADVANTAGES = np.array([[0.7, 0.7, -0.3, 0.1], [2.3, 1.9, 2.3, 2.2]], np.float32)
RATIOS = np.array(
    [
        [[0.3, -0.2, 0.1, 0.0], [-0.4, 0.2, 0.1, 0.3]],
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
        [[-0.1, 0.5, 0.2, 0.3], [0.2, 0.0, -0.3, -0.1]],
    ],
    np.float32,
)
SLOPES = {
    "kl": lambda x: x,
    "reverse_kl": lambda x: -np.exp(-x),
    "chi_squared": lambda x: np.exp(x) - 1,
    "jensen_shannon": lambda x: -0.5 * np.log1p(np.exp(-x)),
    "squared_hellinger": lambda x: -0.5 * np.exp(-0.5 * x),
}
"""f' at u = exp(x), up to a constant."""
GENERATORS = {
    "reverse_kl": lambda u: u - 1 - np.log(u),
    "chi_squared": lambda u: 0.5 * (u - 1) ** 2,
    "jensen_shannon": lambda u: 0.5 * (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)),
    "squared_hellinger": lambda u: 0.5 * (np.sqrt(u) - 1) ** 2,
}
DIVERGENCES = {name: getattr(numerics, {"kl": "KL"}.get(name, name.upper())) for name in SLOPES}
SINGLE = [(name,) for name in SLOPES]
MIXES = [("kl", "kl"), ("kl", "chi_squared"), ("squared_hellinger", "reverse_kl"), ("kl", "kl", "kl")]
MIXES += [("jensen_shannon", "kl", "chi_squared")]
step = jax.jit(em.e_step, static_argnums=0)


def root(rising, low, high):
    """Where a rising function, elementwise, crosses 0."""
    for _ in range(120):
        middle = 0.5 * (low + high)
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 0.5 * (low + high)


def oracle_target(advantages, ratios, coefficients, names):
    """v = log(q / b) of one scope, with mean 1 of exp(v)."""
    gain = advantages - advantages.max()

    def price(v):
        terms = zip(coefficients, names, ratios, strict=True)
        return sum(c * SLOPES[name](np.clip(v - r, -600, 600)) for c, name, r in terms)

    def values(level):
        # Beyond 600 nats below its anchors a sample has no mass.
        return root(lambda v: price(v) - (gain - level), np.full(gain.shape, -590.0), np.full(gain.shape, 5.0))

    # The mass falls in the level; in closed form the level is Lambda log Z, of a few Lambda, and f' may shift it.
    level = root(lambda level: 1.0 - np.mean(np.exp(values(level))), np.float64(-10.0), np.float64(10.0))
    return values(level)


def oracle_divergence(v, ratio, name):
    """D(q || pi_j) of one scope; KL by its own estimator."""
    if name == "kl":
        return np.mean(np.exp(v) * (v - ratio))
    p = np.exp(ratio)
    return np.mean(p * GENERATORS[name](np.exp(v - ratio)))


def problem(names, scope, budget=0.05):
    """The spec, its samples, and every D_j at the floor in float64."""
    ratios = RATIOS[: len(names)] if len(names) > 1 else RATIOS[1:2]
    policies = ("ref", "old", "other")
    anchors = tuple(
        em.Anchor(policy, budget=budget, divergence=DIVERGENCES[name])
        for policy, name in zip(policies, names, strict=False)
    )
    zeros = jnp.zeros(ADVANTAGES.shape)
    samples = Samples(jnp.asarray(ADVANTAGES), zeros, jnp.asarray(ratios))
    a, r = ADVANTAGES.astype(np.float64), ratios.astype(np.float64)
    scopes = [(a[g], r[:, g]) for g in range(2)] if scope is em.Scope.GROUP else [(a.ravel(), r.reshape(len(r), -1))]
    spent = [
        [
            oracle_divergence(oracle_target(x, y, [FLOOR] * len(names), names), y[j], name)
            for j, name in enumerate(names)
        ]
        for x, y in scopes
    ]
    return em.GempiSpec(anchors, em.Dual(), scope=scope), samples, np.mean(spent, axis=0)


@pytest.mark.parametrize("scope", [em.Scope.BATCH, em.Scope.GROUP], ids=lambda scope: scope.value)
@pytest.mark.parametrize("names", SINGLE + MIXES, ids="+".join)
def test_at_the_floor_the_gradient_is_the_budget_minus_the_divergence(names, scope):
    spec, samples, expected = problem(names, scope)

    def loss(temperature):
        target = step(spec, {"temperature": temperature}, samples)
        return target.dual_loss, target

    gradient, target = jax.grad(loss, has_aux=True)(jnp.full(len(names), FLOOR))
    np.testing.assert_allclose(gradient, 0.05 - expected, rtol=2e-4, atol=2e-5)
    for anchor, name, value in zip(spec.anchors, names, expected, strict=True):
        np.testing.assert_allclose(target.metrics[f"estep/{name}/{anchor.policy}"].mean(), value, rtol=2e-4, atol=2e-5)
    # All the mass is on the samples that are tied for the best of their scope.
    axis = -1 if scope is em.Scope.GROUP else None
    np.testing.assert_array_equal(target.weights > 1e-4, ADVANTAGES.max(axis=axis, keepdims=True) == ADVANTAGES)


@pytest.mark.parametrize("coefficient", [1e-8, 1e-3, 1.0, 1e3])
def test_the_public_dual_is_right_at_every_temperature(coefficient):
    # L = lambda eps + Lambda log mean exp((A + sum lambda r) / Lambda), in float64.
    a, r = ADVANTAGES.astype(np.float64), RATIOS[:2].astype(np.float64)
    values = (a + coefficient * r.sum(0)) / (2 * coefficient)
    log_z = values.max() + np.log(np.mean(np.exp(values - values.max())))
    weights = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    kl = [np.sum(weights * ((values - values.max()) + (values.max() - log_z) - r[j])) for j in range(2)]
    budgets = np.array([0.1, 0.3])
    arguments = jnp.full(2, coefficient), jnp.asarray(budgets), jnp.asarray(ADVANTAGES), jnp.asarray(RATIOS[:2])
    value, gradient = jax.jit(jax.value_and_grad(em.temperature_dual))(*arguments)
    np.testing.assert_allclose(value, coefficient * budgets.sum() + 2 * coefficient * log_z, rtol=1e-5)
    np.testing.assert_allclose(gradient, budgets - kl, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", [em.Scope.BATCH, em.Scope.GROUP], ids=lambda scope: scope.value)
@pytest.mark.parametrize("names", [("kl",), ("chi_squared",), ("reverse_kl",), ("kl", "kl")], ids="+".join)
def test_from_the_floor_gradient_steps_meet_the_budget_again(names, scope):
    spec, samples, _ = problem(names, scope, budget=0.3)
    optimizer = optax.adam(0.1)

    def descend(carry, _):
        duals, state = carry
        gradient = jax.grad(lambda duals: em.e_step(spec, duals, samples).dual_loss)(duals)
        updates, state = optimizer.update(gradient, state)
        return (em.project_duals(optax.apply_updates(duals, updates)), state), None

    @jax.jit
    def run(duals):
        (duals, _), _ = jax.lax.scan(descend, (duals, optimizer.init(duals)), length=300)
        return em.e_step(spec, duals, samples)

    metrics = run({"temperature": jnp.full(len(names), FLOOR)}).metrics
    used = [
        float(metrics[f"estep/{n}_over_budget/{a.policy}"].mean()) for n, a in zip(names, spec.anchors, strict=True)
    ]
    # Of two budgets one may be slack, its price then at the floor.
    assert max(used) == pytest.approx(1.0, abs=0.05)
