"""What every algorithm in this repository is: a tuple of pure functions (compare ``optax.GradientTransformation``)."""

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import PyTree

from gempi_jax.contracts import Evaluation, LossOutput, Samples, Target
from gempi_jax.em import Constraint, Level, TokenDivergence
from gempi_jax.types import Array, Duals


class TrustRegion(NamedTuple):
    """D_M that the world is to measure.

    Attributes:
      divergence: of the snapshot and pi_theta, per term.
      towards: the snapshot: ``"old"`` (pi_t) or ``"ref"``.
      at_end: whether it is measured after an iteration's updates alone, for ``Method.line_search``.
    """

    divergence: TokenDivergence
    towards: str = "old"
    at_end: bool = False


class Features(enum.Enum):
    """What the head of a critic reads."""

    DETACHED = "detached"
    """The policy's states, which the critic's loss leaves as they are."""
    SHARED = "shared"
    """The policy's states, which the critic's loss moves, too."""
    OWN = "own"
    """Those of a network of the critic's own, which starts as the policy."""


class Critic(NamedTuple):
    """What a world needs to know of a critic; :func:`gempi_jax.methods.with_critic` makes one.

    Attributes:
      estimator: makes advantages and value targets, see :mod:`gempi_jax.numerics.advantages`.
      gamma: what the next step counts; of a whole completion there is none.
      features: what the value head reads.
    """

    estimator: Callable[..., tuple[Array, Array]]
    gamma: float = 1.0
    features: Features = Features.DETACHED


class Needs(NamedTuple):
    """What the world must provide for a method.

    Attributes:
      anchors: the frozen policies whose log-probs ``Samples.anchor_log_probs`` must hold, in order.
      weighed: the anchors that are weighed against log b of the policy that sampled, which has to be known, then.
      trust_region: D_M of ``Evaluation.divergence``; ``None`` when the M-step is unconstrained.
      level: what an example is.
      baseline: whether advantages start from the world's, rewards less its baseline; else from the rewards.
      rewards: whether weights depend on the rewards; those of demonstrations alone do not.
      by_group: whether samples are compared within their group alone, so that it needs at least two of them.
      every_unit: whether all units count the same, so that none can be left out of the M-step.
      ratio: whether losses read ``Evaluation.old_log_probs``, the ratio to the policy that sampled.
      entropy: whether losses read ``Evaluation.entropy``.
      prior: whether losses read ``Evaluation.prior``, the squared distance from where training started.
      critic: ``None`` without one.
      kl_price: beta of -beta (log b - log pi_ref), which the world adds to the reward of each example.
      keeps_old: whether pi_t is kept though nothing above reads it, since it writes what is sampled.
      preferences: whether it learns from how samples of a prompt compare alone, so that a chosen and a rejected answer
        of each will do.
      reference_samples: completions of each prompt by pi_ref whose rewards ``Samples.reference_rewards`` must hold.
      bounds: whether ``Samples.bounds_costs`` must hold what is outside the bounds of actions.
    """

    anchors: tuple[str, ...] = ()
    weighed: tuple[str, ...] = ()
    trust_region: TrustRegion | None = None
    level: Level = Level.SEQUENCE
    baseline: bool = True
    rewards: bool = True
    by_group: bool = False
    every_unit: bool = False
    ratio: bool = False
    entropy: bool = False
    prior: bool = False
    critic: Critic | None = None
    kl_price: float = 0.0
    keeps_old: bool = False
    preferences: bool = False
    reference_samples: int = 0
    bounds: bool = False

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The frozen policies that the world must keep: ``"ref"`` (from which training started), ``"old"`` (pi_t)."""
        towards = () if self.trust_region is None else (self.trust_region.towards,)
        start = ("ref",) if self.prior or self.kl_price or self.reference_samples else ()
        old = ("old",) if self.keeps_old else ()
        return tuple(dict.fromkeys((*self.anchors, *towards, *start, *old)))


def no_state(key: Array) -> PyTree:
    """The state of a method that has none."""
    return ()


class Method(NamedTuple):
    """An algorithm, as functions that know neither models nor tokens nor environments.

    Attributes:
      needs: what the world must provide.
      init: makes the duals; ``{}`` when nothing adapts.
      e_step: duals, samples, the method's state -> target, detached; the state after it is ``Target.state``.
      m_step: duals, target, evaluation -> loss, differentiable in the evaluation and in the duals.
      budgets: eps of each dual that has one, nats, under the dual's name: (eps_1, ..., eps_m) for ``"temperature"``.
        The duals' optimisers step on the gradient relative to it, 1 - D / eps, which knows no unit.
      kl_stop: the first update whose ``approx_kl``, nats per term, is above this, and those that follow on the batch,
        leave policy and duals as they were; ``None`` never stops.
      line_search: the budget that sets the length of an iteration's step, once its updates are made; ``None`` where
        none does.
      init_state: key -> what moves without a gradient (moving moments, draws), beside the duals in checkpoints.
    """

    needs: Needs
    init: Callable[[], Duals]
    e_step: Callable[..., Target]
    m_step: Callable[[Duals, Target, Evaluation], LossOutput]
    budgets: Mapping[str, float | tuple[float, ...]] = MappingProxyType({})
    init_state: Callable[[Array], PyTree] = no_state
    kl_stop: float | None = None
    line_search: Constraint | None = None


__all__ = [
    "Critic",
    "Evaluation",
    "Features",
    "LossOutput",
    "Method",
    "Needs",
    "Samples",
    "Target",
    "TrustRegion",
    "no_state",
]
