"""The dual of general divergences as the solver of the temperatures sees it: one target (22) per point, and moments.

    L(lambda) = lambda . eps + max_q E_q[A] - sum_j lambda_j D_j(q || pi_j)

is jointly convex, as a maximum of functions affine in lambda.  By the envelope its gradient is eps_j - D_j(q*).  The
stationarity A - sum_j lambda_j f_j'(u_j) = mu, u_j = q / pi_j, moves v = log q by

    G dv = dA + sum_j lambda_j c_j d log pi_j - sum_j f_j' d lambda_j - d mu,    c_j = d f_j' / d log u_j,

with G = sum_j lambda_j c_j, and E_q[dv] = 0 fixes d mu as a mean under rho, proportional to q / G.  Hence the
Hessian is E_q[1/G] Cov_rho(f_j', f_l') over the support of q*, which is smaller than the anchors' where f'(0) is
finite.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.em.diagnostics import scoped
from gempi_jax.em.mixture import weighted_sum
from gempi_jax.em.moments import below_best, is_large, thin, usable
from gempi_jax.em.solver import Landscape, Slope
from gempi_jax.em.target import sampled_divergences, target_log_weights
from gempi_jax.numerics import reductions
from gempi_jax.numerics.divergences import KL, FDivergence
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_STEEPEST = 1e15
"""Bound on slopes and softness whose squares float32 still holds."""


class _Problem(NamedTuple):
    """Usable samples, and the divergences of their anchors."""

    advantages: Float[Array, "*E"]
    log_ratios: Float[Array, "m *E"]
    where: Bool[Array, "*E"]
    divergences: tuple[FDivergence, ...]
    axis: int | None
    axis_name: AxisName

    @property
    def options(self) -> dict:
        """The keywords that say what a scope is."""
        return {"where": self.where, "axis": self.axis, "axis_name": self.axis_name}

    def over_scope(self, x: Array) -> Array:
        """The sum over the scope, kept as an axis of one."""
        within = self.axis_name if self.axis is None else None
        return reductions.sum(jnp.sum(x, axis=self.axis, keepdims=True), axis=(), axis_name=within)


class _Optimum(NamedTuple):
    """The target at a point of the dual, and how it answers to a change of prices.

    Attributes:
      log_weights: v_i = log(q* / b).
      weights: w_i, which sum to 1 over the batch.
      slopes: f_j'(u_ij) minus its mean under rho.
      rises: c_ij = d f_j' / d log u.
      answer: w_i / G_i.
    """

    log_weights: Float[Array, "*E"]
    weights: Float[Array, "*E"]
    slopes: Float[Array, "m *E"]
    rises: Float[Array, "m *E"]
    answer: Float[Array, "*E"]

    def centred(self, x: Array, problem: _Problem) -> Array:
        """x minus its mean under rho."""
        total = problem.over_scope(self.answer)
        return x - problem.over_scope(self.answer * x) / jnp.where(total > 0, total, 1.0)


def _optimum(coefficients: Array, problem: _Problem) -> _Optimum:
    log_weights = target_log_weights(
        problem.advantages, problem.log_ratios, coefficients, problem.divergences, **problem.options
    )
    weights = scoped(log_weights, **problem.options).weights
    inside = weights > 0

    def of_anchors(function):
        rows = []
        for divergence, ratio in zip(problem.divergences, problem.log_ratios, strict=True):
            log_u = jnp.where(inside, log_weights, 0.0) - jnp.where(inside, ratio, 0.0)
            rows.append(jnp.clip(function(divergence, log_u), -_STEEPEST, _STEEPEST))
        return jnp.stack(rows)

    rises = of_anchors(lambda divergence, log_u: divergence.curvature(log_u))
    answer = jnp.where(inside, weights / jnp.maximum(weighted_sum(coefficients, rises), 1.0 / _STEEPEST), 0.0)
    found = _Optimum(log_weights, weights, rises, rises, answer)
    slopes = of_anchors(lambda divergence, log_u: divergence.derivative(log_u))
    return found._replace(slopes=jnp.stack([found.centred(slope, problem) for slope in slopes]))


def _slope(coefficients: Array, budgets: Array, problem: _Problem) -> Slope:
    """eps - D and E_q[1/G] Cov_rho(f_j', f_l'); both means over groups."""
    found = _optimum(coefficients, problem)
    spent = sampled_divergences(found.log_weights, problem.log_ratios, problem.divergences, **problem.options)
    size = len(problem.divergences)
    rows = [
        reductions.sum(found.answer * found.slopes[j] * found.slopes[i], axis_name=problem.axis_name)
        for j in range(size)
        for i in range(size)
    ]
    # Finite where a divergence is not: its budget is then out of reach, and the certificate says by how much.
    return Slope(budgets - jnp.minimum(spent, 1e30), jnp.stack(rows).reshape(size, size))


def _prepare(divergences, advantages, log_ratios, where, axis, axis_name) -> tuple[_Problem, Array]:
    """The problem in units of the advantages' standard deviation, and the unit."""
    mask, support = usable(advantages, log_ratios, where)
    below, _, unit = below_best(advantages, support, axis, axis_name)
    ratios = jnp.where(mask[None], log_ratios, 0.0)
    return _Problem(below / unit, ratios, mask, tuple(divergences), axis, axis_name), unit


