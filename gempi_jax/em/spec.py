"""The GEMPI tuple as data: G = ({D_j}, {pi_j}, {lambda_j}, T, F, D_M, eps_M), document section 10.

| method | anchors               | temperature | filter      | projection       | scope |
|--------|-----------------------|-------------|-------------|------------------|-------|
| SFT    | ()                    | Fixed       | Identity    | Unconstrained    | batch |
| AWR    | old: beta             | Fixed       | Identity    | Unconstrained    | none  |
| V-MPO  | old: eps_eta          | Dual        | TopK(1/2)   | Constraint(KL)   | batch |
| DAR    | ref: alpha, old: beta | Fixed       | Identity    | Unconstrained    | none  |
| RL-EM  | ref: beta             | Fixed       | Identity    | Unconstrained    | group |

Options are types; a combination that means nothing cannot be built.
"""

import dataclasses
import enum
from collections.abc import Callable

from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class ExactDivergence:
    """D_M per term, exact over a categorical distribution.

    Attributes:
      function: (log_p [..., V], log_q [..., V]) -> [...], nats, where p is pi_k and q is pi_theta.
    """

    function: Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class SampledDivergence:
    """D_M per term, estimated on the sampled term alone (k1, k2, k3).

    Attributes:
      function: (log pi_k(y_t) [...], log pi_theta(y_t) [...]) -> [...], nats.
    """

    function: Callable[[Array, Array], Array]


TokenDivergence = ExactDivergence | SampledDivergence


@dataclasses.dataclass(frozen=True)
class Anchor:
    """One regulariser lambda_j D_j(q || pi_j) of (22), or one constraint D_j(q || pi_j) <= eps_j.

    Attributes:
      policy: which frozen policy: ``"ref"`` or ``"old"``.
      coefficient: lambda_j > 0, in units of the advantage; for ``Fixed`` temperatures.
      budget: eps_j > 0, in nats; for ``Dual`` and ``Solved`` temperatures.
    """

    policy: str
    coefficient: float | None = None
    budget: float | None = None


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Temperatures are the anchors' coefficients."""


@dataclasses.dataclass(frozen=True)
class Dual:
    """Temperatures follow gradient steps on (25), carried between iterations.

    Attributes:
      initial: lambda_j at the start, one number for all anchors (V-MPO: eta = 1).
    """

    initial: float = 1.0


@dataclasses.dataclass(frozen=True)
class Solved:
    """(25) is minimised to tolerance in every E-step."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """No filter."""


class Score(enum.Enum):
    """What top-k sorts by."""

    ADVANTAGE = "advantage"
    LOG_WEIGHT = "log_weight"


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps exactly max(1, floor(fraction * N)) of the N real samples of the whole batch.

    Attributes:
      fraction: rho in (0, 1].
      score: by advantage (V-MPO) or by log-weight l_i, where q*/b is largest.
      skip_flat_groups: leaves out groups (last axis) in which all advantages are equal: they say nothing.
    """

    fraction: float
    score: Score = Score.ADVANTAGE
    skip_flat_groups: bool = False


@dataclasses.dataclass(frozen=True)
class Unconstrained:
    """gamma = 0 in (26)."""


@dataclasses.dataclass(frozen=True)
class Penalty:
    """gamma * D_M in (26).

    Attributes:
      coefficient: gamma > 0.
      divergence: D_M per term.
    """

    coefficient: float
    divergence: TokenDivergence


@dataclasses.dataclass(frozen=True)
class Constraint:
    """D_M <= eps_M by the stop-gradient Lagrangian (2).

    Attributes:
      budget: eps_M > 0, nats per term.
      divergence: D_M per term.
      initial: the multiplier alpha at the start (V-MPO: 5 for discrete actions).
    """

    budget: float
    divergence: TokenDivergence
    initial: float = 5.0


class Scope(enum.Enum):
    """Over which samples weights are normalised."""

    BATCH = "batch"
    GROUP = "group"
    NONE = "none"


class Reduction(enum.Enum):
    """How an example's terms are reduced in (29)."""

    SUM = "sum"
    MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class GempiSpec:
    """The tuple. See the table above for which values are which published methods."""

    anchors: tuple[Anchor, ...] = ()
    temperature: Fixed | Dual | Solved = Fixed()
    filter: Identity | TopK = Identity()
    projection: Unconstrained | Penalty | Constraint = Unconstrained()
    scope: Scope = Scope.BATCH
    weight_clip: float | None = None
    reduction: Reduction = Reduction.SUM
