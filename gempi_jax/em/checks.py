"""Shapes that the arrays of an E-step must share, as errors that say which differ."""

from gempi_jax.numerics.checks import require
from gempi_jax.types import Array


def samples_agree(
    place: str, advantages: Array, per_anchor: Array, vector: Array | None = None, where: Array | None = None
) -> None:
    """Raises ``ValueError`` unless per-anchor arrays are [m, *E], a vector over anchors [m] and a mask [*E]."""
    shape = advantages.shape
    require(
        per_anchor.ndim == advantages.ndim + 1 and per_anchor.shape[1:] == shape,
        f"{place}: arrays over anchors have shape {per_anchor.shape}, advantages {shape}; give [m, *advantages.shape].",
    )
    require(
        vector is None or vector.shape == per_anchor.shape[:1],
        f"{place}: {per_anchor.shape[0]} anchors need one number each, not shape {getattr(vector, 'shape', None)}.",
    )
    require(
        where is None or where.shape == shape,
        f"{place}: the mask has shape {getattr(where, 'shape', None)}, advantages {shape}; give one flag for each.",
    )
