"""The rotary attributes of a config.json, in both spellings that transformers has written."""

import math
from collections.abc import Callable
from typing import Any

from gempi_jax.llm.hf.fields import Fields
from gempi_jax.models import Dynamic, Learned, Linear, Llama3, LongRope, Rotary, Unscaled, Yarn
from gempi_jax.models.positions import Scaling


def read_rotary(fields: Fields, max_positions: int, theta: float = 10000.0) -> Rotary:
    """``rope_theta`` and ``rope_scaling``, or ``rope_parameters`` with both, as newer files have it.

    Args:
      fields: the whole config.json.
      max_positions: its ``max_position_embeddings``.
      theta: where none is stated.
    """
    theta = fields.number("rope_theta", theta, above=1.0)
    fraction = fields.number("partial_rotary_factor", 1.0, above=0.0)
    original = fields.size("original_max_position_embeddings", None)
    older, newer = fields.nested("rope_scaling"), fields.nested("rope_parameters")
    if older is not None and newer is None:
        _check_long(older, original)
    scaling = older if newer is None else newer
    return read_scaling(scaling, max_positions, theta, fraction, original)


def _check_long(fields: Fields, original: int | None) -> None:
    """In the older spelling, transformers 4 reads longrope's original context from beside the scheme, and 5 from it."""
    values = fields.values
    inside = values.get("original_max_position_embeddings", original)
    if values.get("rope_type", values.get("type")) in ("longrope", "su") and inside != original:
        raise fields.error(
            f"attribute 'original_max_position_embeddings' is {inside!r} here and {original!r} beside it, and versions "
            "of transformers differ in which they read; state it beside rope_scaling, not in it"
        )


def read_scaling(
    fields: Fields | None, max_positions: int, theta: float, fraction: float = 1.0, original: int | None = None
) -> Rotary:
    """One rotary scheme from its own object of attributes; ``None`` for the unscaled one."""
    if fields is None:
        return Rotary(theta, fraction=fraction)
    theta = fields.number("rope_theta", theta, above=1.0)
    fraction = fields.number("partial_rotary_factor", fraction, above=0.0)
    older = fields.take("type", "default")
    fields.values.setdefault("rope_type", older)
    if fields.values["rope_type"] == "su":
        fields.values["rope_type"] = "longrope"
    read = fields.choice("rope_type", _SCALINGS)
    original = fields.size("original_max_position_embeddings", original)
    scaling = read(fields, max_positions, original)
    fields.finish(harmless=())
    return Rotary(theta, scaling, fraction)


def _unscaled(fields: Fields, max_positions: int, original: int | None) -> Unscaled:
    return Unscaled()


def _linear(fields: Fields, max_positions: int, original: int | None) -> Linear:
    return Linear(fields.number("factor", above=0.0))


def _dynamic(fields: Fields, max_positions: int, original: int | None) -> Dynamic:
    # transformers measures against max_position_embeddings even where the original length is stated.
    return Dynamic(fields.number("factor", above=0.0), max_positions)


def _yarn(fields: Fields, max_positions: int, original: int | None) -> Yarn:
    factor = fields.number("factor", above=0.0)
    stated = fields.number("attention_factor", None)
    numerator, denominator = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    if numerator < 0 or denominator < 0:
        raise fields.error(f"'mscale' is {numerator} and 'mscale_all_dim' is {denominator}; neither may be negative")

    def magnitude(weight=1.0):
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if stated is None:
        both = numerator and denominator
        stated = magnitude(numerator) / magnitude(denominator) if both else magnitude()
    fast, slow = fields.number("beta_fast", 32.0, above=0.0), fields.number("beta_slow", 1.0, above=0.0)
    return Yarn(factor, original or max_positions, fast, slow, stated, fields.flag("truncate", True))


def _longrope(fields: Fields, max_positions: int, original: int | None) -> LongRope:
    factor = fields.number("factor", None, above=0.0)
    if original:
        factor = max_positions / original
    trained = original or max_positions
    stated = fields.number("attention_factor", None)
    if trained < 2:
        raise fields.error(f"the original context has {trained} position; it must have at least 2")
    if stated is None:
        stated = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor and factor > 1 else 1.0
    sets = []
    for name in ("short_factor", "long_factor"):
        values = fields.take(name)
        if not isinstance(values, list) or not all(type(v) in (int, float) and 0 < v <= 1e300 for v in values):
            raise fields.error(f"attribute {name!r} must be a list of positive numbers")
        sets.append(tuple(map(float, values)))
    return LongRope(*sets, trained, stated)


def _llama3(fields: Fields, max_positions: int, original: int | None) -> Llama3:
    if original is None:
        raise fields.error("attribute 'original_max_position_embeddings' is missing; add it")
    factor, low = fields.number("factor", above=0.0), fields.number("low_freq_factor", above=0.0)
    return Llama3(factor, low, fields.number("high_freq_factor", above=low), original)


_SCALINGS: dict[str, Callable[[Fields, int, int | None], Scaling]] = {
    "default": _unscaled,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}


def write_rotary(positions: Rotary | Learned) -> dict[str, Any]:
    """The attributes of a scheme, in the older spelling, which old and new versions read."""
    if isinstance(positions, Learned):
        return {}
    scaling = positions.scaling
    values: dict[str, Any] = {"rope_theta": positions.theta}
    if isinstance(scaling, Linear):
        values["rope_scaling"] = {"rope_type": "linear", "factor": scaling.factor}
    elif isinstance(scaling, Dynamic):
        values["rope_scaling"] = {"rope_type": "dynamic", "factor": scaling.factor}
    elif isinstance(scaling, Llama3):
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.trained,
        }
    elif isinstance(scaling, Yarn):
        values["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.fast,
            "beta_slow": scaling.slow,
            "attention_factor": scaling.magnitude,
            "truncate": scaling.whole,
            "original_max_position_embeddings": scaling.trained,
        }
    return values
