"""The values that fields of the tuple take; :class:`gempi_jax.em.GempiSpec` puts them together."""

import dataclasses
import enum
import math

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
    """Keeps exactly max(1, floor(fraction * N)) of the N samples that tell something.

    Attributes:
      fraction: rho in (0, 1].
      score: by advantage (V-MPO) or by log-weight l_i, where q*/b is largest.
      by_group: N counts the samples of each group (RAFT), else those of the whole batch (V-MPO).
    """

    fraction: float
    score: Score = Score.ADVANTAGE
    by_group: bool = False

    def __post_init__(self):
        require(
            0 < self.fraction <= 1,
            f"TopK.fraction is {self.fraction}: the share kept lies in (0, 1]; V-MPO keeps 0.5, Identity() keeps all.",
        )


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Keeps the samples whose reward is at least a number (ReST-EM).

    Attributes:
      minimum: units of reward.
    """

    minimum: float

    def __post_init__(self):
        require(
            math.isfinite(self.minimum), f"Threshold.minimum is {self.minimum}: give a finite number, units of reward."
        )


Filter = Identity | TopK | Threshold
"""Which samples carry the target."""


class Scope(enum.Enum):
    """Over which samples weights are normalised."""

    BATCH = "batch"
    GROUP = "group"
    UNNORMALIZED = "unnormalized"


class Reduction(enum.Enum):
    """How an example's terms are reduced in (29)."""

    SUM = "sum"
    MEAN = "mean"


class Level(enum.Enum):
    """What one weight belongs to: a whole completion, or one of its tokens."""

    SEQUENCE = "sequence"
    TOKEN = "token"


@dataclasses.dataclass(frozen=True)
class Tilted:
    """Weights of the target distribution (22): tilted by the advantages, as far as the anchors allow.

    Attributes:
      counting: takes log b := 0, so that the anchors' probabilities weigh the samples themselves: right where these are
        all that there is (VAR, TPO), wrong for samples of a policy, whose frequency says that already.
    """

    counting: bool = False


@dataclasses.dataclass(frozen=True)
class Signed:
    """w_i = A_i / N: the gradient of the expected advantage (REINFORCE), below zero for samples below the baseline."""


@dataclasses.dataclass(frozen=True)
class Equal:
    """w_i = 1/N for each of the N samples but those that tell nothing: for fits that read the rewards themselves.

    Attributes:
      by_reference: samples are compared with the reference rewards of their prompt, not with each other: they tell
        nothing where all rewards of a prompt, its own and those of pi_ref, are equal.
    """

    by_reference: bool = False


@dataclasses.dataclass(frozen=True)
class TwoSets:
    """alpha times the mean over the samples with A > 0, less (1 - alpha) times that over those with A < 0 (PMPO).

    The means are of a scope: of the batch, or of each group and then of the groups that have such samples.

    Attributes:
      alpha: share of the better set, in [0, 1].
    """

    alpha: float = 0.5

    def __post_init__(self):
        require(
            0 <= self.alpha <= 1,
            f"TwoSets.alpha is {self.alpha}: the share of the better set lies in [0, 1]; 1 learns from it alone.",
        )


@dataclasses.dataclass(frozen=True)
class Opposed:
    """The target's weights for A less those for -A: what is better is raised, what is worse is lowered (wd1)."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """w = 1/P for the best and -1/P for the worst sample of each of the P groups whose advantages differ, 0 elsewhere.

    A pair of a chosen and a rejected answer is such a group with K = 2; a group whose samples tie prefers none.
    """


@dataclasses.dataclass(frozen=True)
class Compared:
    """w = 1/P for all samples of each of the P groups whose advantages differ, 0 elsewhere: for fits over groups."""


Weighting = Tilted | Signed | Equal | TwoSets | Opposed | Paired | Compared
"""How advantages become weights."""
