"""The tuple refuses what means nothing, and says why and what to do."""

import dataclasses

import pytest

from gempi_jax import em, numerics

FORWARD = em.ExactDivergence(numerics.categorical_kl)
REF, OLD = em.Anchor("ref", 0.5), em.Anchor("old", budget=0.1)

NONSENSE = {
    "coefficient and budget": (lambda: em.Anchor("ref", 1.0, 1.0), "exactly one of them"),
    "neither": (lambda: em.Anchor("ref"), "exactly one of them"),
    "negative coefficient": (lambda: em.Anchor("ref", -1.0), "must be positive and finite"),
    "infinite budget": (lambda: em.Anchor("ref", budget=float("inf")), "must be positive and finite"),
    "zero initial temperature": (lambda: em.Dual(0.0), "must be positive"),
    "fraction": (lambda: em.TopK(1.5), r"lies in \(0, 1\]"),
    "penalty of nothing": (lambda: em.Penalty(0.0, FORWARD), "Unconstrained"),
    "negative trust region": (lambda: em.Constraint(-1.0, FORWARD), "must be positive"),
    "two budgets for one part": (lambda: em.Constraint((0.1, 0.2), FORWARD), "one number or one for each"),
    "one policy twice": (lambda: em.GempiSpec((REF, REF)), "more than once"),
    "fixed with a budget": (lambda: em.GempiSpec((OLD,)), "nothing would enforce them"),
    "dual without a budget": (lambda: em.GempiSpec((REF,), em.Dual()), "without budgets for"),
    "solved without a budget": (lambda: em.GempiSpec((REF,), em.Solved()), r"without budgets for any of \['ref'\]"),
    "dual without anchors": (lambda: em.GempiSpec(temperature=em.Dual()), "no temperature to adapt"),
    "solved without anchors": (lambda: em.GempiSpec(temperature=em.Solved()), "no temperature to adapt"),
    "clip of normalised weights": (lambda: em.GempiSpec((REF,), weight_clip=20.0), "at most 1"),
    "clip of nothing": (lambda: em.GempiSpec((REF,), scope=em.Scope.UNNORMALIZED, weight_clip=0.0), "must be positive"),
    "top-k by a log-weight that is 0": (lambda: em.GempiSpec(filter=em.TopK(0.5, em.Score.LOG_WEIGHT)), "0 everywhere"),
    "a price that float32 loses": (lambda: em.Anchor("ref", 1e-40), "must lie in"),
    "no scope and no anchors": (lambda: em.GempiSpec(scope=em.Scope.UNNORMALIZED), "1 everywhere"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_combinations_that_mean_nothing_cannot_be_built(name):
    build, message = NONSENSE[name]
    with pytest.raises(ValueError, match=message):
        build()


def unchecked(kind, **fields):
    """Builds a setting as users do, without the type checks of the test session."""
    setting = object.__new__(kind)
    for field in dataclasses.fields(kind):
        made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = made if field.default is dataclasses.MISSING else field.default
        object.__setattr__(setting, field.name, fields.get(field.name, value))
    setting.__post_init__()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (em.GempiSpec, {"anchors": REF}, "give a tuple of Anchor"),
        (em.GempiSpec, {"anchors": [REF]}, "give a tuple of Anchor"),
        (em.GempiSpec, {"anchors": (REF,), "temperature": em.Fixed}, "temperature is .*give an instance"),
        (em.GempiSpec, {"anchors": (REF,), "scope": "batch"}, "scope is 'batch'"),
        (em.GempiSpec, {"anchors": (REF,), "filter": 0.5}, "filter is 0.5"),
        (em.Anchor, {"policy": "ref", "coefficient": 1.0, "divergence": "kl"}, r"such as numerics\.KL"),
        (em.Penalty, {"coefficient": 0.1, "divergence": numerics.k3}, "how it is measured"),
        (em.Constraint, {"budget": 0.1, "divergence": numerics.categorical_kl}, "how it is measured"),
    ],
)
def test_values_of_the_wrong_kind_are_named(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        unchecked(kind, **fields)


def test_what_follows_from_a_spec():
    spec = em.GempiSpec((REF, em.Anchor("old", 0.2, divergence=numerics.JENSEN_SHANNON)), scope=em.Scope.GROUP)
    assert spec.policies == ("ref", "old")
    assert spec.divergences == (numerics.KL, numerics.JENSEN_SHANNON)
    assert not spec.closed_form
    assert spec.scope_axis == -1
    both = em.Constraint((0.1, 0.001), em.GaussianDivergence(numerics.gaussian_kl), em.Lagrangian(1.0))
    assert both.budgets == {"mean": 0.1, "covariance": 0.001}
    assert both.initial_multipliers == {"mean": 1.0, "covariance": 1.0}
    assert em.SampledDivergence(numerics.k3).parts == ("kl",)
