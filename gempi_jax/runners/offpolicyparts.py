"""What a control run with a replay is made of, and whether the parts fit each other."""

from typing import NamedTuple

import numpy as np

from gempi_jax.models import Gaussian
from gempi_jax.numerics.checks import require
from gempi_jax.rl.env import Continuous, Discrete
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.rl.replay import require_no_memory
from gempi_jax.runners.actionvalues import QCritic
from gempi_jax.runners.controlparts import Control, check_agent, check_control, policy_shape


class Replayed(NamedTuple):
    """A run's parts, all of them fixed.

    Attributes:
      control: agent, environment, method, optimisers, the unroll's sizes, and how the M-step goes over what is drawn:
        over unrolls with V, over states with Q.
      capacity: unrolls of each environment that are kept.
      batch: N, unrolls that are drawn in an iteration.
      critic: how Q is learnt, for a method that compares actions of a state; ``None`` where the method has V.
    """

    control: Control
    capacity: int
    batch: int
    critic: QCritic | None = None


def check_replayed(replayed: Replayed) -> None:
    """Raises ValueError where the parts of a run do not fit each other; nothing is computed."""
    control = replayed.control
    require(
        not isinstance(control.environment, HostEnvironment),
        f"{control.environment.name} steps on the host, and a replay is filled on the device; give one in JAX.",
    )
    require_no_memory(control.agent)
    require(replayed.batch >= 1, f"batch is {replayed.batch} unrolls of an iteration; give at least 1.")
    if replayed.critic is None:
        check_control(control)
        require(not control.method.needs.bounds, "This method prices actions of Q, and there is none; give a critic.")
        _divides("control.passes", control.passes, replayed.batch, "unrolls")
        return
    check_agent(control)
    _check_method(replayed)
    states = replayed.batch * control.unroll_length
    _divides("control.passes", control.passes, states, "states")
    _divides("critic.passes", replayed.critic.passes, states, "states")


def _divides(name: str, passes, number: int, what: str) -> None:
    units = passes.units or number
    require(
        units <= number and units % passes.updates_per_epoch == 0,
        f"{name} makes {passes.updates_per_epoch} updates of {units} {what}, of which an iteration draws {number}; "
        "give numbers that divide.",
    )


def _check_method(replayed: Replayed) -> None:
    """Raises ValueError where a method asks for what actions of replayed states do not have."""
    needs, critic = replayed.control.method.needs, replayed.critic
    actions = replayed.control.environment.actions
    for asked, why in (
        (not needs.by_group, "it does not compare actions of one state: use methods.mpo, or leave the critic out"),
        (needs.critic is not None, "it has V, and Q is given: leave one of them out"),
        (needs.ratio, "it reads the ratio to what acted, and its actions are sampled anew"),
        (needs.preferences, "it learns from pairs"),
        (needs.reference_samples > 0, "it asks for what pi_ref wrote"),
        (needs.kl_price > 0, "it takes a KL to pi_ref off the reward; set beta to 0"),
        (needs.prior, "its prior is around where a language model started; set precision to 0"),
    ):
        require(not asked, f"This method does not serve control with Q: {why}.")
    require(critic.period >= 1, f"critic.period is {critic.period} iterations; give at least 1.")
    if critic.num_samples is None:
        require(
            isinstance(actions, Discrete) and "old" in needs.weighed,
            f"critic.num_samples is None, which takes all actions of a state, weighed by pi_t: the environment has "
            f"{actions}, and the method weighs by {list(needs.weighed)}; give the number that is sampled.",
        )
    else:
        require(
            critic.num_samples >= 2,
            f"critic.num_samples is {critic.num_samples}: actions of a state are compared; give at least 2.",
        )
    if needs.bounds:
        _check_bounds(replayed)


def _check_bounds(replayed: Replayed) -> None:
    """Raises ValueError where no action can be outside its bounds."""
    actions, chosen = replayed.control.environment.actions, policy_shape(replayed.control)[0]
    bounded = isinstance(actions, Continuous) and bool(np.isfinite(np.stack(actions.bounds())).any())
    require(
        bounded and isinstance(chosen, Gaussian),
        f"The method prices actions outside their bounds, and of {actions} by a {type(chosen).__name__} there are none;"
        " give mpo no epsilon_bounds.",
    )


__all__ = ["Replayed", "check_replayed"]
