"""What a control run is made of, and whether the parts fit each other."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.em import ExactDivergence, GaussianDivergence, SampledDivergence, TokenDivergence
from gempi_jax.methods.base import Features, Method
from gempi_jax.methods.critic import with_entropy
from gempi_jax.models import Categorical, Distribution, TanhGaussian
from gempi_jax.numerics.checks import require
from gempi_jax.rl.acting import first_seen
from gempi_jax.rl.agent import Agent, one_step
from gempi_jax.rl.env import Discrete, Environment
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.training.learn import ONE_UPDATE, Passes
from gempi_jax.training.step import Optimizers
from gempi_jax.types import Array


class Control(NamedTuple):
    """A run's parts, all of them fixed.

    Attributes:
      agent: the networks.
      environment: where it acts; on the host, ``runners.hostcontrol`` iterates.
      method: any that :func:`check_method` lets pass.
      optimizers: of parameters and duals.
      unroll_length: T.
      num_environments: B.
      passes: how the M-step goes over an unroll's B units.
      old_period: T_target: pi_t, which acts, becomes pi_theta every so many iterations.
      entropy: a bonus on the policy's entropy that changes by iteration; ``None`` where the method has what there is.
    """

    agent: Agent
    environment: Environment | HostEnvironment
    method: Method
    optimizers: Optimizers
    unroll_length: int
    num_environments: int
    passes: Passes = ONE_UPDATE
    old_period: int = 1
    entropy: Callable[[Array], Array] | None = None

    def method_at(self, step: Array) -> Method:
        """The method of an iteration, by the number of those before it."""
        return self.method if self.entropy is None else with_entropy(self.method, self.entropy(step))


def check_method(method: Method, agent: Agent) -> None:
    """Raises ValueError where a method asks for what steps in an environment do not have."""
    needs = method.needs
    for asked, why in (
        (needs.critic is None, "it has no critic, and returns need one: wrap it in methods.with_critic"),
        (not needs.rewards, "its weights know no rewards, and what the policy did is no demonstration"),
        (needs.by_group, "it compares samples of one prompt, and a state is met once"),
        (needs.preferences, "it learns from pairs, and a state is met once"),
        (needs.reference_samples > 0, "it asks for what pi_ref wrote to the same prompt"),
        (needs.kl_price > 0, "it takes a KL to pi_ref off the reward; set beta to 0"),
        (needs.prior, "its prior is around where a language model started; set precision to 0"),
    ):
        require(not asked, f"This method does not serve control: {why}.")
    own = needs.critic.features is Features.OWN
    require(
        own == (agent.value_trunk is not None),
        f"The critic's features are {needs.critic.features.value!r}, and the agent has "
        f"{'no ' if agent.value_trunk is None else 'a '}value_trunk; give Features.OWN one, the others none.",
    )
    require(
        own or agent.detached == (needs.critic.features is Features.DETACHED),
        f"The critic's features are {needs.critic.features.value!r}, and Agent.detached is {agent.detached}.",
    )


def check_control(control: Control) -> None:
    """Raises ValueError where the parts of a run do not fit each other; nothing is computed."""
    check_method(control.method, control.agent)
    own = control.method.needs.critic.features is Features.OWN
    require(
        own or control.old_period == 1,
        f"old_period is {control.old_period}, and V reads the features of pi_theta, which pi_t, that acts, no longer "
        "has; give the critic a network of its own, Features.OWN.",
    )
    check_agent(control)


def check_agent(control: Control) -> None:
    """Raises ValueError where the agent does not fit the environment or the unroll; nothing is computed."""
    agent, actions = control.agent, control.environment.actions
    number = getattr(control.environment, "num_envs", control.num_environments)
    require(
        number == control.num_environments,
        f"{control.environment.name} has {number} instances, and num_environments is {control.num_environments}; give "
        "both the same.",
    )
    for name, trunk in (("trunk", agent.trunk), ("value_trunk", agent.value_trunk)):
        written = getattr(getattr(trunk, "core", None), "unroll_length", control.unroll_length)
        require(
            written >= control.unroll_length,
            f"The core of {name} has unroll_length {written}, and an unroll has {control.unroll_length} steps: its "
            "memory would be overwritten before it is learnt from. Give both the same.",
        )
        number = actions.n if isinstance(actions, Discrete) else None
        require(
            trunk is None or not trunk.previous or trunk.num_actions == number,
            f"{name} reads the last action with num_actions={getattr(trunk, 'num_actions', None)}, and "
            f"{control.environment.name} has {actions}; give {number}.",
        )
    chosen, action = policy_shape(control)
    region = control.method.needs.trust_region
    if isinstance(actions, Discrete):
        fits = isinstance(chosen, Categorical) and chosen.log_probs.shape[-1] == actions.n
    else:
        fits = not isinstance(chosen, Categorical) and action.shape == (1, 1, *actions.shape)
    require(
        fits,
        f"{control.environment.name} has {actions}, and the agent's head makes a {type(chosen).__name__} whose action "
        f"is {action.dtype}{list(action.shape[2:])}"
        f"{f' of {chosen.log_probs.shape[-1]}' if isinstance(chosen, Categorical) else ''}; give a CategoricalHead(n) "
        "for discrete, a GaussianHead or TanhGaussianHead of as many entries for continuous actions.",
    )
    if region is not None:
        jax.eval_shape(functools.partial(measure, region.divergence), chosen, chosen, action)


def policy_shape(control: Control) -> tuple[Distribution, jax.ShapeDtypeStruct]:
    """The agent's distribution at one step of one environment, and an action of it; nothing is computed."""
    agent, environment = control.agent, control.environment

    def policy(key):
        seen = one_step(first_seen(environment.actions, jnp.zeros((1, *environment.observation_shape))))
        params = agent.init(key, seen)["policy"]
        chosen = agent.act(params, seen, agent.initial_memories(1).policy)[0]
        return chosen, chosen.sample(key)

    return jax.eval_shape(policy, jax.eval_shape(lambda: jax.random.key(0)))


def measure(
    divergence: TokenDivergence, frozen: Distribution, policy: Distribution, actions: Array
) -> dict[str, Float[Array, "B T"]]:
    """D_M(frozen || policy) at each step by part, nats.

    Raises:
      ValueError: where the divergence is not that of the policy's kind.
    """
    if isinstance(divergence, SampledDivergence):
        return {"kl": divergence.function(frozen.log_prob(actions), policy.log_prob(actions))}
    if isinstance(divergence, ExactDivergence) and isinstance(policy, Categorical):
        return {"kl": divergence.function(frozen.log_probs, policy.log_probs)}
    if isinstance(divergence, GaussianDivergence) and not isinstance(policy, Categorical):
        one, other = (x.base if isinstance(x, TanhGaussian) else x for x in (frozen, policy))
        mean, covariance = divergence.function(one.mean, one.scale, other.mean, other.scale)
        return {"mean": mean, "covariance": covariance}
    kinds = "ExactDivergence" if isinstance(policy, Categorical) else "GaussianDivergence"
    raise ValueError(
        f"The trust region is measured by {type(divergence).__name__}, and the policy is {type(policy).__name__}; give "
        f"{kinds} or SampledDivergence."
    )


__all__ = ["Control", "check_agent", "check_control", "check_method", "measure", "policy_shape"]
