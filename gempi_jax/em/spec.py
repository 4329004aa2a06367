"""The GEMPI tuple as data: G = ({D_j}, {pi_j}, {lambda_j}, T, F, D_M, eps_M), document section 10.

| method | anchors               | temperature | filter    | projection     | scope        |
|--------|-----------------------|-------------|-----------|----------------|--------------|
| SFT    | ()                    | Fixed       | Identity  | Unconstrained  | batch        |
| AWR    | old: beta             | Fixed       | Identity  | Unconstrained  | unnormalized |
| V-MPO  | old: eps_eta          | Dual        | TopK(1/2) | Constraint(KL) | batch        |
| DAR    | ref: alpha, old: beta | Fixed       | Identity  | Unconstrained  | unnormalized |
| RL-EM  | ref: beta             | Fixed       | Identity  | Unconstrained  | group        |

Options are types; a combination that means nothing cannot be built.
"""

import dataclasses

from gempi_jax.em.choices import (
    Anchor,
    Compared,
    Dual,
    Equal,
    Filter,
    Fixed,
    Identity,
    Level,
    Opposed,
    Paired,
    Reduction,
    Scope,
    Score,
    Solved,
    Tilted,
    TopK,
    TwoSets,
    Weighting,
)
from gempi_jax.em.projection import Constraint, Penalty, Unconstrained
from gempi_jax.em.transforms import Given, Transform
from gempi_jax.numerics.checks import positive, require
from gempi_jax.numerics.divergences import KL, FDivergence


