"""The search for the coefficients that budgets ask for, over any dual: a minimum, or a certificate that there is none.

It knows the dual as a :class:`gempi_jax.em.solver.Landscape` alone, whatever the divergences are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax.em.solver import MAX_ITERATIONS, Landscape, Minimum, Slope, barrier_newton, resume, slack
from gempi_jax.types import Array

FLOOR = 1e-6
"""Smallest total temperature, in standard deviations of the advantages: below it the best sample has all the mass."""

_CEILING = 1e5
"""Coefficients, in standard deviations, at which a search gives up: the target hardly sees the advantages any more."""


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


class Found(NamedTuple):
    """What a search found.

    Attributes:
      minimum: of the dual.
      budgets: for which ones: the given ones, or raised ones where no target meets those.
      feasible: whether some target meets the given ones.
      shortfall: the smallest common raise of the budgets that makes them feasible, nats.
      passes: over the data.
    """

    minimum: Minimum
    budgets: Array
    feasible: Array
    shortfall: Array
    passes: Array


def _minimum(budgets, dual: Landscape, start=None, **options) -> Minimum:
    if start is None:
        # At a small budget D_j is Var(A) / (2 f_j'' lambda^2), in units of the advantages' standard deviation.
        start = 1.0 / jnp.sqrt(2.0 * budgets * dual.stiffness) / budgets.shape[0]
    options = {"floor": FLOOR, "ceiling": _CEILING, **options}
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
    needed = ~found.settled & (jnp.max(found.x) <= FLOOR)

    def of_shares(shares):
        gradient, hessian = dual.slope(FLOOR * shares, budgets)
        return Slope(gradient, FLOOR * hessian)

    start = found.x / jnp.sum(found.x)
    tries = jnp.where(needed, MAX_ITERATIONS, 0)
    of = barrier_newton(of_shares, start, budgets, on_simplex=True, max_iterations=tries)
    chosen = jax.tree.map(lambda new, old: jnp.where(needed, new, old), of._replace(x=FLOOR * of.x), found)
    return chosen._replace(num_iterations=found.num_iterations + of.num_iterations)


def search(budgets, dual: Landscape) -> Found:
    """The minimum of the dual; its own target shows that the budgets can be met, only without it are they doubted."""
    first = _nested_minimum(budgets, dual)

    def keep():
        nothing = jnp.zeros_like(budgets[0])
        return Found(first, budgets, jnp.ones((), bool), nothing, first.num_iterations)

    def doubt():
        excess, passes = _certificate(budgets, dual)
        feasible = excess <= 1e-6 + 1e-5 * jnp.min(budgets)
        shortfall = jnp.where(feasible, 0.0, excess)
        # At the smallest raise the only target left ignores the advantages; a little more, in units of both, keeps
        # lambda finite.
        margin = 0.1 * jnp.min(budgets) + 0.01 * shortfall
        raised = jnp.where(feasible, budgets, budgets + shortfall + margin)
        second = _shared(_minimum(raised, dual), raised, dual)
        return Found(second, raised, feasible, shortfall, first.num_iterations + passes + second.num_iterations)

    return jax.lax.cond(first.settled, keep, doubt)
