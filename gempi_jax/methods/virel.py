"""VIREL as a method, document section 9: the E-step makes (13) and (14) of a critic, the M-step fits actor and critic.

The tuple has no place for a critic of actions, so that the E-step reads :class:`StateSamples` and the M-step a
:class:`StateEvaluation`; the runner of :mod:`gempi_jax.runners.virel` makes both.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from gempi_jax.contracts import Counts, LossOutput, Metric, Target
from gempi_jax.losses import boltzmann_log_policy, expected_values, residual_temperature, virel_actor_loss
from gempi_jax.methods.base import Critic, Features, Method, Needs
from gempi_jax.numerics import categorical_entropy, categorical_kl, reductions
from gempi_jax.numerics.advantages import gae
from gempi_jax.numerics.checks import positive, require
from gempi_jax.types import Array, Duals


class StateSamples(NamedTuple):
    """What the E-step sees of an unroll.

    Attributes:
      action_values: Q_omega(s_t, .), units of return.
      log_policy: log pi_theta(. | s_t) of the policy that acted.
      actions: a_t.
      rewards: r_t.
      discounts: gamma, 0 where the episode terminated.
      continues: whether the next entry is of the same episode.
      next_values: sum_a pi_theta Q_omega of s_{t+1}.
    """

    action_values: Float[Array, "B T V"]
    log_policy: Float[Array, "B T V"]
    actions: Int[Array, "B T"]
    rewards: Float[Array, "B T"]
    discounts: Float[Array, "B T"]
    continues: Bool[Array, "B T"]
    next_values: Float[Array, "B T"]


class StateEvaluation(NamedTuple):
    """Actor and critic as they are fitted.

    Attributes:
      action_values: Q_omega(s_t, .).
      log_policy: log pi_theta(. | s_t).
      counts: of the whole update that this is a part of.
    """

    action_values: Float[Array, "B T V"]
    log_policy: Float[Array, "B T V"]
    counts: Counts


class VirelState(NamedTuple):
    """What holds for all updates on an unroll.

    Attributes:
      temperature: epsilon, (13), units of return.
      value: E[Q] under pi_theta, units of return.
    """

    temperature: Float[Array, ""]
    value: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class ResidualCritic:
    """The practical critic: its descent is of mean |delta|^p, with what Q is regressed on held for all updates.

    That is (21) as epsilon falls, without its factor E[Q], whose sign then does not matter, and without the next
    step's gradient, which is biased where next states are random.

    Attributes:
      lam: T of (13) is the operator of the lambda-return, 0 that of one step.  A return of many random steps is noisy,
        and its noise counts as the critic's error: the temperature stays high.
    """

    lam: float = 0.0

    def residuals(self, learnt: dict[str, Array], taken: Float[Array, "B T"], fitted: Array) -> Float[Array, "B T"]:
        """Targets of the E-step less Q of the actions that were taken."""
        return learnt["targets"] - taken

    def loss(self, temperature: Array, value: Array, scale: float, held: VirelState) -> Float[Array, ""]:
        """epsilon / c."""
        return temperature / scale


@dataclasses.dataclass(frozen=True)
class ElboCritic:
    """The document's critic: its descent is (20) with (21), through both Qs of the error.

    It is a way up only where E[Q] > 0: below, it would raise the error; rewards that are not negative keep it above.
    And one sample of the next state is in both factors of the square: where next states are random, the variance of
    their values counts as error, and is lowered with it.
    """

    @property
    def lam(self) -> float:
        """T is the operator of one step."""
        return 0.0

    def residuals(self, learnt: dict[str, Array], taken: Float[Array, "B T"], fitted: Array) -> Float[Array, "B T"]:
        """T Q - Q; V of what an end or the unroll's end cut off is as it was when the policy acted."""
        then = expected_values(learnt["log_policy"], fitted)
        then = jnp.concatenate([then[:, 1:], learnt["next_values"][:, -1:]], axis=1)
        then = jnp.where(learnt["continues"], then, learnt["next_values"])
        return learnt["rewards"] + learnt["discounts"] * then - taken

    def loss(self, temperature: Array, value: Array, scale: float, held: VirelState) -> Float[Array, ""]:
        """sg[E[Q]] epsilon - sg[epsilon] E[Q], what is held being of the whole unroll."""
        return held.value * temperature - held.temperature * value


