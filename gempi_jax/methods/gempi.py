"""Any point of the tuple as a method: an E-step, a fit, a trust region."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Float, PyTree

from gempi_jax import em
from gempi_jax.contracts import Evaluation, LossOutput, Samples, Target
from gempi_jax.em import Compared, Dual, GempiSpec, Unconstrained
from gempi_jax.em.m_step import add, check_evaluation, projection_loss
from gempi_jax.em.projection import priced_parts
from gempi_jax.methods.base import Method, Needs, TrustRegion
from gempi_jax.numerics import reductions
from gempi_jax.types import Array, Duals


@runtime_checkable
class Fit(Protocol):
    """How the policy is brought to the E-step's product: a frozen dataclass with these, in ``methods/fits``.

    Attributes:
      policies: the frozen policies whose log-probs it reads, beside the anchors.
      ratio: whether it reads ``Evaluation.old_log_probs``.
      by_group: whether it compares the samples of a group, so that it needs at least two.
      reads_values: whether it reads V of a critic, which ``with_critic`` adds.
    """

    policies: tuple[str, ...]
    ratio: bool
    by_group: bool
    reads_values: bool

    def examples(
        self, samples: Samples, policies: Mapping[str, Float[Array, "*E"]], target: Target
    ) -> dict[str, Array]:
        """What ``loss`` is to read beside the weights, units in axis 0; made of the whole batch."""

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """The additive share of a part of an update."""


def from_spec(spec: GempiSpec, fit: Fit | None = None, *, axis_name: str | tuple[str, ...] | None = None) -> Method:
    """The tuple G of section 10 as pure functions.

    Args:
      spec: the tuple; it was checked when it was built.
      fit: what the M-step fits; ``None`` is the weighted likelihood (29).
      axis_name: mapped axes of ``shard_map`` or ``pmap`` over which the E-step's batch is spread; ``None`` for ``jit``.
    """
    if fit is None and isinstance(spec.weighting, Compared):
        raise ValueError("Compared() without a fit: samples that all weigh the same tell nothing. Give a GroupSoftmax.")
    projection = spec.projection
    extra = () if fit is None else tuple(name for name in fit.policies if name not in spec.policies)

    def init() -> Duals:
        duals = em.initial_multipliers(spec)
        if isinstance(spec.temperature, Dual):
            duals["temperature"] = jnp.full((len(spec.anchors),), spec.temperature.initial, jnp.float32)
        return duals

    def e_step(duals: Duals, samples: Samples, state: PyTree = ()) -> Target:
        number = len(spec.anchors)
        own = samples._replace(anchor_log_probs=samples.anchor_log_probs[:number])
        target = em.e_step(spec, duals, own, axis_name=axis_name)
        if fit is None:
            return target
        policies = dict(zip((*spec.policies, *extra), samples.anchor_log_probs, strict=True))
        return target._replace(
            examples=target.examples | reductions.detach(fit.examples(samples, policies, target)),
            importance=None if fit.by_group else target.importance,
        )

    def loss(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        if fit is None:
            return em.m_step(spec, duals, target, evaluation)
        check_evaluation(projection, target, evaluation)
        fitted = fit.loss(target.examples, evaluation)
        return add(fitted, projection_loss(projection, duals, evaluation))

    search = projection if isinstance(projection, em.Constraint) and not projection.by_price else None
    return Method(_needs(spec, fit, extra), init, e_step, loss, em.dual_budgets(spec), line_search=search)


def _needs(spec: GempiSpec, fit: Fit | None, extra: tuple[str, ...]) -> Needs:
    projection = spec.projection
    region = None
    if not isinstance(projection, Unconstrained):
        at_end = not priced_parts(projection)
        region = TrustRegion(projection.divergence, projection.towards, at_end)
    return Needs(
        anchors=(*spec.policies, *extra),
        weighed=() if spec.counts_samples else spec.policies,
        trust_region=region,
        level=spec.level,
        baseline=spec.reads_advantages or (fit is not None and fit.reads_values),
        rewards=spec.weighs_rewards,
        by_group=spec.by_group or (fit is not None and fit.by_group),
        every_unit=spec.every_unit or (fit is not None and fit.by_group),
        ratio=fit is not None and fit.ratio,
        preferences=spec.compares,
    )
