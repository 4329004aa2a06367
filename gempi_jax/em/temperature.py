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
from gempi_jax.em.prices import free_anchors, with_prices
from gempi_jax.em.solver import MAX_ITERATIONS, Landscape, Minimum, Slope, barrier_newton, inverse_small, resume, slack
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values, positive
from gempi_jax.numerics.divergences import KL, FDivergence
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_FLOOR = 1e-6
"""Smallest total temperature, in standard deviations of the advantages: below it the best sample has all the mass."""

_CEILING = 1e5
"""Coefficients, in standard deviations, at which a search gives up: the target hardly sees the advantages any more."""


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


def _certificate(budgets, dual: Landscape) -> tuple[Array, Array]:
    """max over s in the simplex of min_q sum_j s_j (D_j - eps_j): positive exactly when no target meets the budgets.

    It is the smallest common raise that some target meets, min over q of max over j, by exchanging the two.  For KL the
    inner minimum is -log Z-hat(s), a Chernoff distance.
    """
    size = budgets.shape[0]
    shares, passes = jnp.full((size,), 1.0 / size, budgets.dtype), jnp.zeros((), jnp.int32)
    if size > 1:
        scale = jnp.full((size,), jnp.min(budgets))
        found = barrier_newton(lambda s: dual.overlap(s, budgets)[1], shares, scale, on_simplex=True)
        shares = jnp.where(slack(found), 0.0, found.x)
        shares, passes = shares / jnp.sum(shares), found.num_iterations
    # A budget that is out of any float's reach lacks a finite number all the same.
    return jnp.minimum(-dual.overlap(shares, budgets)[0], 1e30), passes + 1


class _Found(NamedTuple):
    """A minimum of the dual, for which budgets, and whether the given ones can be met."""

    minimum: Minimum
    budgets: Array
    feasible: Array
    shortfall: Array
    passes: Array


def _minimum(budgets, dual: Landscape, start=None, **options) -> Minimum:
    if start is None:
        # At a small budget D_j is Var(A) / (2 f_j'' lambda^2), in units of the advantages' standard deviation.
        start = 1.0 / jnp.sqrt(2.0 * budgets * dual.stiffness) / budgets.shape[0]
    options = {"floor": _FLOOR, "ceiling": _CEILING, **options}
    return barrier_newton(lambda x: dual.slope(x, budgets), start, budgets, **options)


def _nested_minimum(budgets, dual: Landscape) -> Minimum:
    """From the minimum of a part of a large batch, itself found so; a part without one leaves it to the doubts."""
    if dual.part is None:
        return _minimum(budgets, dual)
    rough = _nested_minimum(budgets, dual.part)
    start, multipliers = resume(rough, budgets)
    tries = jnp.where(rough.settled, MAX_ITERATIONS, 1)
    return _minimum(budgets, dual, start, multipliers=multipliers, max_iterations=tries)


def _shared(found: Minimum, budgets, dual: Landscape) -> Minimum:
    """Where the search ran into the floor with a budget unmet: the shares s_j of Lambda at which all of them are met.

    As Lambda -> 0 the samples tied for the best have all the mass, in proportion to exp(sum_j s_j r_ij).
    """
    needed = ~found.settled & (jnp.max(found.x) <= _FLOOR)

    def of_shares(shares):
        gradient, hessian = dual.slope(_FLOOR * shares, budgets)
        return Slope(gradient, _FLOOR * hessian)

    start = found.x / jnp.sum(found.x)
    tries = jnp.where(needed, MAX_ITERATIONS, 0)
    of = barrier_newton(of_shares, start, budgets, on_simplex=True, max_iterations=tries)
    chosen = jax.tree.map(lambda new, old: jnp.where(needed, new, old), of._replace(x=_FLOOR * of.x), found)
    return chosen._replace(num_iterations=found.num_iterations + of.num_iterations)


def _search(budgets, dual: Landscape) -> _Found:
    """The minimum of the dual; its own target shows that the budgets can be met, only without it are they doubted."""
    first = _nested_minimum(budgets, dual)

    def keep():
        nothing = jnp.zeros_like(budgets[0])
        return _Found(first, budgets, jnp.ones((), bool), nothing, first.num_iterations)

    def doubt():
        excess, passes = _certificate(budgets, dual)
        feasible = excess <= 1e-6 + 1e-5 * jnp.min(budgets)
        shortfall = jnp.where(feasible, 0.0, excess)
        # At the smallest raise the only target left ignores the advantages; a little more, in units of both, keeps
        # lambda finite.
        margin = 0.1 * jnp.min(budgets) + 0.01 * shortfall
        raised = jnp.where(feasible, budgets, budgets + shortfall + margin)
        second = _shared(_minimum(raised, dual), raised, dual)
        return _Found(second, raised, feasible, shortfall, first.num_iterations + passes + second.num_iterations)

    return jax.lax.cond(first.settled, keep, doubt)


def _solve_with_prices(budgets, prices, dual: Landscape) -> TemperatureSolution:
    """The solution where some anchors have a price: without any budget that binds it is their target."""
    free = free_anchors(prices)
    found, _, feasible, shortfall, passes = _search(budgets[free], with_prices(dual, prices))
    kept = jnp.where(slack(found) | (found.x <= _FLOOR), 0.0, found.x) * dual.unit
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
    found, effective, feasible, shortfall, passes = _search(budgets, dual)
    total = jnp.sum(found.x)
    saturated = total <= _FLOOR * budgets.shape[0]
    kept = jnp.where(slack(found), 0.0, found.x)
    scaled = jnp.where(saturated, found.x * (_FLOOR / total), kept)
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
    size = budgets.shape[0]
    if not 1 <= size <= 8:
        raise ValueError(
            f"{size} budgets: temperatures are solved for 1 to 8 anchors; a method without anchors has none."
        )
    samples_agree("solve_temperature", advantages, anchor_log_ratios, budgets, where)
    prices = (None,) * size if prices is None else tuple(prices)
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
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    budgets = jnp.where(np.array([price is None for price in prices]), budgets, 1.0)
    valid = budgets > 0
    raised = jnp.where(valid, budgets, _SMALLEST)
    if divergences is not None and len(divergences) != size:
        raise ValueError(f"solve_temperature: {len(divergences)} divergences for {size} budgets; give one for each.")
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
