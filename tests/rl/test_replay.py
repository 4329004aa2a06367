"""The ring by hand, and what is kept of unrolls against the unrolls themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import GRU, CategoricalHead, MLPCore, MLPTorso
from gempi_jax.rl.agent import Agent, Seen, Trunk, one_step
from gempi_jax.rl.replay import Transitions, add, empty, require_no_memory, reread, sample, transitions
from gempi_jax.rl.unroll import begin, unroll
from tests.rl.corridors import corridor

B, T, CAPACITY = 2, 3, 3


def numbered(number):
    """Unroll ``number``: every leaf of environment b holds 10 number + b."""
    value = jnp.broadcast_to(10.0 * number + jnp.arange(B)[:, None], (B, T))
    no = jnp.zeros((B, T), bool)
    seen = Seen(value[..., None], value.astype(jnp.int32), value, no)
    return Transitions(seen, value.astype(jnp.int32), value, no, no, value, value[..., None])


def filled(number):
    ring = empty(numbered(0), CAPACITY)
    for index in range(number):
        ring = add(ring, numbered(index))
    return ring


@pytest.mark.parametrize(
    ("number", "kept", "valid", "cursor"),
    # Slots in their order: the fourth goes over the first, the fifth over the second.
    [(0, [0, 0, 0], 0, 0), (2, [0, 1, 0], 2, 2), (3, [0, 1, 2], 3, 0), (5, [3, 4, 2], 3, 2)],
)
def test_the_ring_holds_the_last_unrolls(number, kept, valid, cursor):
    ring = filled(number)
    assert (int(ring.valid), int(ring.cursor), ring.capacity) == (valid, cursor, CAPACITY)
    for leaf in (ring.rows.rewards, ring.rows.next_observations[..., 0], ring.rows.seen.rewards):
        for b in range(B):
            expected = [10 * n + b if slot < valid else 0 for slot, n in enumerate(kept)]
            np.testing.assert_array_equal(leaf[b], np.repeat(np.asarray(expected)[:, None], T, axis=1))


@pytest.mark.parametrize(("number", "there"), [(1, [0, 1]), (2, [0, 1, 10, 11]), (5, [20, 21, 30, 31, 40, 41])])
def test_what_is_valid_is_drawn_uniformly(number, there):
    drawn = sample(filled(number), jax.random.key(0), 6000)
    rows = np.asarray(drawn.rewards)
    # A row is one unroll of one environment, in all of its leaves.
    np.testing.assert_array_equal(rows, np.repeat(rows[:, :1], T, axis=1))
    np.testing.assert_array_equal(drawn.log_probs, rows)
    np.testing.assert_array_equal(drawn.next_observations[..., 0], rows)
    found, numbers = np.unique(rows[:, 0], return_counts=True)
    np.testing.assert_array_equal(found, there)
    # Five standard deviations of a binomial number.
    share = 1 / len(there)
    assert np.all(np.abs(numbers - 6000 * share) < 5 * np.sqrt(6000 * share * (1 - share)) + 1e-9)


def test_draws_differ_by_key_alone():
    ring = filled(5)
    first, again, other = (sample(ring, jax.random.key(seed), 50).rewards for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def agent(core):
    def trunk():
        return Trunk(MLPTorso((8,)), core(), previous=True, num_actions=2)

    return Agent(trunk(), CategoricalHead(2), value_trunk=trunk())


def test_a_replayed_unroll_is_read_as_it_was_acted():
    made, environment = agent(lambda: MLPCore((8,))), corridor()
    start = begin(made, environment, jax.random.key(0), 8)
    params = made.init(jax.random.key(1), one_step(start.seen))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)

    @jax.jit
    def both(params, actors, key):
        _, steps, _ = unroll(made, environment, params, actors, key, 9, keep_next=True)
        kept = transitions(steps)
        ring = add(empty(kept, 2), kept)
        again = jax.tree.map(lambda row: row[:, 0], ring.rows)
        return steps, reread(made, params, again)

    steps, again = both(params, start, jax.random.key(2))
    assert np.any(steps.terminated)
    assert np.any(steps.truncated)
    for name in ("actions", "rewards", "terminated", "truncated", "log_probs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(steps, name))
    np.testing.assert_allclose(again.values, steps.values, atol=1e-6)
    np.testing.assert_allclose(again.policy.log_probs, steps.policy.log_probs, atol=1e-6)
    # V of what follows a termination is never used: there an unroll holds that of the next episode's beginning.
    lasts = ~np.asarray(steps.terminated)
    np.testing.assert_allclose(again.next_values[lasts], steps.next_values[lasts], atol=1e-6)
    # What follows in the same episode: the next entry's observation, but where an episode has ended.
    ended = np.asarray(steps.terminated | steps.truncated)[:, :-1]
    now, following = np.asarray(steps.seen.observations), np.asarray(steps.next_observations)
    np.testing.assert_array_equal(following[:, :-1][~ended], now[:, 1:][~ended])
    # The corridor's cell is twice the first number; what is earned is the cell after the step.
    np.testing.assert_allclose(2 * following[..., 0], steps.rewards)


def test_what_no_replay_can_serve_is_refused():
    with pytest.raises(ValueError, match="capacity is 0 unrolls"):
        empty(numbered(0), 0)
    with pytest.raises(ValueError, match=r"remembers \(GRU in trunk, GRU in value_trunk\).*give it an MLPCore"):
        require_no_memory(agent(lambda: GRU(8)))
    require_no_memory(agent(MLPCore))
    made, environment = agent(MLPCore), corridor()

    def kept(key):
        start = begin(made, environment, key, 2)
        params = made.init(key, one_step(start.seen))
        return transitions(unroll(made, environment, params, start, key, 2)[1])

    with pytest.raises(ValueError, match="unroll with keep_next"):
        jax.eval_shape(kept, jax.random.key(0))
