"""The projection of the tuple: D_M with its price or its budget, and how D_M is measured per term."""

import dataclasses
from collections.abc import Callable

from gempi_jax.em.averages import PER_TERM, Average
from gempi_jax.numerics.checks import positive, require
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class ExactDivergence:
    """D_M per term, exact over a categorical distribution.

    Attributes:
      function: (log_p [..., V], log_q [..., V]) -> [...], nats, where p is pi_k and q is pi_theta.
    """

    function: Callable[[Array, Array], Array]

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys of ``Evaluation.divergence``."""
        return ("kl",)


@dataclasses.dataclass(frozen=True)
class SampledDivergence:
    """D_M per term, estimated on the sampled term alone (k1, k2, k3).

    Attributes:
      function: (log pi_k(y_t) [...], log pi_theta(y_t) [...]) -> [...], nats.
    """

    function: Callable[[Array, Array], Array]

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys of ``Evaluation.divergence``."""
        return ("kl",)


@dataclasses.dataclass(frozen=True)
class GaussianDivergence:
    """The decoupled KL of diagonal Gaussian policies: mean and covariance, each with its own budget and multiplier.

    Attributes:
      function: (mean_p, scale_p, mean_q, scale_q), [..., A] each -> (mean part [...], covariance part [...]), nats.
    """

    function: Callable[[Array, Array, Array, Array], tuple[Array, Array]]

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys of ``Evaluation.divergence``."""
        return ("mean", "covariance")


SNAPSHOTS = ("old", "ref")
"""The frozen policies that a world keeps: pi_t, and what training started from."""

TokenDivergence = ExactDivergence | SampledDivergence | GaussianDivergence


def _measured(divergence: object, name: str) -> None:
    require(
        isinstance(divergence, TokenDivergence),
        f"{name}.divergence is {divergence!r}: say how it is measured, as in ExactDivergence(numerics.categorical_kl), "
        "SampledDivergence(numerics.k3) or GaussianDivergence(numerics.gaussian_kl).",
    )


def _towards(policy: object, name: str) -> None:
    require(
        policy in SNAPSHOTS,
        f"{name}.towards is {policy!r}: give a snapshot that worlds keep, 'old' or 'ref'.",
    )


@dataclasses.dataclass(frozen=True)
class Unconstrained:
    """gamma = 0 in (26)."""


@dataclasses.dataclass(frozen=True)
class Penalty:
    """gamma * D_M in (26).

    Attributes:
      coefficient: gamma > 0.
      divergence: D_M per term.
      towards: the snapshot that the policy is held near: pi_t (``"old"``) or pi_ref (``"ref"``).
      average: over what D_M is averaged.
    """

    coefficient: float
    divergence: TokenDivergence
    towards: str = "old"
    average: Average = PER_TERM

    def __post_init__(self):
        _measured(self.divergence, "Penalty")
        _towards(self.towards, "Penalty")
        positive(self.coefficient, "Penalty.coefficient", "gamma (use Unconstrained() for gamma = 0)")


def _per_part(value: float | tuple[float, ...], divergence: TokenDivergence) -> dict[str, float]:
    values = value if isinstance(value, tuple) else (value,) * len(divergence.parts)
    return dict(zip(divergence.parts, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Lagrangian:
    """The budget by its price: alpha of the stop-gradient Lagrangian (2), which follows gradient steps.

    Attributes:
      initial: alpha at the start (V-MPO: 5 for discrete actions, 1 for both parts of a Gaussian).
    """

    initial: float | tuple[float, ...] = 5.0


@dataclasses.dataclass(frozen=True)
class LineSearch:
    """The budget by the step's length: what an iteration's updates moved is scaled until D_M is eps_M.

    The direction is the likelihood's and the optimiser's, the length the budget's, as in TRPO (Schulman et al. 2015,
    appendix C), which only shortens.  No price has to be found, and no update evaluates D_M.

    Attributes:
      max_scale: the most by which a step is lengthened; 1 only shortens.  Where a task is solved, advantages are noise,
        and a step that is lengthened to its budget walks away with it: control only shortens.
    """

    max_scale: float = 4.0

    def __post_init__(self):
        require(self.max_scale >= 1, f"LineSearch.max_scale is {self.max_scale}: give at least 1, which only shortens.")


@dataclasses.dataclass(frozen=True)
class Constraint:
    """D_M <= eps_M.

    Attributes:
      budget: eps_M > 0, nats per term; of a Gaussian policy one for each of (mean, covariance).
      divergence: D_M per term.
      enforced: how: by a price in every update's loss, or by the length of the step that all of them make.
      towards: the snapshot that the policy is held near: pi_t (``"old"``) or pi_ref (``"ref"``).
    """

    budget: float | tuple[float, ...]
    divergence: TokenDivergence
    enforced: Lagrangian | LineSearch = Lagrangian()
    towards: str = "old"

    def __post_init__(self):
        _measured(self.divergence, "Constraint")
        _towards(self.towards, "Constraint")
        require(
            isinstance(self.enforced, Lagrangian | LineSearch),
            f"Constraint.enforced is {self.enforced!r}: give Lagrangian(...) or LineSearch(...).",
        )
        require(
            self.by_price or self.towards == "old",
            f"Constraint.towards is {self.towards!r} with LineSearch(): a step starts from pi_t. Use Lagrangian().",
        )
        parts = self.divergence.parts
        initial = (("enforced.initial", self.enforced.initial),) if self.by_price else ()
        for name, value in (("budget", self.budget), *initial):
            require(
                not isinstance(value, tuple) or len(value) == len(parts),
                f"Constraint.{name} is {value}: the divergence has the parts {parts}; give one number or one for each",
            )
            for part, number in _per_part(value, self.divergence).items():
                positive(number, f"Constraint.{name} of {part}", "a budget in nats or a multiplier")

    @property
    def by_price(self) -> bool:
        """Whether updates pay for D_M."""
        return isinstance(self.enforced, Lagrangian)

    @property
    def budgets(self) -> dict[str, float]:
        """eps_M by part of the divergence."""
        return _per_part(self.budget, self.divergence)

    @property
    def initial_multipliers(self) -> dict[str, float]:
        """alpha at the start, by part of the divergence; ``{}`` where there is none."""
        return _per_part(self.enforced.initial, self.divergence) if self.by_price else {}


Projection = Unconstrained | Penalty | Constraint
"""The M-step's part of the tuple: D_M with nothing, a price, or a budget."""


def priced_parts(projection: Projection) -> tuple[str, ...]:
    """The parts of D_M that every update evaluates and pays for."""
    if isinstance(projection, Unconstrained) or (isinstance(projection, Constraint) and not projection.by_price):
        return ()
    return projection.divergence.parts
