"""The critic of a replay: Q, fitted to targets of pi_t that a network of the past estimates.

Policy evaluation in the sense of section 2; its product are the Q that the E-step takes for advantages.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PyTree

from gempi_jax.contracts import Metric, Metrics
from gempi_jax.models import Distribution
from gempi_jax.numerics.backups import Backup, n_step_backup
from gempi_jax.numerics.keys import named_key
from gempi_jax.numerics.masked import variance
from gempi_jax.rl.agent import Agent, Seen
from gempi_jax.rl.env import Continuous, Discrete
from gempi_jax.rl.replay import Transitions
from gempi_jax.training.learn import ONE_UPDATE, Passes, update_order
from gempi_jax.types import Array, Params


class QCritic(NamedTuple):
    """How Q is learnt, all of it fixed.

    Attributes:
      network: (observations [N, ...], actions [N, K(, A)]) -> Q [N, K].
      optimizer: of its parameters.
      gamma: what the next step counts.
      backup: its targets, see :mod:`gempi_jax.numerics.backups`.
      num_samples: K, actions of pi_t that are sampled in a state, for expectations and for the E-step; ``None`` takes
        all actions of a discrete environment, so that both are exact.
      passes: how the fit goes over the states that an iteration draws: its updates and epochs.
      period: the network that makes targets becomes the fitted one every so many iterations.
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    gamma: float = 0.99
    backup: Backup = n_step_backup(1)
    num_samples: int | None = None
    passes: Passes = ONE_UPDATE
    period: int = 1


class Fitted(NamedTuple):
    """What of Q an iteration leaves to the next; a part of ``TrainState.world``.

    Attributes:
      params: of Q.
      target: of the network that makes targets.
      opt_state: of its optimiser.
    """

    params: Params
    target: Params
    opt_state: PyTree


def by_state(seen: Seen) -> Seen:
    """[N, T, ...] -> [N T, 1, ...]: a state is a unit."""
    return jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), seen)


def initial(critic: QCritic, actions: Discrete | Continuous, seen: Seen, key: Array) -> Fitted:
    """Q before it has been fitted.

    Args:
      critic: its settings.
      actions: of the environment.
      seen: of any steps [N, T].
      key: of the parameters.
    """
    observations = by_state(seen).observations[:1, 0]
    dtype = jnp.int32 if isinstance(actions, Discrete) else jnp.float32
    params = critic.network.init(key, observations, jnp.zeros((1, 1, *actions.shape), dtype))["params"]
    return Fitted(params, jax.tree.map(jnp.copy, params), critic.optimizer.init(params))


def draw(critic: QCritic, actions: Discrete | Continuous, policy: Distribution, key: Array) -> Array:
    """[N, K(, A)]: K actions of the policy [N, 1] in each state, or every one that there is, in their order."""
    if critic.num_samples is None:
        every = jnp.arange(actions.n, dtype=jnp.int32)[None]
        return jnp.broadcast_to(every, (len(policy.log_probs), actions.n))
    keys = jax.vmap(lambda index: named_key(key, "action", index))(jnp.arange(critic.num_samples))
    return jnp.swapaxes(jax.vmap(policy.sample)(keys)[:, :, 0], 0, 1)


def expectation(
    critic: QCritic, values: Float[Array, "N K"], policy: Distribution, actions: Array
) -> Float[Array, "N"]:
    """E_pi Q of what :func:`draw` has drawn: exact over all actions, or a mean over samples."""
    if critic.num_samples is None:
        return jnp.sum(jnp.exp(policy.log_prob(actions)) * values, axis=-1)
    return jnp.mean(values, axis=-1)


def targets(
    critic: QCritic,
    target: Params,
    agent: Agent,
    policy: Params,
    actions: Discrete | Continuous,
    steps: Transitions,
    key: Array,
) -> Float[Array, "N T"]:
    """G_t of the critic's backup, for the policy pi_t.

    Args:
      critic: its settings.
      target: the network that makes targets.
      agent: without a memory.
      policy: parameters of pi_t.
      actions: of the environment.
      steps: of a replay.
      key: of the actions that are sampled.
    """

    def q(seen: Seen, chosen: Array) -> Float[Array, "M K"]:
        return critic.network.apply({"params": target}, seen.observations[:, 0], chosen)

    def pi(seen: Seen) -> Distribution:
        return agent.act(policy, seen, agent.initial_memories(len(seen.resets)).policy)[0]

    shape = steps.rewards.shape
    now, following = by_state(steps.seen), by_state(steps.next_seen)
    then = pi(following)
    chosen = draw(critic, actions, then, key)
    next_values = expectation(critic, q(following, chosen), then, chosen).reshape(shape)
    done = steps.actions.reshape(-1, 1, *steps.actions.shape[2:])
    action_values = q(now, done).reshape(shape)
    ratios = jnp.exp(pi(now).log_prob(done).reshape(shape) - steps.log_probs)
    discounts, continues = steps.bootstraps(critic.gamma)
    return critic.backup(steps.rewards, discounts, continues, next_values, action_values, ratios)


def fit(
    critic: QCritic, fitted: Fitted, steps: Transitions, goals: Float[Array, "N T"], key: Array
) -> tuple[Fitted, Metrics]:
    """Q brought nearer to its targets: 1/2 (Q - G)^2, a mean over the states of each update.

    An update whose gradient is not finite is left out.

    Args:
      critic: its settings.
      fitted: Q so far; the network that makes targets stays.
      steps: whose actions were taken.
      goals: of :func:`targets`.
      key: of the order of the states.

    Returns:
      Q, and ``value/*``.
    """
    states = by_state(steps.seen).observations[:, 0]
    done = steps.actions.reshape(-1, 1, *steps.actions.shape[2:])
    goals = goals.reshape(-1)

    def q(params: Params, units: Array) -> Float[Array, "M"]:
        return critic.network.apply({"params": params}, states[units], done[units])[:, 0]

    def update(fitted: Fitted, units: Array):
        def loss(params):
            return 0.5 * jnp.mean(jnp.square(q(params, units) - goals[units]))

        value, gradient = jax.value_and_grad(loss)(fitted.params)
        updates, opt_state = critic.optimizer.update(gradient, fitted.opt_state, fitted.params)
        moved = fitted._replace(params=optax.apply_updates(fitted.params, updates), opt_state=opt_state)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, fitted), (value, finite)

    before, total = variance(goals - q(fitted.params, jnp.arange(len(goals)))), variance(goals)
    explained = jnp.where(total > 0, 1.0 - before / jnp.where(total > 0, total, 1.0), 0.0)
    fitted, (losses, finite) = jax.lax.scan(update, fitted, update_order(key, jnp.arange(len(goals)), critic.passes))
    metrics = {
        "value/loss": Metric.of(jnp.mean(losses)),
        "value/target": Metric.of(jnp.mean(goals)),
        "value/explained_variance": Metric.of(explained),
        "value/skipped_fraction": Metric.of(1.0 - jnp.mean(finite.astype(jnp.float32))),
    }
    return fitted, metrics


def refresh(critic: QCritic, fitted: Fitted, step: Array) -> Fitted:
    """The network that makes targets becomes the fitted one after every ``period``-th iteration.

    Args:
      critic: its settings.
      fitted: Q.
      step: iterations that are completed.
    """
    due = step % critic.period == 0
    return fitted._replace(target=jax.tree.map(lambda new, old: jnp.where(due, new, old), fitted.params, fitted.target))


__all__ = ["Fitted", "QCritic", "by_state", "draw", "expectation", "fit", "initial", "refresh", "targets"]
