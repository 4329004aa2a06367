"""Episodes by hand, and what is refused before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import Continuous, Discrete, episodic, require_actions

TWO = Discrete(2)


def counter(limit=4, actions=TWO, end=3, begin=0):
    """Counts the actions that are 1, from 0; terminates at `end`; the reward is the count before."""
    return episodic(
        "Counter",
        observation_shape=(1,),
        actions=actions,
        max_episode_steps=limit,
        reset=lambda key: (begin, jnp.zeros(1)),
        transition=lambda key, n, action: (n + action, jnp.full(1, n + action), n, n + action >= end),
    )


def play(environment, actions):
    """Rewards, terminated, truncated, observations and final observations of a run of actions."""

    def step(state, action):
        return environment.step(jax.random.key(1), state, action)

    state, _ = environment.reset(jax.random.key(0))
    now = jax.jit(lambda state, actions: jax.lax.scan(step, state, actions))(state, jnp.asarray(actions))[1]
    return [np.asarray(x).ravel().tolist() for x in (now.reward, *now[2:4], now.observation, now.final_observation)]


def test_a_termination_and_a_truncation_by_hand():
    # 1 1 1: counts 1 2 3, which is the end.  0 1 0 1: counts 0 1 1 2, cut off by the limit of four.
    reward, terminated, truncated, observation, final = play(counter(), [1, 1, 1, 0, 1, 0, 1, 1])
    assert reward == [0, 1, 2, 0, 0, 1, 1, 0]
    assert terminated == [False, False, True, False, False, False, False, False]
    assert truncated == [False, False, False, False, False, False, True, False]
    assert observation == [1, 2, 0, 0, 1, 1, 0, 1]
    assert final == [1, 2, 3, 0, 1, 1, 2, 1]


def test_an_end_at_the_limit_is_a_termination():
    _, terminated, truncated, *_ = play(counter(limit=3), [1, 1, 1])
    assert terminated == [False, False, True]
    assert truncated == [False, False, False]


def test_actions_outside_the_bounds_are_the_nearest_inside():
    environment = counter(actions=Continuous((), -0.5, 0.25), end=9.0, begin=0.0)
    assert play(environment, [2.0, -3.0, 0.125])[-1] == [0.25, -0.25, -0.125]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discrete(0), "n is 0; an environment has at least one action"),
        (lambda: Continuous((2,), (0.0, 0.0, 0.0), 1.0), r"low has 3 numbers for shape \(2,\); give one or 2"),
        (lambda: Continuous((2,), (0.0, 1.0), 1.0), "is not below high"),
        (lambda: Continuous((2,), float("nan"), 1.0), "is not below high"),
        (lambda: counter(limit=0), "Counter: max_episode_steps is 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def odd(reset=lambda key: (0, jnp.zeros(1)), transition=None):
    """An environment that is sound but for what is given."""
    return episodic(
        "Odd",
        observation_shape=(1,),
        actions=Discrete(2),
        max_episode_steps=1,
        reset=reset,
        transition=transition or (lambda key, n, action: (n, jnp.zeros(1), 0.0, False)),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reset": lambda key: jnp.zeros(1)}, r"Odd: reset returns a \w+; return \(world, observation\)"),
        ({"reset": lambda key: (0, jnp.zeros(2))}, r"reset gives an observation of \(2,\), declared is \(1,\)"),
        ({"transition": lambda key, n, action: (n, 0.0)}, r"return \(world, observation, reward, terminated\)"),
        ({"transition": lambda key, n, action: (n, {"x": 0.0}, 0.0, False)}, "transition gives an observation of dict"),
        ({"transition": lambda key, n, action: (n, jnp.zeros(1), jnp.ones(1), False)}, "a reward that is no scalar"),
        ({"transition": lambda key, n, action: ((n, n), jnp.zeros(1), 0.0, False)}, "return alike"),
        # A count that becomes a real number would be cut to a whole one at every step.
        ({"transition": lambda key, n, action: (n + 0.5, jnp.zeros(1), 0.0, False)}, r"is int32\[\] .* begin it as"),
        ({"transition": lambda key, n, action: (jnp.ones(2), jnp.zeros(1), 0.0, False)}, r"float32\[2\] after a step"),
    ],
)
def test_functions_that_do_not_fit_are_refused(given, message):
    assert odd().name == "Odd"
    with pytest.raises(ValueError, match=message):
        odd(**given)


def test_actions_that_are_not_served_are_refused():
    require_actions(counter(), Discrete, "nobody")
    with pytest.raises(
        ValueError, match=r"Counter: its actions are Discrete\(n=2\), and the head serves Continuous ones"
    ):
        require_actions(counter(), Continuous, "the head")
