"""Temperatures that solve (25): budgets in, coefficients out, and a certificate where no target can meet them.

The dual of any mix of divergences is minimised by the same search; all KL has the closed form of :mod:`.moments`, the
rest goes by :mod:`.general`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from gempi_jax.em.checks import samples_agree
from gempi_jax.em.general import general_change, general_landscape
from gempi_jax.em.moments import kl_change, kl_landscape, usable
from gempi_jax.em.prices import Prices, free_anchors, with_prices
from gempi_jax.em.search import FLOOR, search
from gempi_jax.em.solver import Landscape, inverse_small, slack
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values, positive
from gempi_jax.numerics.divergences import KL, FDivergence
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_SMALLEST = 1e-4
"""Nats: what a budget that is not positive is raised to."""


class TemperatureSolution(NamedTuple):
    """The minimiser of the dual.

    Attributes:
      coefficients: lambda_j >= 0, units of the advantages; 0 where the budget is slack.
      kl: D_j-hat(q || pi_j) at the coefficients, which is KL-hat unless other divergences are given, nats.
      feasible: whether some target meets all budgets; none does where no sample is possible under all anchors.
      shortfall: the smallest common raise of all budgets that makes them feasible, nats; 0 when they are, 1e30 when
        nothing does.
      num_iterations: passes over the data, each with one target to solve for where the divergences are not all KL.
      saturated: whether the budgets do not hold Lambda up: the best samples have all the mass, with Lambda at 1e-6
        standard deviations of the advantages; where several are tied, the shares of lambda_j still deal the mass out
        among them so that every budget is met.  A point mass on one of k samples costs (f(k) + (k - 1) f(0)) / k:
        log k (KL), (k - 1) / 2 (chi-squared), 1 - 1 / sqrt(k) (squared Hellinger), less than log 2 (Jensen-Shannon).
        Under reverse KL and alpha <= 0 it is infinite: lambda falls as exp(-eps) or a power of 1 / eps, and a budget
        counts as one that does not bind where lambda would be below that Lambda.
    """

    coefficients: Float[Array, "m"]
    kl: Float[Array, "m"]
    feasible: Bool[Array, ""]
    shortfall: Float[Array, ""]
    num_iterations: Int[Array, ""]
    saturated: Bool[Array, ""]


def _solve_with_prices(budgets, prices, dual: Landscape) -> TemperatureSolution:
    """The solution where some anchors have a price: without any budget that binds it is their target."""
    free = free_anchors(prices)
    found, _, feasible, shortfall, passes = search(budgets[free], with_prices(dual, prices))
    kept = jnp.where(slack(found) | (found.x <= FLOOR), 0.0, found.x) * dual.unit
    held = jnp.asarray([0.0 if price is None else price for price in prices], kept.dtype)
    coefficients = held.at[free].set(kept)
    kl = -dual.slope(coefficients / dual.unit, jnp.zeros_like(held)).gradient
    return TemperatureSolution(coefficients, kl, feasible, shortfall, passes + 1, jnp.zeros_like(feasible))


def _landscape(divergences, *data) -> Landscape:
    return kl_landscape(*data) if divergences is None else general_landscape(divergences, *data)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def _solve(budgets, advantages, log_ratios, mask, axis, axis_name, divergences, prices) -> TemperatureSolution:
    dual = _landscape(divergences, advantages, log_ratios, mask, axis, axis_name)
    if len(free_anchors(prices)) < len(prices):
        return _solve_with_prices(budgets, prices, dual)
    found, effective, feasible, shortfall, passes = search(budgets, dual)
    total = jnp.sum(found.x)
    saturated = total <= FLOOR * budgets.shape[0]
    kept = jnp.where(slack(found), 0.0, found.x)
    scaled = jnp.where(saturated, found.x * (FLOOR / total), kept)
    # On the simplex the search knows its gradient but for a constant.
    moved = jnp.any(scaled != found.x) | saturated
    met, nothing = effective - found.slope.gradient, jnp.zeros_like(budgets)
    kl = jax.lax.cond(moved, lambda: -dual.slope(scaled, nothing).gradient, lambda: met)
    if divergences is not None:
        # A divergence may be infinite without its price, however small: that price then stays.
        needed = jnp.any(kl > 1.01 * effective + 1e-6) & ~saturated
        scaled, kl = jnp.where(needed, found.x, scaled), jnp.where(needed, met, kl)
    return TemperatureSolution(scaled * dual.unit, kl, feasible, shortfall, passes + moved, saturated)


@_solve.defjvp
def _solve_jvp(axis, axis_name, divergences, prices, primals, tangents):
    """Implicit differentiation of eps - D(lambda, data) = 0 over the positive lambda: H d lambda = d D - d eps."""
    budgets, *data = primals
    solution = _solve(budgets, *data, axis, axis_name, divergences, prices)
    coefficients = solution.coefficients
    dual = _landscape(divergences, *data, axis, axis_name)
    change = kl_change if divergences is None else functools.partial(general_change, divergences)
    d_kl = change(coefficients, *data, axis, axis_name, tangents[1:3])
    active = (coefficients > 0) & ~solution.saturated & np.array([price is None for price in prices])
    both = active[:, None] & active[None, :]
    hessian = dual.slope(coefficients / dual.unit, budgets).hessian / dual.unit
    reduced = jnp.where(both, hessian, jnp.eye(budgets.shape[0], dtype=budgets.dtype))
    step = inverse_small(reduced) @ jnp.where(active, d_kl - tangents[0], 0.0)
    moved = jax.tree.map(_no_tangent, solution)
    return solution, moved._replace(coefficients=step, kl=d_kl - jnp.where(both, hessian, 0.0) @ step)


def _no_tangent(x):
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


def solve_temperature(
    budgets: Float[Array, "m"],
    advantages: Float[Array, "*E"],
    anchor_log_ratios: Float[Array, "m *E"],
    *,
    divergences: Sequence[FDivergence] | None = None,
    prices: Sequence[float | None] | None = None,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> TemperatureSolution:
    """Minimises (25) over lambda >= 0: the E-step that gains most while every D_j(q || pi_j) keeps to its budget.

    Args:
      budgets: eps_j > 0, nats.
      advantages: A_i.
      anchor_log_ratios: r_ij = log pi_j(y_i) - log b(y_i), nats; -inf means no mass.
      divergences: D_j, as many as anchors; all KL when ``None``.
      prices: lambda_j of the anchors that have a fixed coefficient in place of a budget, ``None`` for the others;
        (25) is then minimised over the others, and the budgets in their places are unread.
      where: the samples that are real and selected.
      axis: the samples of a group; ``None`` when the batch is one scope. Groups share the coefficients; ``jax.vmap``
        solves each on its own.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.

    Coefficients and divergences are differentiable by the implicit function theorem (raised budgets count as given);
    shortfall and flags are not differentiated.

    Returns:
      The solution; with infeasible budgets that of budgets raised by the shortfall, a hundredth of it and a tenth of
      the smallest budget.
      A budget that turns out at run time not to be positive counts as infeasible and is raised to 1e-4 first.

    Raises:
      ValueError: without anchors, or with more than a few; where shapes or the number of divergences disagree; for a
        budget known before tracing that is not positive.
    """
    prices = (None,) * budgets.shape[0] if prices is None else tuple(prices)
    _check(budgets, advantages, anchor_log_ratios, divergences, prices, where)
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    budgets = jnp.where(np.array([price is None for price in prices]), budgets, 1.0)
    valid = budgets > 0
    raised = jnp.where(valid, budgets, _SMALLEST)
    closed_form = divergences is None or all(divergence is KL for divergence in divergences)
    general = None if closed_form else tuple(divergences)
    solution = _solve(raised, advantages, anchor_log_ratios, mask, axis, axis_name, general, prices)
    lacking = jnp.max(jnp.where(valid, 0.0, raised - jnp.nan_to_num(budgets)))
    real, possible = (reductions.count(x, axis_name=axis_name) for x in usable(advantages, anchor_log_ratios, mask))
    impossible = (real > 0) & (possible == 0)
    return solution._replace(
        feasible=solution.feasible & jnp.all(valid) & ~impossible,
        shortfall=jax.lax.stop_gradient(jnp.where(impossible, 1e30, solution.shortfall + lacking)),
    )


def _check(budgets, advantages, anchor_log_ratios, divergences, prices: Prices, where) -> None:
    """Raises what :func:`solve_temperature` says."""
    size = budgets.shape[0]
    if not 1 <= size <= 8:
        raise ValueError(
            f"{size} budgets: temperatures are solved for 1 to 8 anchors; a method without anchors has none."
        )
    samples_agree("solve_temperature", advantages, anchor_log_ratios, budgets, where)
    if len(prices) != size or all(price is not None for price in prices):
        raise ValueError(
            f"solve_temperature: prices are {prices} for {size} anchors; give one, or None for a budget, for each, and "
            "at least one budget."
        )
    for price in prices:
        if price is not None:
            positive(price, "solve_temperature: a price", "a coefficient")
    free, meaning = free_anchors(prices), "budgets, in nats, must be positive"
    known_values("solve_temperature", budgets, meaning, lambda values: (values[free] > 0).all())
    if divergences is not None and len(divergences) != size:
        raise ValueError(f"solve_temperature: {len(divergences)} divergences for {size} budgets; give one for each.")