@dataclasses.dataclass(frozen=True)
class GempiSpec:
    """The tuple. See the table above for which values are which published methods."""

    anchors: tuple[Anchor, ...] = ()
    temperature: Fixed | Dual | Solved = dataclasses.field(default_factory=Fixed)
    filter: Filter = dataclasses.field(default_factory=Identity)
    projection: Unconstrained | Penalty | Constraint = dataclasses.field(default_factory=Unconstrained)
    scope: Scope = Scope.BATCH
    weight_clip: float | None = None
    reduction: Reduction = Reduction.SUM
    transform: Transform = dataclasses.field(default_factory=Given)
    weighting: Weighting = dataclasses.field(default_factory=Tilted)
    level: Level = Level.SEQUENCE

    def __post_init__(self):
        self._check_types()
        named = [(anchor.policy, anchor.divergence) for anchor in self.anchors]
        repeated = sorted({policy for policy, divergence in named if named.count((policy, divergence)) > 1})
        require(
            not repeated,
            f"anchors name {repeated} more than once with one divergence: two prices on it are one price, their sum.",
        )
        self._check_temperature()
        self._check_weighting()
        if self.weight_clip is not None:
            require(
                self.scope is Scope.UNNORMALIZED,
                f"weight_clip={self.weight_clip} with {self.scope}: clipping acts on exp(l); normalised weights are at "
                "most 1. Use Scope.UNNORMALIZED or drop the clip.",
            )
            require(
                isinstance(self.weighting, Tilted),
                f"weight_clip={self.weight_clip} with {self.weighting}: clipping acts on exp(l). Use Tilted().",
            )
            positive(self.weight_clip, "weight_clip", "the largest weight")
        if not self.anchors and isinstance(self.weighting, Tilted):
            require(
                not isinstance(self.filter, TopK) or self.filter.score is Score.ADVANTAGE,
                "TopK by Score.LOG_WEIGHT without anchors: l is 0 everywhere. Use Score.ADVANTAGE.",
            )
            require(
                self.scope is not Scope.UNNORMALIZED,
                "Scope.UNNORMALIZED without anchors: exp(l) is 1 everywhere. Use Scope.BATCH, whose weights are 1/N.",
            )

    def _check_types(self) -> None:
        options = {
            "temperature": Fixed | Dual | Solved,
            "filter": Filter,
            "projection": Unconstrained | Penalty | Constraint,
            "scope": Scope,
            "reduction": Reduction,
            "transform": Transform,
            "weighting": Weighting,
            "level": Level,
        }
        require(
            isinstance(self.anchors, tuple) and all(isinstance(anchor, Anchor) for anchor in self.anchors),
            f"anchors are {self.anchors!r}: give a tuple of Anchor, (Anchor(...),) for a single one.",
        )
        for name, kind in options.items():
            value = getattr(self, name)
            require(isinstance(value, kind), f"{name} is {value!r}: give an instance of {kind}.")

    def _check_weighting(self) -> None:
        if isinstance(self.weighting, Tilted):
            self._check_counting()
            return
        kind = type(self.weighting).__name__
        if isinstance(self.weighting, Opposed):
            require(
                bool(self.anchors) and isinstance(self.temperature, Fixed) and self.closed_form,
                f"Opposed() with anchors {list(self.policies)} and {type(self.temperature).__name__}(): it has two "
                "targets (23), for A and for -A. Give KL anchors with coefficients, and Fixed().",
            )
        else:
            require(
                not self.anchors and isinstance(self.temperature, Fixed),
                f"{kind}() with anchors {list(self.policies)}: its weights come from advantages alone. Use Tilted(), "
                "or regularise in the M-step, by Penalty(...) or Constraint(...).",
            )
        require(
            not isinstance(self.weighting, TwoSets | Opposed) or self.scope is not Scope.UNNORMALIZED,
            f"{kind}() with {self.scope}: its sets weigh 1 over their scope. Use Scope.BATCH or Scope.GROUP.",
        )
        require(
            isinstance(self.filter, Identity),
            f"{kind}() with {self.filter}: it weighs samples on both sides of the baseline. Use Identity().",
        )
        require(
            not self.compares or (self.scope is Scope.GROUP and self.level is Level.SEQUENCE),
            f"{kind}() with {self.scope} and {self.level}: whole samples of a prompt are compared with each other. Use "
            "Scope.GROUP and Level.SEQUENCE.",
        )

    def _check_counting(self) -> None:
        require(
            not self.counts_samples or (bool(self.anchors) and self.scope is not Scope.UNNORMALIZED),
            f"Tilted(counting=True) with anchors {list(self.policies)} and {self.scope}: anchors weigh what is "
            "there. Give anchors, and Scope.BATCH or Scope.GROUP.",
        )

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
    def weighs_rewards(self) -> bool:
        """Whether weights depend on the advantages; those of demonstrations alone do not."""
        plain = isinstance(self.filter, Identity) and isinstance(self.weighting, Tilted)
        return bool(self.anchors) or not plain

    @property
    def by_reference(self) -> bool:
        """Whether samples are compared with reference rewards."""
        return isinstance(self.weighting, Equal) and self.weighting.by_reference

    @property
    def by_group(self) -> bool:
        """Whether samples are compared within their group alone."""
        filtered = isinstance(self.filter, TopK) and self.filter.by_group
        return self.scope is Scope.GROUP or self.transform.by_group or filtered

    @property
    def reads_advantages(self) -> bool:
        """Whether anything reads the world's advantages, rewards less its baseline; else the rewards are read."""
        return not self.transform.from_rewards and not isinstance(self.weighting, Equal)

    @property
    def every_unit(self) -> bool:
        """Whether all units weigh the same, so that none can be left out."""
        return self.scope is Scope.GROUP or not self.weighs_rewards or isinstance(self.weighting, Equal)

    @property
    def compares(self) -> bool:
        """Whether all that it takes of the rewards is how the samples of a group compare."""
        return isinstance(self.weighting, Paired | Compared)

    @property
    def counts_samples(self) -> bool:
        """Whether log b := 0, so that nobody needs to know who wrote the samples."""
        return isinstance(self.weighting, Tilted) and self.weighting.counting

    @property
    def scope_axis(self) -> int | None:
        """The axis of one scope: the last for groups, ``None`` (all) for the batch."""
        return -1 if self.scope is Scope.GROUP else None
