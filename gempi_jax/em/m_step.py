"""The one M-step: weighted maximum likelihood (29) with an optional trust region, (26) and (2)."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Target
from gempi_jax.em.choices import Dual, Reduction
from gempi_jax.em.duals import MINIMUM
from gempi_jax.em.projection import Constraint, Penalty, Projection, priced_parts
from gempi_jax.em.spec import GempiSpec
from gempi_jax.numerics import reductions
from gempi_jax.types import Array, Duals


def multiplier_name(part: str) -> str:
    """The key of a trust region's multiplier among the duals: ``multiplier/<part of the divergence>``."""
    return f"multiplier/{part}"


def weighted_nll(
    token_log_probs: Float[Array, "*E L"],
    weights: Float[Array, "*E"],
    token_mask: Bool[Array, "*E L"],
    *,
    reduction: str | Reduction = "sum",
) -> Float[Array, ""]:
    """-sum_i w_i sum_t log pi_theta(y_t | y_<t, x), (29).

    Args:
      token_log_probs: log pi_theta of each term, nats.
      weights: w_i, detached by whoever made them.
      token_mask: the terms that carry loss: up to and including the end token, no prompt.
      reduction: ``"sum"`` over an example's terms, as in (29), or their ``"mean"``.

    Raises:
      ValueError: where shapes disagree.
    """
    shape = token_log_probs.shape
    if weights.shape != shape[:-1] or token_mask.shape != shape:
        raise ValueError(
            f"weighted_nll: weights {weights.shape} and mask {token_mask.shape} for log-probs {shape}; give one weight "
            f"for each example, {shape[:-1]}, and one flag for each term."
        )
    log_probs = jnp.sum(token_log_probs, axis=-1, where=token_mask)
    if Reduction(reduction) is Reduction.MEAN:
        log_probs = log_probs / jnp.maximum(jnp.sum(token_mask, axis=-1), 1).astype(log_probs.dtype)
    # 0 * -inf would be NaN: an example without weight has no likelihood to lose.
    return -jnp.sum(jnp.where(weights != 0, weights * jnp.where(weights != 0, log_probs, 0.0), 0.0))


def trust_region_loss(
    divergence: Float[Array, ""] | float, multiplier: Float[Array, ""] | float, budget: Float[Array, ""] | float
) -> Float[Array, ""]:
    """alpha (eps - sg[D]) + sg[alpha] D, (2): the parameters see +alpha D, the multiplier sees eps - D.

    Args:
      divergence: D_M(pi_k || pi_theta), nats.
      multiplier: alpha >= 0.
      budget: eps_M, nats.
    """
    divergence, multiplier = jnp.asarray(divergence), jnp.asarray(multiplier)
    return multiplier * (budget - reductions.detach(divergence)) + reductions.detach(multiplier) * divergence


def check_evaluation(projection: Projection, target: Target, evaluation: Evaluation) -> None:
    """Says at trace time which shape of an evaluation is wrong, or which part of the divergence is missing."""
    shape = evaluation.log_probs.shape
    for name, values in target.examples.items():
        if values.shape[0] != shape[0]:
            raise ValueError(f"target.examples[{name!r}] {values.shape} must have the units of {shape} in axis 0.")
    if evaluation.mask.shape != shape:
        raise ValueError(f"mask {evaluation.mask.shape} must have the shape of log_probs {shape}.")
    for part, values in evaluation.divergence.items():
        if values.shape != shape:
            raise ValueError(
                f"divergence {part!r} {values.shape} must have the shape of log_probs {shape}, one per term."
            )
    parts = priced_parts(projection)
    if set(parts) - set(evaluation.divergence):
        raise ValueError(
            f"Evaluation.divergence has {sorted(evaluation.divergence)}, but {type(projection).__name__} needs "
            f"{sorted(parts)}: evaluate D_M(pi_k || pi_theta) as Method.needs.trust_region says."
        )


def _multiplier(duals: Duals, part: str) -> Float[Array, ""]:
    name = multiplier_name(part)
    if name not in duals:
        raise ValueError(f"Constraint reads duals[{name!r}], there is only {sorted(duals)}: start from Method.init().")
    # What is not a positive number becomes the smallest one.
    return jnp.where(duals[name] >= MINIMUM, duals[name], MINIMUM)


