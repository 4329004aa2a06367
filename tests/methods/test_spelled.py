"""``gempi``, the tuple spelled out as a config writes it, is each row of the table that fits by weighted likelihood."""

import pytest

from gempi_jax import em, methods
from gempi_jax.em import GempiSpec
from gempi_jax.runners.build import method_from_settings
from gempi_jax.runners.options import default_arguments
from gempi_jax.runners.settings import PhaseSettings

NONE = {"coefficient_old": 0.0}
SOLVED = {"coefficient_old": 0.0, "temperature": "solved"}
CLIPPED = {"scope": "unnormalized", "weight_clip": 20.0}
ROWS = {
    "sft": NONE,
    "map": NONE | {"precision": 1e-3},
    "awr": {"coefficient_old": 0.2} | CLIPPED,
    "vmpo": SOLVED | {"budget_old": 0.3, "top_k_fraction": 0.25, "epsilon_alpha": 0.01},
    "mpo": SOLVED | {"budget_old": 0.1, "scope": "group", "epsilon_alpha": 0.01},
    "dar": {"coefficient_ref": 0.001, "coefficient_old": 0.009} | CLIPPED,
    "at_dar": SOLVED | {"budget_ref": 40.0, "budget_old": 0.3},
    "dar_tr": {"coefficient_ref": 0.002, "coefficient_old": 0.198, "epsilon_alpha": 0.01} | CLIPPED,
    "top_k_dar": {"coefficient_ref": 0.002, "coefficient_old": 0.198, "top_k_fraction": 0.25},
    "rl_em": NONE | {"coefficient_ref": 0.2, "scope": "group"},
    "reinforce": NONE | {"weighting": "signed"},
    "rest_em": NONE | {"threshold": 0.5, "transform": "rewards"},
    "raft": NONE | {"top_k_fraction": 0.01, "top_k_by_group": True, "transform": "group_centred"},
    "max_rl": NONE | {"weighting": "signed", "transform": "ratio_to_mean"},
    "var": NONE | {"coefficient_ref": 0.2, "weighting": "counting", "transform": "rewards"},
    "pmpo": NONE
    | {"weighting": "two_sets_0.5", "transform": "group_rank", "scope": "group", "penalty": 0.5, "towards": "ref"},
    "wd1": {"coefficient_old": 1.0, "weighting": "opposed", "transform": "group_centred"},
}


@pytest.fixture
def specs(monkeypatch):
    """The tuples that are built, in order: equal tuples are equal methods."""
    built, check = [], GempiSpec.__post_init__

    def record(spec):
        check(spec)
        built.append(spec)

    monkeypatch.setattr(GempiSpec, "__post_init__", record)
    return built


@pytest.mark.parametrize("name", ROWS)
def test_it_is_the_named_row_with_its_settings(name, specs):
    named = methods.METHODS[name]()
    written = default_arguments(methods.gempi) | ROWS[name]
    spelled = method_from_settings("rl", PhaseSettings(method="gempi", method_args=written))
    assert specs[0] == specs[1]
    assert named.needs == spelled.needs
    assert named.budgets == spelled.budgets


def test_a_config_writes_numbers_of_a_transform_and_of_a_weighting(specs):
    for arguments in (
        {"transform": "rewards_less_0.5", "weighting": "signed"},
        {"weighting": "two_sets_0.3", "transform": "group_rank"},
    ):
        method_from_settings("rl", PhaseSettings(method="gempi", method_args=NONE | arguments))
    assert specs[0].transform == em.Rewards(0.5)
    assert specs[1].weighting == em.TwoSets(0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.5, "top_k_fraction": 0.5}, "the tuple has one filter"),
        ({"penalty": 0.1, "epsilon_alpha": 0.1}, "a price or a budget of D_M"),
        ({"budget_old": 0.1}, "exactly one of them"),
        ({"weighting": "signed"}, "weights come from advantages alone"),
        ({"coefficient_old": 0.0, "weighting": "opposed"}, "two targets"),
        ({"weighting": "opposed", "scope": "unnormalized"}, "its sets weigh 1 over their scope"),
        ({"weighting": "counting", "scope": "unnormalized"}, "weigh what is there"),
        ({"coefficient_old": 0.0, "weighting": "signed"} | CLIPPED, "clipping acts on"),
        ({"coefficient_old": 0.0, "weighting": "two_sets_1.5"}, r"lies in \[0, 1\]"),
        ({"weighting": "two_stes"}, "two_sets"),
        ({"transform": "rewards_less_nan"}, "finite number"),
        ({"threshold": float("nan")}, "finite number"),
        ({"precision": -1.0}, "at least 0"),
    ],
)
def test_what_means_nothing_cannot_be_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        method_from_settings("rl", PhaseSettings(method="gempi", method_args=arguments))
