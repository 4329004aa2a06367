"""The regression of log-ratios as a fit: what its options mean, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses, methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import Equal, GempiSpec
from gempi_jax.methods.fits.regression import Compared, GroupMean, Learned, LogMeanExp, Quantile, Regression, Rewards
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics.advantages import gae

REWARDS = jnp.array([[1.0, 0.0], [0.5, 2.0]])


def test_quantiles_are_shares_of_the_references_and_never_zero_in_a_logarithm():
    samples = Samples(REWARDS, REWARDS, REWARDS[:0], rewards=REWARDS, reference_rewards=jnp.array([[0.5, 1.0], [3, 4]]))
    np.testing.assert_array_equal(Quantile()(samples), [[1.0, 0.0], [0.0, 0.0]])
    # Of R = 2 references half a sample is 1/4.
    np.testing.assert_allclose(Quantile(logarithm=True)(samples), np.log([[1.0, 0.25], [0.25, 0.25]]))


def test_division_by_length_makes_rho_a_mean_over_tokens():
    # Log-ratios of 0.2 a token, two tokens and one: rho is 0.4 and 0.2, divided by length 0.2 both.
    base = jnp.full((1, 2), -5.0)
    examples = {
        "weights": jnp.full((1, 2), 0.5),
        "gains": jnp.zeros((1, 2)),
        "baselines": jnp.zeros(1),
        "base_log_probs": base,
    }
    mask = jnp.array([[[True, True], [True, False]]])
    log_probs = jnp.where(mask, 0.2, 9.0) + base[..., None] / mask.sum(-1, keepdims=True)
    evaluation = Evaluation(log_probs, mask, {}, Counts(jnp.float32(3), jnp.float32(2)))
    for by_length, expected in [(False, (0.4**2 + 0.2**2) / 2), (True, 0.2**2)]:
        fit = Regression(1.0, "old", GroupMean(), by_length=by_length)
        np.testing.assert_allclose(fit.loss(examples, evaluation).loss, expected, rtol=1e-4)


def test_a_learned_baseline_is_v_of_the_prompt():
    # At rho = 0 the terms are (r - V)^2: with V = 0.25, 1 they are .5625, .0625, .25, 1; their mean is .46875, and V's
    # own loss, 1/2 of the same, comes on top.
    spec = GempiSpec(weighting=Equal())
    method = methods.with_critic(
        from_spec(spec, Regression(0.5, "old", Learned())), methods.Critic(gae(1.0)), coefficient=2.0
    )
    assert method.needs.critic is not None
    assert not method.needs.by_group
    old = jnp.full((2, 2), -3.0)
    values = jnp.array([[0.25, 0.25], [1.0, 1.0]])
    told = {"rewards": REWARDS, "values": values, "value_targets": REWARDS}
    target = method.e_step({}, Samples(REWARDS - values, old, old[None], **told))
    counts = Counts(jnp.float32(4), jnp.float32(4))
    evaluation = Evaluation(old[..., None], jnp.ones((2, 2, 1), bool), {}, counts, old[..., None], values=values)
    np.testing.assert_allclose(method.m_step({}, target, evaluation).loss, 0.46875 + 2 * 0.46875 / 2, rtol=1e-6)


def test_needs_follow_from_base_and_baseline():
    needs = {name: methods.METHODS[name]().needs for name in ("opmd", "oapl", "gvpo", "rebel", "tba")}
    assert all(each.by_group and each.every_unit for each in needs.values())
    assert {name for name, each in needs.items() if each.ratio} == {"opmd", "oapl", "gvpo", "rebel"}
    assert needs["rebel"].snapshots == ("old", "ref")
    for name in ("a_star_po", "qrpo"):
        each = methods.METHODS[name]().needs
        assert (each.reference_samples, each.by_group, each.every_unit, each.snapshots) == (8, False, True, ("ref",))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Regression(0.0, "old", GroupMean()), r"Regression\.scale"),
        (lambda: Regression(1.0, "best", GroupMean()), r"Regression\.base is 'best': .* 'old' or 'ref'"),
        (lambda: Regression(1.0, "ref", Compared(losses.pair_regression), coefficient=-1.0), r"coefficient"),
        (lambda: LogMeanExp(0.0), r"LogMeanExp\.temperature"),
        (lambda: Rewards(0.0), r"Rewards\.unit"),
        (lambda: methods.qrpo(beta=0.0), r"beta"),
        (lambda: methods.rebel(kl_price=-1.0), r"kl_price is -1\.0: give at least 0"),
        (lambda: methods.a_star_po(reference_samples=0), r"reference_samples is 0: give at least 1"),
    ],
)
def test_what_means_nothing_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
