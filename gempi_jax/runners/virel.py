"""VIREL with networks on unrolls: an iteration as a pure function, in the place of :func:`.control.iterate`.

One iteration acts, makes the E-step's product of the critic as it is, and then steps actor and critic together, as
often as the passes say.  At the first update of an unroll's every unit the step is (19) and (21) as they stand.  Where
the paper has T of pi_omega, T here has pi_theta, which acted, and of which (14) is the optimum.

A run is a :class:`~.controlparts.Control` whose method is :func:`gempi_jax.methods.virel.virel` and whose agent is an
:class:`~gempi_jax.rl.action_values.ActionValueAgent`.
"""

import jax
import jax.numpy as jnp

from gempi_jax.contracts import Counts, Metrics
from gempi_jax.methods.virel import StateEvaluation, StateSamples, VirelState
from gempi_jax.models import ActionValueHead
from gempi_jax.numerics.checks import require
from gempi_jax.rl.action_values import ActionValueAgent
from gempi_jax.rl.env import Discrete
from gempi_jax.rl.unroll import Unroll
from gempi_jax.runners.control import finish, initial_state, learn_key, unroll_of
from gempi_jax.runners.controlparts import Control
from gempi_jax.training.learn import learn
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import World
from gempi_jax.types import Array, Params


def check_virel(control: Control) -> None:
    """Raises ValueError where a control run is none of VIREL's."""
    agent, actions = control.agent, control.environment.actions
    require(
        isinstance(actions, Discrete),
        f"VIREL: {control.environment.name} has {actions}, and (14) is a sum over actions; choose an environment with "
        "discrete ones.",
    )
    require(
        isinstance(agent, ActionValueAgent) and isinstance(agent.value_head, ActionValueHead),
        f"VIREL: the agent is a {type(agent).__name__} with a {type(agent.value_head).__name__}; give an "
        "ActionValueAgent with an ActionValueHead, since the actor reads Q of every action.",
    )
    require(
        agent.value_head.num_actions == actions.n,
        f"VIREL: the ActionValueHead has {agent.value_head.num_actions} actions, and {control.environment.name} has "
        f"{actions}; give {actions.n}.",
    )
    held = jax.eval_shape(control.method.init_state, jax.eval_shape(lambda: jax.random.key(0)))
    require(isinstance(held, VirelState), "VIREL: the method is another one; give methods.virel.virel(...).")
    require(
        control.old_period == 1,
        f"VIREL: old_period is {control.old_period}, and the policy that acts is the one that learns; set it to 1.",
    )


def initial_virel_state(control: Control, key: Array) -> TrainState:
    """A run's first state; raises ValueError where its parts do not fit each other."""
    check_virel(control)
    return initial_state(control, key)


def iterate_virel(control: Control, state: TrainState) -> tuple[TrainState, Metrics]:
    """pi_theta acts for T steps in B environments, then actor and critic learn from what it met.

    Args:
      control: what the run is made of.
      state: of :func:`initial_virel_state`, or after an iteration.

    Returns:
      The state after it, whose ``method`` is the temperature and E[Q] of this iteration, and metrics.
    """
    actors, steps, episodes = unroll_of(control, state, state.world)
    samples = make_state_samples(control, state.params, steps)
    state, metrics = learn(
        control.method,
        _world(control.agent),
        control.optimizers,
        state._replace(world=actors),
        steps,
        samples,
        learn_key(state),
        control.passes,
    )
    state, metrics = finish(control, state, steps, metrics)
    return state, metrics | episodes


def make_state_samples(control: Control, params: Params, steps: Unroll) -> StateSamples:
    """What the E-step sees: the critic as it was when the policy acted."""
    action_values = control.agent.action_values(params, steps.seen, steps.memories)
    rewards, discounts, continues, _, next_values = steps.steps(control.method.needs.critic.gamma)
    return StateSamples(
        action_values, steps.policy.log_probs, steps.actions, rewards, discounts, continues, next_values
    )


def _world(agent: ActionValueAgent) -> World:
    def count(steps: Unroll) -> tuple[Array, Array]:
        number = jnp.float32(steps.rewards.size)
        return number, number

    def evaluate(params: Params, snapshots, steps: Unroll, key: Array, counts: Counts) -> StateEvaluation:
        policy, *_ = agent.act(params["policy"], steps.seen, steps.memories.policy)
        values = agent.action_values(params, steps.seen, steps.memories)
        return StateEvaluation(values, policy.log_probs, counts)

    return World(evaluate, count)


__all__ = ["check_virel", "initial_virel_state", "iterate_virel", "make_state_samples"]
