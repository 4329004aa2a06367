"""Any point of the tuple as a method."""

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Samples, Target
from gempi_jax.em import (
    Dual,
    GempiSpec,
    Scope,
    TopK,
    Unconstrained,
    dual_budgets,
    e_step,
    initial_multipliers,
    m_step,
)
from gempi_jax.methods.base import Method
from gempi_jax.types import Duals


def from_spec(spec: GempiSpec, *, axis_name: str | tuple[str, ...] | None = None) -> Method:
    """The tuple G of section 10 as four pure functions.

    Args:
      spec: the tuple; it was checked when it was built.
      axis_name: mapped axes of ``shard_map`` or ``pmap`` over which the E-step's batch is spread; ``None`` for ``jit``.
    """
    projection = spec.projection
    trust_region = None if isinstance(projection, Unconstrained) else projection.divergence
    snapshots = dict.fromkeys(spec.policies + (() if trust_region is None else ("old",)))

    def init() -> Duals:
        duals = initial_multipliers(spec)
        if isinstance(spec.temperature, Dual):
            duals["temperature"] = jnp.full((len(spec.anchors),), spec.temperature.initial, jnp.float32)
        return duals

    def target(duals: Duals, samples: Samples) -> Target:
        return e_step(spec, duals, samples, axis_name=axis_name)

    def loss(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        return m_step(spec, duals, target, evaluation)

    return Method(
        tuple(snapshots),
        spec.policies,
        init,
        target,
        loss,
        trust_region,
        weighs_rewards=bool(spec.anchors) or isinstance(spec.filter, TopK),
        by_group=spec.scope is Scope.GROUP,
        budgets=dual_budgets(spec),
    )