def virel(
    scale: float = 1.0,
    power: float = 2.0,
    gamma: float = 0.99,
    critic: ResidualCritic | ElboCritic = ResidualCritic(),
) -> Method:
    """VIREL, section 9: both steps of one iteration from one temperature, the critic's own error.

    Args:
      scale: c of (13), beta of the practical variant: how greedy the actor is at a given error.
      power: p of (13), >= 1.
      gamma: the discount.
      critic: :class:`ResidualCritic`, the practical variant, or :class:`ElboCritic`, (21).

    Raises:
      ValueError: a number out of range.
    """
    positive(scale, "virel: scale", "c of (13)")
    require(power >= 1.0, f"virel: power is {power}; p of (13) is at least 1, 2 is usual.")
    require(0.0 <= gamma <= 1.0, f"virel: gamma is {gamma}: a discount lies in [0, 1].")
    estimator = gae(critic.lam)

    def e_step(duals: Duals, samples: StateSamples, state: PyTree = ()) -> Target:
        values = expected_values(samples.log_policy, samples.action_values)
        steps = (samples.rewards, samples.discounts, samples.continues)
        _, targets = estimator(*steps, values, samples.next_values)
        residuals = targets - _taken(samples.action_values, samples.actions)
        held = VirelState(residual_temperature(residuals, scale, power), jnp.mean(values))
        target = boltzmann_log_policy(samples.action_values, held.temperature)
        examples = samples._asdict() | {"targets": targets}
        metrics = {
            "estep/temperature": Metric.of(held.temperature),
            "estep/target_entropy": Metric.of(categorical_entropy(target).mean()),
            "estep/kl": Metric.of(categorical_kl(samples.log_policy, target).mean()),
            "value/mean": Metric.of(held.value),
            "value/residual": Metric.of(jnp.abs(residuals).mean()),
        }
        examples, metrics, held = reductions.detach((examples, metrics, held))
        return Target(examples, jnp.zeros(()), metrics, state=held)

    def m_step(duals: Duals, target: Target, evaluation: StateEvaluation) -> LossOutput:
        learnt, held = target.examples, target.state
        actor = virel_actor_loss(learnt["action_values"], evaluation.log_policy, held.temperature)
        fitted = evaluation.action_values
        values = expected_values(reductions.detach(evaluation.log_policy), fitted)
        taken = _taken(fitted, learnt["actions"])
        temperature = residual_temperature(critic.residuals(learnt, taken, fitted), scale, power)
        of_critic = critic.loss(temperature, jnp.mean(values), scale, held)
        share = taken.size / jnp.maximum(evaluation.counts.terms, 1.0)
        metrics = {"actor/loss": Metric.of(actor), "value/loss": Metric.of(of_critic)}
        return LossOutput(share * (actor + of_critic), reductions.detach(metrics))

    return Method(
        needs=Needs(critic=Critic(estimator, gamma, Features.OWN)),
        init=dict,
        e_step=e_step,
        m_step=m_step,
        init_state=lambda key: VirelState(jnp.ones(()), jnp.zeros(())),
    )


def _taken(action_values: Float[Array, "B T V"], actions: Int[Array, "B T"]) -> Float[Array, "B T"]:
    return jnp.take_along_axis(action_values, actions[..., None], axis=-1)[..., 0]


__all__ = [
    "ElboCritic",
    "ResidualCritic",
    "StateEvaluation",
    "StateSamples",
    "VirelState",
    "virel",
]
