"""Decision processes small enough to be enumerated: what a policy is worth, and what is best, exactly.

S states, V actions, policies as log pi(a | s) [S, V].  Nothing is sampled: every expectation is a product of matrices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from gempi_jax.losses import expected_values
from gempi_jax.numerics.checks import known_values, require
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array

TOLERANCE = 1e-6
"""Relative to the largest value: a gain that is smaller is rounding, and no better policy."""


class TabularMDP(NamedTuple):
    """A decision process as arrays.

    Attributes:
      transitions: p(s' | s, a); a row that sums to less than 1 ends the episode with what is missing.
      rewards: r(s, a), expected.
      initial: p(s_0).
      discount: gamma in [0, 1).
    """

    transitions: Float[Array, "S V S"]
    rewards: Float[Array, "S V"]
    initial: Float[Array, "S"]
    discount: float = 0.9


def check_mdp(mdp: TabularMDP) -> None:
    """Raises ValueError where the arrays of a process do not fit each other or are no probabilities."""
    states, actions = mdp.rewards.shape
    for name, array, shape in (
        ("transitions", mdp.transitions, (states, actions, states)),
        ("initial", mdp.initial, (states,)),
    ):
        require(
            array.shape == shape,
            f"TabularMDP: {name} has shape {array.shape}, and rewards {mdp.rewards.shape}; give {shape}.",
        )
    require(0.0 <= mdp.discount < 1.0, f"TabularMDP: discount is {mdp.discount}; give one in [0, 1).")
    # Both once, as sums: a table of a thousand states is no message.
    mass = jnp.concatenate([mdp.transitions.sum(-1).ravel(), mdp.initial.sum()[None]])
    least = jnp.minimum(mdp.transitions.min(), mdp.initial.min())
    known_values("TabularMDP", least, "the least probability must be at least 0", lambda x: bool(x >= 0))
    known_values("TabularMDP", mass.max(), "probabilities sum to at most 1", lambda x: bool(x <= 1 + 1e-4))
    known_values("TabularMDP", mdp.initial.sum(), "initial sums to 1", lambda x: bool(abs(x - 1) <= 1e-4))
    known_values("TabularMDP", jnp.abs(mdp.rewards).max(), "rewards must be finite", lambda x: bool(np.isfinite(x)))


def random_mdp(key: Key[Array, ""], num_states: int, num_actions: int, discount: float = 0.9) -> TabularMDP:
    """Transitions uniform on the simplex, rewards uniform in [0, 1), every state as likely to be the first.

    Rewards are not negative: VIREL's critic needs values above 0, see :mod:`gempi_jax.rl.tabular_virel`.
    """
    shape = (num_states, num_actions)
    # Exponential numbers over their sum are uniform on the simplex.
    drawn = jax.random.exponential(named_key(key, "transitions"), (*shape, num_states))
    transitions = drawn / drawn.sum(-1, keepdims=True)
    rewards = jax.random.uniform(named_key(key, "rewards"), shape)
    return TabularMDP(transitions, rewards, jnp.full((num_states,), 1.0 / num_states), discount)


def uniform_policy(mdp: TabularMDP) -> Float[Array, "S V"]:
    """log pi of the policy that prefers nothing."""
    return jnp.full(mdp.rewards.shape, -jnp.log(float(mdp.rewards.shape[1])))


def greedy_policy(action_values: Float[Array, "S V"]) -> Float[Array, "S V"]:
    """log pi of the best action in each state, the first of several: 0 there, -inf elsewhere."""
    best = jax.nn.one_hot(jnp.argmax(action_values, axis=-1), action_values.shape[-1], dtype=bool)
    return jnp.where(best, 0.0, -jnp.inf)


def policy_values(
    mdp: TabularMDP, log_policy: Float[Array, "S V"], prices: Float[Array, "S"] | float = 0.0
) -> Float[Array, "S"]:
    """V^pi(s) = E[sum_t gamma^t (r_t - price(s_t))], by solving (I - gamma P_pi) V = r_pi - price.

    Args:
      mdp: the process.
      log_policy: log pi.
      prices: what being in a state costs, such as a KL to a reference; units of reward.
    """
    policy = jnp.exp(log_policy)
    following = jnp.einsum("sa,sat->st", policy, mdp.transitions)
    rewards = expected_values(log_policy, mdp.rewards) - prices
    return jnp.linalg.solve(jnp.eye(len(rewards)) - mdp.discount * following, rewards)


def action_values(mdp: TabularMDP, values: Float[Array, "S"]) -> Float[Array, "S V"]:
    """Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) V(s')."""
    return mdp.rewards + mdp.discount * mdp.transitions @ values


def policy_return(mdp: TabularMDP, values: Float[Array, "*K S"]) -> Float[Array, "*K"]:
    """J = sum_s p(s_0 = s) V(s)."""
    return values @ mdp.initial


def optimal_values(mdp: TabularMDP, max_iterations: int = 1000) -> Float[Array, "S"]:
    """V*(s), by policy iteration: each policy is evaluated exactly, and improved where an action is better.

    Args:
      mdp: the process.
      max_iterations: of which a few are needed; ties that rounding breaks anew do not count as better.
    """

    def gains(policy):
        values = action_values(mdp, policy_values(mdp, jnp.where(policy, 0.0, -jnp.inf)))
        taken = jnp.sum(jnp.where(policy, values, 0.0), axis=-1)
        return values, values.max(-1) > taken + TOLERANCE * (1.0 + jnp.abs(taken).max())

    def improve(carry):
        policy, number, values, better = carry
        best = greedy_policy(values) == 0.0
        policy = jnp.where(better[:, None], best, policy)
        return policy, number + 1, *gains(policy)

    policy = greedy_policy(mdp.rewards) == 0.0
    start = (policy, jnp.zeros((), jnp.int32), *gains(policy))
    policy, *_ = jax.lax.while_loop(lambda carry: carry[3].any() & (carry[1] < max_iterations), improve, start)
    return policy_values(mdp, jnp.where(policy, 0.0, -jnp.inf))


def is_optimal(
    mdp: TabularMDP, log_policy: Float[Array, "S V"], optimal: Float[Array, "S"], tolerance: float = 1e-4
) -> Array:
    """Whether pi's likeliest action is a best one in every state: no optimal value above its Q* by more than rounding.

    Args:
      mdp: the process.
      log_policy: log pi.
      optimal: V*, of :func:`optimal_values`.
      tolerance: relative to the largest value.
    """
    best = action_values(mdp, optimal)
    taken = jnp.take_along_axis(best, jnp.argmax(log_policy, axis=-1)[:, None], axis=-1)[:, 0]
    return jnp.all(taken >= best.max(-1) - tolerance * (1.0 + jnp.abs(best).max()))


__all__ = [
    "TabularMDP",
    "action_values",
    "check_mdp",
    "greedy_policy",
    "is_optimal",
    "optimal_values",
    "policy_return",
    "policy_values",
    "random_mdp",
    "uniform_policy",
]
