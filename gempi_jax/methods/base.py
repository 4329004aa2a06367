"""What every algorithm in this repository is: a tuple of pure functions (compare ``optax.GradientTransformation``)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gempi_jax.contracts import Evaluation, LossOutput, Samples, Target
from gempi_jax.em.projection import TokenDivergence
from gempi_jax.types import Duals


class Method(NamedTuple):
    """An algorithm, as functions that know neither models nor tokens nor environments.

    Attributes:
      snapshots: the frozen policies that the world must keep, by name: ``"ref"`` (the policy that training started
        from), ``"old"`` (pi_t, refreshed every ``T_target`` iterations).
      anchors: the snapshots that ``Samples.anchor_log_probs`` must hold, in order.
      init: makes the duals; ``{}`` when nothing adapts.
      e_step: duals, samples -> target with detached weights.
      m_step: duals, target, evaluation -> loss, differentiable in the evaluation and in the duals.
      trust_region: the D_M that the world must put into ``Evaluation.divergence``, from pi_k = ``"old"``; ``None``
        when the M-step is unconstrained.
      weighs_rewards: whether weights depend on the advantages; those of demonstrations alone do not.
      by_group: whether weights are normalised over the samples of each group, so that all groups weigh the same.
      budgets: eps of each dual that has one, nats, under the dual's name: (eps_1, ..., eps_m) for ``"temperature"``.
        The duals' optimisers step on the gradient relative to it, 1 - D / eps, which knows no unit.
    """

    snapshots: tuple[str, ...]
    anchors: tuple[str, ...]
    init: Callable[[], Duals]
    e_step: Callable[[Duals, Samples], Target]
    m_step: Callable[[Duals, Target, Evaluation], LossOutput]
    trust_region: TokenDivergence | None = None
    weighs_rewards: bool = True
    by_group: bool = False
    budgets: Mapping[str, float | tuple[float, ...]] = MappingProxyType({})
