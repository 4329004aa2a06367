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

from gempi_jax.em.projection import Constraint, Penalty, Unconstrained
from gempi_jax.numerics.checks import positive, require
from gempi_jax.numerics.divergences import KL, FDivergence


@dataclasses.dataclass(frozen=True)
class Anchor:
    """One regulariser lambda_j D_j(q || pi_j) of (22), or one constraint D_j(q || pi_j) <= eps_j.

    Attributes:
      policy: which frozen policy, by the name under which the world scores it: ``"ref"``, ``"old"``.
      coefficient: lambda_j > 0, in units of the advantage, which stays as it is.
      budget: eps_j > 0, in nats; ``Dual`` and ``Solved`` temperatures find the lambda_j that meets it.
      divergence: D_j, as D_j(q || pi_j); KL has the closed form (23), others are solved for by root-finding.
    """

    policy: str
    coefficient: float | None = None
    budget: float | None = None
    divergence: FDivergence = KL

    def __post_init__(self):
        require(
            isinstance(self.divergence, FDivergence),
            f"Anchor({self.policy!r}).divergence is {self.divergence!r}: give an FDivergence such as numerics.KL.",
        )
        require(
            (self.coefficient is None) != (self.budget is None),
            f"Anchor({self.policy!r}) has coefficient={self.coefficient} and budget={self.budget}: give a coefficient "
            "lambda (a fixed price) or a budget epsilon (for Dual, Solved), exactly one of them.",
        )
        if self.coefficient is not None:
            positive(self.coefficient, f"Anchor({self.policy!r}).coefficient", "lambda, a price per nat,")
        if self.budget is not None:
            positive(self.budget, f"Anchor({self.policy!r}).budget", "epsilon, in nats,")


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Temperatures are the anchors' coefficients."""


@dataclasses.dataclass(frozen=True)
class Dual:
    """Temperatures of anchors with a budget follow gradient steps on (25), carried between iterations.

    Attributes:
      initial: lambda_j at the start, one number for all anchors (V-MPO: eta = 1).
    """

    initial: float = 1.0

    def __post_init__(self):
        positive(self.initial, "Dual.initial", "a temperature")


@dataclasses.dataclass(frozen=True)
class Solved:
    """(25) is minimised to tolerance in every E-step, over the lambda_j of the anchors with a budget."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """No filter."""


class Score(enum.Enum):
    """What top-k sorts by."""

    ADVANTAGE = "advantage"
    LOG_WEIGHT = "log_weight"


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps exactly max(1, floor(fraction * N)) of the N samples of the whole batch that tell something.

    Attributes:
      fraction: rho in (0, 1].
      score: by advantage (V-MPO) or by log-weight l_i, where q*/b is largest.
    """

    fraction: float
    score: Score = Score.ADVANTAGE

    def __post_init__(self):
        require(
            0 < self.fraction <= 1,
            f"TopK.fraction is {self.fraction}: the share kept lies in (0, 1]; V-MPO keeps 0.5, Identity() keeps all.",
        )


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
    projection: Unconstrained | Penalty | Constraint = dataclasses.field(default_factory=Unconstrained)
    scope: Scope = Scope.BATCH
    weight_clip: float | None = None
    reduction: Reduction = Reduction.SUM

    def __post_init__(self):
        self._check_types()
        policies = tuple(anchor.policy for anchor in self.anchors)
        repeated = sorted({policy for policy in policies if policies.count(policy) > 1})
        require(
            not repeated,
            f"anchors name {repeated} more than once: two prices on one policy are one price, their sum.",
        )
        self._check_temperature()
        if self.weight_clip is not None:
            require(
                self.scope is Scope.NONE,
                f"weight_clip={self.weight_clip} with {self.scope}: clipping acts on exp(l); normalised weights are at "
                "most 1. Use Scope.NONE or drop the clip.",
            )
            positive(self.weight_clip, "weight_clip", "the largest weight")
        if not self.anchors:
            require(
                not isinstance(self.filter, TopK) or self.filter.score is Score.ADVANTAGE,
                "TopK by Score.LOG_WEIGHT without anchors: l is 0 everywhere. Use Score.ADVANTAGE.",
            )
            require(
                self.scope is not Scope.NONE,
                "Scope.NONE without anchors: exp(l) is 1 everywhere. Use Scope.BATCH, whose weights are 1/N.",
            )

    def _check_types(self) -> None:
        options = {
            "temperature": Fixed | Dual | Solved,
            "filter": Identity | TopK,
            "projection": Unconstrained | Penalty | Constraint,
            "scope": Scope,
            "reduction": Reduction,
        }
        require(
            isinstance(self.anchors, tuple) and all(isinstance(anchor, Anchor) for anchor in self.anchors),
            f"anchors are {self.anchors!r}: give a tuple of Anchor, (Anchor(...),) for a single one.",
        )
        for name, kind in options.items():
            value = getattr(self, name)
            require(isinstance(value, kind), f"{name} is {value!r}: give an instance of {kind}.")

    def _check_temperature(self) -> None:
        kind = type(self.temperature).__name__
        if not self.anchors:
            require(
                isinstance(self.temperature, Fixed),
                f"{kind}() without anchors: there is no temperature to adapt. Use Fixed() (SFT) or add an anchor.",
            )
            return
        budgeted = [anchor.policy for anchor in self.anchors if anchor.budget is not None]
        if isinstance(self.temperature, Fixed):
            require(
                not budgeted,
                f"Fixed() temperature with budgets for {budgeted}: nothing would enforce them. Give coefficients, or "
                "use Dual() or Solved().",
            )
            return
        require(
            bool(budgeted),
            f"{kind}() temperature without budgets for any of {list(self.policies)}: lambda is found from epsilon. "
            "Give budgets, or use Fixed().",
        )
        if isinstance(self.temperature, Solved):
            require(len(self.anchors) <= 8, f"Solved() with {len(self.anchors)} anchors: at most 8 are solved jointly.")

    @property
    def policies(self) -> tuple[str, ...]:
        """The frozen policies that ``Samples.anchor_log_probs`` holds, in order."""
        return tuple(anchor.policy for anchor in self.anchors)

    @property
    def prices(self) -> tuple[float | None, ...]:
        """The fixed lambda_j, ``None`` for the anchors with a budget."""
        return tuple(anchor.coefficient for anchor in self.anchors)

    @property
    def divergences(self) -> tuple[FDivergence, ...]:
        """D_j, in the order of the anchors."""
        return tuple(anchor.divergence for anchor in self.anchors)

    @property
    def closed_form(self) -> bool:
        """Whether the target is (23): every D_j is KL."""
        return all(divergence is KL for divergence in self.divergences)

    @property
    def scope_axis(self) -> int | None:
        """The axis of one scope: the last for groups, ``None`` (all) for the batch."""
        return -1 if self.scope is Scope.GROUP else None