def general_landscape(divergences: Sequence[FDivergence], advantages, log_ratios, where, axis, axis_name) -> Landscape:
    """The dual for any mix of divergences."""
    problem, unit = _prepare(divergences, advantages, log_ratios, where, axis, axis_name)
    level = problem._replace(advantages=jnp.zeros_like(problem.advantages))

    def overlap(shares, budgets):
        # Without advantages the target at lambda = s is the one that minimises sum_j s_j D_j.  A share of exactly 0
        # would forget a divergence that is infinite there.
        shares = jnp.maximum(shares, 1e-6)
        slope = _slope(shares, budgets, level)
        return jnp.dot(shares, slope.gradient), slope

    at_one = jnp.zeros((), advantages.dtype)
    stiffness = jnp.stack([divergence.curvature(at_one) for divergence in divergences])

    def of(problem):
        part = None
        if is_large(problem.advantages, axis):
            arrays = (thin(problem.advantages), thin(problem.log_ratios, 1), thin(problem.where))
            part = of(_Problem(*arrays, *problem[3:]))
        return Landscape(lambda x, budgets: _slope(x, budgets, problem), overlap, part, stiffness, unit)

    return of(problem)


def general_change(
    divergences: Sequence[FDivergence], coefficients, advantages, log_ratios, where, axis, axis_name, tangents
) -> Array:
    """How the divergences [m] move with advantages and log-ratios at fixed coefficients."""
    problem, unit = _prepare(divergences, advantages, log_ratios, where, axis, axis_name)
    scaled = coefficients / unit
    found = _optimum(scaled, problem)
    mask, support = usable(advantages, log_ratios, where)
    d_advantages = jnp.where(support, tangents[0], 0.0) / unit
    d_ratios = jnp.where(support[None], tangents[1], 0.0)
    tilt = d_advantages + weighted_sum(scaled, found.rises * d_ratios)
    through_target = found.answer * found.centred(tilt, problem)
    # 1 / k in each scope, 1 / G of it by group.
    live = problem.over_scope(support.astype(jnp.int32)) > 0
    groups = reductions.count(live, axis_name=None if axis is None else axis_name)
    number = problem.over_scope(mask.astype(jnp.int32)) * groups
    share = jnp.where(support, 1.0 / jnp.maximum(number, 1).astype(advantages.dtype), 0.0)
    changes = []
    for j, divergence in enumerate(divergences):
        if divergence is KL:
            of_anchor = -found.weights
        else:
            # d (p f(q / p)) / d log p = p f - q f', with the f' that is 0 at u = 1.
            log_q, log_p = (jnp.where(support, x, 0.0) for x in (found.log_weights, problem.log_ratios[j]))
            at_one = divergence.derivative(jnp.zeros((), advantages.dtype))
            slope = jnp.clip(divergence.derivative(log_q - log_p) - at_one, -_STEEPEST, _STEEPEST)
            of_anchor = share * (divergence.perspective(log_q, log_p) - jnp.exp(log_q) * slope)
        terms = found.slopes[j] * through_target + of_anchor * d_ratios[j]
        changes.append(reductions.sum(jnp.where(support, terms, 0.0), axis_name=axis_name))
    return jnp.stack(changes)
