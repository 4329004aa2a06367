"""A budget of the M-step, by a price in every update's loss or by the length of the step that all of them make."""

import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, methods, numerics
from gempi_jax.contracts import Counts, Evaluation, Target
from gempi_jax.methods.gempi import from_spec
from gempi_jax.runners.build import method_from_settings
from gempi_jax.runners.settings import PhaseSettings

FORWARD = em.ExactDivergence(numerics.categorical_kl)
SEARCHED = em.Constraint(0.01, FORWARD, em.LineSearch())


def test_a_line_search_leaves_the_loss_of_updates_alone():
    spec = em.GempiSpec((em.Anchor("old", 1.0),), projection=SEARCHED)
    # Two examples of one term with log-probs -1 and -3: 0.25 * 1 + 0.75 * 3 = 2.5, and no divergence is there to read.
    evaluation = Evaluation(jnp.array([[-1.0], [-3.0]]), jnp.ones((2, 1), bool), {}, Counts(2.0, 2.0))
    target = Target({"weights": jnp.array([0.25, 0.75])}, jnp.zeros(()), {})
    output = em.m_step(spec, {}, target, evaluation)
    np.testing.assert_allclose(output.loss, 2.5, rtol=1e-6)
    assert set(output.metrics) == {"mstep/nll"}
    assert em.initial_multipliers(spec) == em.dual_budgets(spec) == {}


def test_a_method_says_when_its_divergence_is_measured():
    searched, priced = methods.vmpo(), methods.vmpo(enforced=em.Lagrangian(7.0))
    assert searched.needs.snapshots == priced.needs.snapshots == ("old",)
    assert searched.needs.trust_region.at_end
    assert not priced.needs.trust_region.at_end
    assert searched.line_search.budgets == {"kl": 0.01}
    assert priced.line_search is None
    assert searched.init() == {}
    assert priced.init() == {"multiplier/kl": 7.0}
    for others in (from_spec(em.GempiSpec()), methods.awr(), methods.vmpo(penalty=1.0)):
        assert others.line_search is None


@pytest.mark.parametrize("method", ["vmpo", "dar_tr", "rl_em"])
@pytest.mark.parametrize(
    ("name", "enforced"),
    [
        ("line_search", em.LineSearch()),
        ("lagrangian", em.Lagrangian()),
        ("lagrangian_20", em.Lagrangian(20.0)),
    ],
)
def test_configs_name_both(method, name, enforced):
    arguments = {"enforced": name, "epsilon_alpha": 0.5}
    built = method_from_settings("rl", PhaseSettings(method=method, method_args=arguments))
    expected = methods.METHODS[method](enforced=enforced, epsilon_alpha=0.5)
    assert built.init() == expected.init()
    assert built.line_search == expected.line_search
    assert built.budgets == expected.budgets


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: em.LineSearch(0.5), "give at least 1"),
        (lambda: em.LineSearch(float("nan")), "give at least 1"),
        (lambda: em.Constraint(0.1, FORWARD, em.LineSearch(), "ref"), "a step starts from pi_t"),
        (lambda: em.Constraint(0.1, FORWARD, em.Lagrangian((1.0, 2.0))), "one number or one for each"),
        (lambda: em.Constraint(0.1, FORWARD, em.Lagrangian(-1.0)), r"enforced\.initial of kl"),
    ],
)
def test_budgets_that_mean_nothing_cannot_be_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
