"""Anchors with a fixed coefficient beside anchors with a budget: the dual (25) over the coefficients of the latter."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gempi_jax.em.solver import Landscape, Slope

Prices = Sequence[float | None]
"""lambda_j of each anchor, units of the advantages; ``None`` where a budget is to find it."""


def free_anchors(prices: Prices) -> np.ndarray:
    """Indices of the anchors without a price of their own."""
    return np.array([j for j, price in enumerate(prices) if price is None], np.int32)


def with_prices(dual: Landscape, prices: Prices) -> Landscape:
    """The dual over the anchors without a price, which stays convex where the other coefficients are held."""
    free = free_anchors(prices)
    held = jnp.asarray([0.0 if price is None else price for price in prices], dual.unit.dtype) / dual.unit
    nothing = jnp.zeros_like(held)

    def restricted(slope):
        return Slope(slope.gradient[free], slope.hessian[np.ix_(free, free)])

    def overlap(shares, budgets):
        value, slope = dual.overlap(nothing.at[free].set(shares), nothing.at[free].set(budgets))
        return value, restricted(slope)

    return Landscape(
        lambda x, budgets: restricted(dual.slope(held.at[free].set(x), nothing.at[free].set(budgets))),
        overlap,
        None if dual.part is None else with_prices(dual.part, prices),
        dual.stiffness[free],
        dual.unit,
    )
