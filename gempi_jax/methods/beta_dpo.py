"""beta-DPO: the batch chooses its own beta, and pairs far from the usual margin are left out; Wu et al. 2024."""

import enum
from typing import NamedTuple

import jax.numpy as jnp

from gempi_jax.contracts import Metric, Samples, Target
from gempi_jax.losses import MarginMoments, initial_moments, published_beta, released_beta
from gempi_jax.methods.base import Method
from gempi_jax.methods.fits import Preference
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.preference import PAIRS
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Duals


class Reading(enum.Enum):
    """Which beta-DPO; :mod:`gempi_jax.losses.dynamic_beta` says where they differ."""

    PUBLISHED = "published"
    RELEASED = "released"


READINGS = {Reading.PUBLISHED: published_beta, Reading.RELEASED: released_beta}


class BetaState(NamedTuple):
    """What moves without a gradient: the moments of margins, and the key of the draws."""

    moments: MarginMoments
    key: Array


def beta_dpo(
    beta: float = 0.1,
    sensitivity: float = 0.6,
    kept_fraction: float = 0.8,
    momentum: float = 0.9,
    *,
    reading: Reading = Reading.RELEASED,
    axis_name: str | tuple[str, ...] | None = None,
) -> Method:
    """DPO at beta_0 [1 + a (mean of the batch's margins - M_0)], on pairs drawn by exp(-(M_i - M_0)^2 / (2 std^2)).

    All statistics are the E-step's: of the margins under pi_t, over its whole batch, fixed for the updates on it.  The
    authors take them from pi_theta in every update, over its own pairs; with one update for each iteration and pi_t
    refreshed in each (``updates_per_epoch = 1``, ``old_period = 1``) that is the same.  Where pi_t stays pi_ref all
    margins are 0: beta stays beta_0, and what is kept is drawn at random.

    Args:
      beta: beta_0 > 0, units of reward per nat [0.1].
      sensitivity: a >= 0 [0.6]; 0, with all pairs kept, is DPO.
      kept_fraction: rho in (0, 1], the share of pairs that count [0.8]; 1 keeps all.
      momentum: in [0, 1), the weight of the past in the moments [0.9].
      reading: as in the paper, or as in the authors' code, whose figures the paper shows.
      axis_name: mapped axes over which the E-step's batch is spread.
    """
    require(sensitivity >= 0, f"sensitivity is {sensitivity}: give at least 0, which is DPO's beta; 0.6 is usual.")
    require(
        0 < kept_fraction <= 1, f"kept_fraction is {kept_fraction}: the share of pairs lies in (0, 1]; 1 keeps all."
    )
    require(0 <= momentum < 1, f"momentum is {momentum}: the weight of the past lies in [0, 1); 0.9 is usual.")
    pairs = from_spec(PAIRS, Preference(beta=beta), axis_name=axis_name)
    needs = pairs.needs._replace(anchors=("ref", "old"))
    options = {"sensitivity": sensitivity, "kept_fraction": kept_fraction, "momentum": momentum, "axis_name": axis_name}

    def e_step(duals: Duals, samples: Samples, state: BetaState) -> Target:
        ref, old = reductions.detach(samples.anchor_log_probs)
        target = pairs.e_step(duals, samples._replace(anchor_log_probs=samples.anchor_log_probs[:1]))
        weights = target.weights
        rho = jnp.where(weights != 0, old - ref, 0.0)
        sides = (jnp.sum(rho, axis=-1, where=side) for side in (weights > 0, weights < 0))
        draw, key = named_key(state.key, "pairs"), named_key(state.key, "next")
        real = jnp.any(weights != 0, axis=-1)
        found = READINGS[reading](*sides, beta, state.moments, key=draw, where=real, **options)
        number = reductions.count(found.kept, axis_name=axis_name).astype(jnp.float32)
        weights = jnp.where(found.kept[:, None], jnp.sign(weights), 0.0) / jnp.maximum(number, 1.0)
        examples = target.examples | {"weights": weights, "betas": jnp.full(len(weights), found.beta)}
        kept = Metric(number, reductions.count(real, axis_name=axis_name).astype(jnp.float32))
        metrics = target.metrics | {"estep/kept_pairs": kept, "estep/margin": Metric.of(found.moments.mean)}
        return target._replace(
            examples=reductions.detach(examples), metrics=metrics, state=BetaState(found.moments, key)
        )

    return pairs._replace(needs=needs, e_step=e_step, init_state=lambda key: BetaState(initial_moments(), key))
