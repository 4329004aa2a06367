"""How a config writes arguments of methods whose values are types or functions."""

import inspect
from collections.abc import Callable
from typing import Any

from gempi_jax.em import (
    Dual,
    ExactDivergence,
    Fixed,
    GaussianDivergence,
    Given,
    GroupCentred,
    GroupRank,
    GroupStandardized,
    Lagrangian,
    LeaveOneOut,
    Level,
    LineSearch,
    Opposed,
    RatioToMean,
    Reduction,
    Rewards,
    SampledDivergence,
    Scope,
    Score,
    Signed,
    Solved,
    Standardized,
    Tilted,
    TokenDivergence,
    Transform,
    TwoSets,
    Weighting,
)
from gempi_jax.methods import Contrast, Features, Reading
from gempi_jax.methods.virel import ElboCritic, ResidualCritic
from gempi_jax.numerics import (
    CHI_SQUARED,
    JENSEN_SHANNON,
    KL,
    REVERSE_KL,
    SQUARED_HELLINGER,
    FDivergence,
    alpha_divergence,
    categorical_chi_squared,
    categorical_jensen_shannon,
    categorical_kl,
    categorical_reverse_kl,
    gaussian_kl,
    k1,
    k2,
    k3,
)

DIVERGENCES: dict[str, FDivergence] = {
    "kl": KL,
    "reverse_kl": REVERSE_KL,
    "chi_squared": CHI_SQUARED,
    "jensen_shannon": JENSEN_SHANNON,
    "squared_hellinger": SQUARED_HELLINGER,
}
"""D_j of (22) by name."""

TRUST_REGIONS: dict[str, TokenDivergence] = {
    "forward_kl": ExactDivergence(categorical_kl),
    "reverse_kl": ExactDivergence(categorical_reverse_kl),
    "jensen_shannon": ExactDivergence(categorical_jensen_shannon),
    "chi_squared": ExactDivergence(categorical_chi_squared),
    "k1": SampledDivergence(k1),
    "k2": SampledDivergence(k2),
    "k3": SampledDivergence(k3),
    "gaussian_kl": GaussianDivergence(gaussian_kl),
}
"""D_M of pi_k and pi_theta by name: exact over the vocabulary, estimated on what was sampled alone, or a Gaussian's."""

TRANSFORMS: dict[str, Transform] = {
    "given": Given(),
    "standardized": Standardized(),
    "rewards": Rewards(),
    "group_centred": GroupCentred(),
    "leave_one_out": LeaveOneOut(),
    "group_standardized": GroupStandardized(),
    "ratio_to_mean": RatioToMean(),
    "group_rank": GroupRank(),
}
"""What becomes of rewards before they are weighed, by name."""

WEIGHTINGS: dict[str, Weighting] = {
    "tilted": Tilted(),
    "counting": Tilted(counting=True),
    "signed": Signed(),
    "two_sets": TwoSets(),
    "opposed": Opposed(),
}
"""How advantages become weights, by name; the others serve fits that a config does not name."""

OPTIONS: dict[type, dict[str, Any]] = {
    FDivergence: DIVERGENCES,
    ExactDivergence: TRUST_REGIONS,
    Fixed: {"fixed": Fixed(), "dual": Dual(), "solved": Solved()},
    Dual: {"dual": Dual(), "solved": Solved()},
    Given: TRANSFORMS,
    Tilted: WEIGHTINGS,
    ResidualCritic: {"residual": ResidualCritic(), "elbo": ElboCritic()},
    Lagrangian: {"lagrangian": Lagrangian(), "line_search": LineSearch()},
    **{
        kind: {member.value: member for member in kind}
        for kind in (Score, Scope, Reduction, Level, Reading, Contrast, Features)
    },
}
"""Types that arguments of methods have, by their annotations, and how a config writes their values."""

_DUAL = (("dual_", Dual, "the temperature at the start as a number, e.g. 'dual_0.5'"),)

FAMILIES: dict[type, tuple[tuple[str, Callable[[float], Any], str], ...]] = {
    FDivergence: (("alpha_", alpha_divergence, "the order as a number, e.g. 'alpha_0.5'"),),
    Fixed: _DUAL,
    Dual: _DUAL,
    Lagrangian: (
        ("lagrangian_", Lagrangian, "the multiplier at the start as a number, e.g. 'lagrangian_20'"),
        ("line_search_", LineSearch, "what a step is lengthened to at most as a number, e.g. 'line_search_1'"),
    ),
    Given: (("rewards_less_", Rewards, "what is taken off the rewards as a number, e.g. 'rewards_less_0.5'"),),
    Tilted: (("two_sets_", TwoSets, "the share of the better set as a number, e.g. 'two_sets_0.7'"),),
}
"""Values with a number in their name: prefix, what makes one of it, and what the number is."""


def default_arguments(factory: Callable) -> dict[str, Any]:
    """The arguments of a method's factory as a config writes them, at their defaults; those that are None stay out."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}
    return {name: _written(value) for name, value in defaults.items() if value is not None}


def _written(value: Any) -> Any:
    """What a config writes for a value."""
    if isinstance(value, bool | int | float | str | tuple):
        return value
    return next(name for table in OPTIONS.values() for name, option in table.items() if option == value)