def likelihood(spec: GempiSpec, target: Target, evaluation: Evaluation) -> LossOutput:
    """The weighted likelihood (29) of one part of an update."""
    if target.weights.shape != evaluation.log_probs.shape[:-1]:
        raise ValueError(
            f"weights {target.weights.shape} must be the examples of log_probs {evaluation.log_probs.shape} (terms "
            "come last)."
        )
    weights = reductions.detach(target.weights)
    nll = weighted_nll(evaluation.log_probs, weights, evaluation.mask, reduction=spec.reduction)
    share = jnp.asarray(evaluation.counts.share, nll.dtype)
    return LossOutput(nll / share, {"mstep/nll": reductions.detach(Metric(nll / share, jnp.sum(weights) / share))})


def projection_loss(projection: Projection, duals: Duals, evaluation: Evaluation) -> LossOutput:
    """gamma D_M of (26), or the Lagrangian (2), on one part of an update; 0 where no update pays for D_M.

    The divergence is averaged over all terms of the update, not over the selected ones (V-MPO, equation 5); the
    constant alpha eps of (2) enters in proportion to the part's share of the terms.
    """
    loss, metrics = jnp.zeros(()), {}
    terms = jnp.sum(evaluation.mask).astype(jnp.float32)
    total = jnp.maximum(evaluation.counts.terms, 1.0)
    for part in priced_parts(projection):
        summed = jnp.sum(evaluation.divergence[part], where=evaluation.mask)
        suffix = "" if len(projection.divergence.parts) == 1 else f"/{part}"
        metrics[f"mstep/kl{suffix}"] = Metric(summed, terms)
        if isinstance(projection, Penalty):
            multiplier = jnp.float32(projection.coefficient)
            averaged = projection.average(evaluation.divergence[part], evaluation.mask, evaluation.counts)
            loss = loss + multiplier * averaged
        else:
            budget = projection.budgets[part]
            multiplier = _multiplier(duals, part)
            loss = loss + trust_region_loss(summed / total, multiplier, budget * terms / total)
            metrics[f"mstep/kl_over_budget{suffix}"] = Metric(summed / budget, terms)
        metrics[f"mstep/multiplier{suffix}"] = Metric(multiplier * terms, terms)
    return LossOutput(loss, reductions.detach(metrics))


def m_step(spec: GempiSpec, duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
    """The M-step (26) on one part (micro-batch, device) of an update; losses of the parts add up to the update's.

    Args:
      spec: the tuple.
      duals: ``{"multiplier/<part>": alpha}`` for a constraint, else unread.
      target: of the E-step; its examples sliced like the evaluation.
      evaluation: of pi_theta on the same examples.

    Raises:
      ValueError: where shapes or parts of the divergence disagree.
    """
    check_evaluation(spec.projection, target, evaluation)
    return add(likelihood(spec, target, evaluation), projection_loss(spec.projection, duals, evaluation))


def add(*losses: LossOutput) -> LossOutput:
    """The sum of losses, with the metrics of all."""
    metrics: dict[str, Metric] = {}
    for each in losses:
        metrics |= each.metrics
    return LossOutput(sum(each.loss for each in losses), metrics)


def initial_multipliers(spec: GempiSpec) -> Duals:
    """alpha at the start, by part of the divergence; ``{}`` unless the projection is a constraint by price."""
    if not isinstance(spec.projection, Constraint):
        return {}
    return {multiplier_name(part): jnp.float32(value) for part, value in spec.projection.initial_multipliers.items()}


def dual_budgets(spec: GempiSpec) -> dict[str, float | tuple[float, ...]]:
    """eps of each dual that follows a gradient, nats; an anchor with a price has none, and 1 in its place.

    By the names of the duals: ``"temperature"`` (one for each anchor) and ``"multiplier/<part>"``.
    """
    budgets: dict[str, float | tuple[float, ...]] = {}
    if isinstance(spec.projection, Constraint) and spec.projection.by_price:
        budgets |= {multiplier_name(part): value for part, value in spec.projection.budgets.items()}
    if isinstance(spec.temperature, Dual):
        budgets["temperature"] = tuple(anchor.budget or 1.0 for anchor in spec.anchors)
    return budgets
