"""Optimisers against steps worked out by hand, schedules at their corners, and settings that mean nothing refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax.training import optimizers, schedules
from gempi_jax.training.optimizers import SGD, Adafactor, Adam, AdamW
from gempi_jax.training.schedules import Constant, Cosine, Linear, Schedule

RATE = Schedule(0.1)


def step(optimizer, params, gradients, times=1):
    chain = optimizers.build(optimizer, total_steps=10)
    state = chain.init(params)
    for _ in range(times):
        updates, state = chain.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def rates(schedule, total):
    built = schedule.build(total)
    return [float(built(index)) for index in range(total)]


def test_schedules_reach_their_corners():
    # Warm-up of 3: a quarter, half, three quarters of the peak, then the peak.
    np.testing.assert_allclose(rates(Schedule(4.0, 3), 6), [1, 2, 3, 4, 4, 4], rtol=1e-6)
    # The last update takes exactly the final fraction.
    np.testing.assert_allclose(rates(Schedule(4.0, 1, Linear(0.5)), 6), [2, 4, 3.5, 3, 2.5, 2], rtol=1e-6)
    np.testing.assert_allclose(rates(Schedule(4.0, 0, Linear()), 5), [4, 3, 2, 1, 0], atol=1e-6)
    # Half a cosine: (1 + cos(pi t)) / 2 at t = 0, 1/2, 1.
    np.testing.assert_allclose(rates(Schedule(4.0, 2, Cosine(0.1)), 5), [4 / 3, 8 / 3, 4, 2.2, 0.4], rtol=1e-5)
    np.testing.assert_allclose(rates(Schedule(4.0, 0, Cosine()), 1), [4])
    np.testing.assert_allclose(rates(Schedule(4.0, 1), 1), [2])


def test_the_logged_rate_is_the_one_that_is_taken():
    optimizer = SGD(Schedule(1.0, 2, Linear()))
    chain = optimizers.build(optimizer, 5)
    rate = optimizers.learning_rate(optimizer, 5)
    params, state = jnp.float32(0), chain.init(jnp.float32(0))
    for index in range(5):
        updates, state = chain.update(jnp.float32(-1), state, params)
        assert updates == rate(index)
    assert jax.jit(rate)(jnp.int32(1)) == rate(1)


def test_sgd_and_momentum():
    np.testing.assert_allclose(step(SGD(RATE), jnp.array([1.0]), jnp.array([2.0])), [0.8], rtol=1e-6)
    # Traces 2, then 2 + 0.5 * 2 = 3: 1 - 0.1 * 5.
    np.testing.assert_allclose(step(SGD(RATE, momentum=0.5), jnp.array([1.0]), jnp.array([2.0]), 2), [0.5], rtol=1e-6)


def test_clipping_is_by_the_norm_of_everything():
    # The norm of (3, 4) is 5; clipped to 1 it is (0.6, 0.8).
    params = {"a": jnp.array([0.0]), "b": jnp.array([0.0])}
    moved = step(SGD(RATE, max_grad_norm=1.0), params, {"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    np.testing.assert_allclose([moved["a"][0], moved["b"][0]], [-0.06, -0.08], rtol=1e-6)
    untouched = step(SGD(RATE, max_grad_norm=6.0), params, {"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    np.testing.assert_allclose([untouched["a"][0], untouched["b"][0]], [-0.3, -0.4], rtol=1e-6)


def test_adam_moves_by_the_rate_at_first():
    # After bias correction the first update is -rate * sign(gradient).
    np.testing.assert_allclose(step(Adam(RATE), jnp.array([1.0, 1.0]), jnp.array([5.0, -1e-3])), [0.9, 1.1], rtol=1e-4)


def test_weight_decay_leaves_out_norms_and_biases():
    params = {
        "embedding": 0,
        "layers_0": {"attention_norm": {"scale": 0}, "q_norm": {"weight": 0}, "mlp": {"kernel": 0, "bias": 0}},
        "final_norm": {"scale": 0, "bias": 0},
        "normalizer": {"kernel": 0},
    }
    params = jax.tree.map(lambda _: jnp.array([2.0]), params)
    moved = step(AdamW(RATE, weight_decay=0.5), params, jax.tree.map(jnp.zeros_like, params))
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
        if leaf[0] != 2.0
    }
    assert changed == {"embedding", "layers_0/mlp/kernel", "normalizer/kernel"}
    np.testing.assert_allclose(moved["embedding"], [2.0 - 0.1 * 0.5 * 2.0], rtol=1e-6)


def test_adafactor_moves_by_the_rate_and_keeps_rows_and_columns():
    optimizer = Adafactor(RATE, factored_from=4)
    params = {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(8)}
    # Of a constant gradient the update has root mean square 1, whatever its size.
    moved = step(optimizer, params, jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), params))
    np.testing.assert_allclose(moved["kernel"], -0.1, rtol=1e-5)
    shapes = {leaf.shape for leaf in jax.tree.leaves(optimizers.build(optimizer, 10).init(params))}
    assert (4, 8) not in shapes


def test_duals_stay_positive_with_the_projection_behind_the_update():
    from gempi_jax.em.duals import project_duals

    duals = step(SGD(Schedule(1.0)), {"temperature": jnp.float32(1.0)}, {"temperature": jnp.float32(1.0)})
    assert project_duals(duals)["temperature"] == np.float32(1e-8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule(-1.0), "learning rate = -1.0: give a finite number"),
        (lambda: Schedule(math.nan), "learning rate = nan"),
        (lambda: Schedule(1.0, -1), "warmup_steps = -1"),
        (lambda: Linear(1.5), "final_fraction = 1.5: give a number from 0 to 1"),
        (lambda: Cosine(-0.5), "final_fraction = -0.5"),
        (lambda: Adam(RATE, b1=1.0), r"b1 = 1.0: give a number in \[0, 1\)"),
        (lambda: Adam(RATE, b2=-0.1), "b2 = -0.1"),
        (lambda: Adam(RATE, eps=0.0), "eps = 0.0"),
        (lambda: AdamW(RATE, weight_decay=-1.0), "weight_decay = -1.0"),
        (lambda: AdamW(RATE, b1=2.0), "b1 = 2.0"),
        (lambda: SGD(RATE, momentum=1.0), "momentum = 1.0"),
        (lambda: SGD(RATE, max_grad_norm=0.0), "max_grad_norm = 0.0: give a positive number, or None"),
        (lambda: Adafactor(RATE, clip=0.0), "clip = 0.0"),
        (lambda: Adafactor(RATE, factored_from=1), "factored_from = 1"),
        (lambda: Schedule(1.0, 11, Constant()).build(10), "warmup_steps = 11 of 10 steps"),
        (lambda: optimizers.build(SGD(RATE), 0), "of 0 steps"),
    ],
)
def test_settings_that_mean_nothing_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_exponentiated_gradients_know_no_unit_and_stop_at_their_maximum():
    optimizer = optimizers.build(optimizers.ExponentiatedGradient(schedules.Schedule(0.3), maximum=100.0), 10)

    def step(price, gradient):
        updates, _ = optimizer.update(jnp.float32(gradient), optimizer.init(jnp.float32(price)), jnp.float32(price))
        return float(optax.apply_updates(jnp.float32(price), updates))

    # A budget that is unused, g = 1 - 0 / eps: x exp(-0.3), for any x.
    assert step(5.0, 1.0) / 5.0 == pytest.approx(np.exp(-0.3), rel=1e-5)
    assert step(5e-6, 1.0) / 5e-6 == pytest.approx(np.exp(-0.3), rel=1e-5)
    # Twice the budget: x exp(0.3); ten times it counts as three times: x exp(0.6).
    assert step(5.0, -1.0) == pytest.approx(5.0 * np.exp(0.3), rel=1e-5)
    assert step(5.0, -9.0) == pytest.approx(5.0 * np.exp(0.6), rel=1e-5)
    # No further than the maximum; what starts beyond comes down.
    assert step(90.0, -9.0) == pytest.approx(100.0, rel=1e-5)
    assert step(200.0, -9.0) == pytest.approx(200.0, rel=1e-5)
    assert step(200.0, 1.0) == pytest.approx(200.0 * np.exp(-0.3), rel=1e-5)
