"""The corrections to the method document, each by the experiment that shows it (EQUATIONS.md lists them)."""

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax import em, losses, numerics

RNG = np.random.default_rng(0)
Q_WEIGHT = np.array([0.2, 0.5, 1.0, 2.0, 4.0])
B = np.array([0.3, 0.3, 0.2, 0.15, 0.05])
Z = float(np.sum(B * Q_WEIGHT))


def draws(number, repeats=200_000):
    """Log-weights of ``repeats`` batches of ``number`` samples of b."""
    return RNG.choice(5, p=B, size=(repeats, number))


def test_1_z_hat_is_unbiased_and_its_logarithm_is_not():
    number = 16
    weights = Q_WEIGHT[draws(number)]
    estimates = weights.mean(axis=1)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - Z) < 4 * error
    variance = np.sum(B * Q_WEIGHT**2) - Z**2
    predicted = -variance / (2 * number * Z**2)
    found = np.log(estimates).mean() - np.log(Z)
    assert abs(found - predicted) < 0.15 * abs(predicted)
    # The library's estimate of that bias, from one batch, averages to it.
    library = jax.jit(jax.vmap(em.log_partition_bias))(jnp.asarray(weights[:20_000], jnp.float32))
    np.testing.assert_allclose(jnp.mean(library), predicted, rtol=0.2)


def test_1_self_normalised_expectations_are_biased_by_order_one_over_n():
    number, f = 32, np.array([1.0, -1.0, 0.5, 2.0, 3.0])
    picks = draws(number)
    weights = Q_WEIGHT[picks]
    found = np.mean(np.sum(weights * f[picks], axis=1) / weights.sum(axis=1))
    q = B * Q_WEIGHT / Z
    exact = np.sum(q * f)
    predicted = -np.sum(q**2 / B * (f - exact)) / number
    assert abs((found - exact) - predicted) < 0.15 * abs(predicted)


def test_2_raising_the_coefficients_raises_the_temperature_and_the_ess():
    advantages = jnp.asarray(RNG.normal(size=512), jnp.float32)
    ratios = jnp.asarray(0.5 * RNG.normal(size=(1, 512)), jnp.float32)
    zeros = jnp.zeros(512)
    sizes, spreads = [], []
    for coefficient in (0.1, 0.3, 1.0, 10.0, 1e4):
        log_weights = em.importance_log_weights(advantages, ratios, zeros, jnp.array([coefficient]))
        weights = em.normalize_weights(log_weights)
        sizes.append(float(em.effective_sample_size(weights)))
        spreads.append(float(em.chi_squared(weights)))
    assert sizes == sorted(sizes)
    # The limit is the anchor against the sampler, not zero.
    limit = float(em.chi_squared(jnp.exp(ratios[0])))
    np.testing.assert_allclose(spreads[-1], limit, rtol=1e-2)
    assert limit > 0.1


def test_3_a_kl_budget_does_not_bound_chi_squared():
    # Both targets spend 0.1 nats exactly; with heavy-tailed advantages chi^2 is far larger.
    spreads = []
    for advantages in (RNG.normal(size=4096), RNG.standard_t(2.0, size=4096) ** 3):
        a = jnp.asarray(advantages, jnp.float32)
        found = em.solve_temperature(jnp.array([0.1]), a, jnp.zeros((1, 4096)))
        np.testing.assert_allclose(found.kl, 0.1, rtol=1e-3)
        spreads.append(float(em.chi_squared(em.normalize_weights(a / found.coefficients[0]))))
        assert np.log1p(spreads[-1]) >= 0.1 - 1e-4
    assert spreads[1] > 10 * spreads[0]


def test_4_for_minimisation_the_constraint_enters_with_a_plus():
    # min D - 3 x with D = x^2 <= 0.25, by gradient steps on x and on alpha of (2): x settles at 0.5, alpha at 3.
    x, alpha = 0.1, 1.0
    for _ in range(4000):
        d_x, d_alpha = 2 * x * alpha - 3, 0.25 - x**2
        x, alpha = x - 0.01 * d_x, max(alpha - 0.02 * d_alpha, 1e-8)

    def loss(x, alpha):
        return -3 * x + em.trust_region_loss(x**2, alpha, 0.25)

    slopes = jax.grad(loss, argnums=(0, 1))(x, alpha)
    np.testing.assert_allclose(slopes, [2 * x * alpha - 3, 0.25 - x**2], atol=1e-5)
    np.testing.assert_allclose([x, alpha], [0.5, 3.0], rtol=1e-2)


def test_5_truncation_drops_the_mass_outside_the_selection():
    log_weights = jnp.log(jnp.array([4.0, 3.0, 2.0, 1.0]))
    selected = jnp.array([True, True, False, False])
    np.testing.assert_allclose(em.truncation_mass(log_weights, selected), 0.3, rtol=1e-6)
    # The document's expression E_q[(q / b) 1] is a second moment: here sum_{i not in S} w_i (4 w_i) = 0.2.
    weights = em.normalize_weights(log_weights)
    np.testing.assert_allclose(jnp.sum(jnp.where(selected, 0.0, 4 * weights**2)), 0.2, rtol=1e-6)


def test_6_a_pairwise_likelihood_is_no_responsibility():
    # (11) of two clusters for one pair need not sum to 1; posteriors do, and with two pairs they multiply.
    log_likelihoods = losses.bradley_terry(jnp.array([[2.0, 1.0], [1.5, -1.0]]))
    assert abs(float(jnp.exp(log_likelihoods[:, 0]).sum()) - 1) > 0.5
    annotator = losses.responsibilities(log_likelihoods, jnp.array([0, 0]))[0]
    product = np.exp(np.asarray(log_likelihoods, np.float64)).prod(axis=1)
    np.testing.assert_allclose(annotator, product / product.sum(), rtol=1e-5)
    np.testing.assert_allclose(annotator.sum(), 1.0, rtol=1e-6)
    # A pair alone is not weighed as the annotator's pairs together are.
    assert abs(float(annotator[0] - losses.datum_responsibilities(log_likelihoods)[1, 0])) > 0.01


def steps(estimator, rewards, discounts, values):
    """Advantages and targets of one episode's steps, V of the state after the last among the values."""
    return estimator(rewards, discounts, jnp.ones_like(rewards) > 0, values[:-1], values[1:])


def test_7_two_readings_of_the_n_step_return():
    rewards, discounts, values = jnp.ones(4), jnp.full((4,), 0.5), jnp.array([0.0, 10.0, 20.0, 30.0, 40.0])
    unroll = steps(numerics.unroll_returns(), rewards, discounts, values)[1]
    rolling = steps(numerics.n_step_returns(2), rewards, discounts, values)[1]
    # From t = 0: 1 + .5 + .25 + .125 + 40 / 16 = 4.375 and 1 + .5 + 20 / 4 = 6.5.
    np.testing.assert_allclose([unroll[0], rolling[0]], [4.375, 6.5], rtol=1e-6)


def test_8_dropout_moves_the_trust_region_but_not_the_weights():
    # KL(pi_k || dropped pi_k) is not 0 at theta = theta_k; the same pass on both sides is.
    key_w, key_x, key_d = jax.random.split(jax.random.key(0), 3)
    weights, x = jax.random.normal(key_w, (32, 8)), jax.random.normal(key_x, (64, 32))
    kept = jax.random.bernoulli(key_d, 0.95, x.shape) / 0.95
    plain, dropped = jax.nn.log_softmax(x @ weights / 6), jax.nn.log_softmax((x * kept) @ weights / 6)
    np.testing.assert_allclose(jnp.mean(numerics.categorical_kl(plain, plain)), 0.0, atol=1e-6)
    # The budget that V-MPO's default sets for the whole update.
    assert float(jnp.mean(numerics.categorical_kl(plain, dropped))) > 0.003


def test_9_the_lambda_return_is_gae_plus_the_value():
    rewards, discounts = jnp.asarray(RNG.normal(size=6), jnp.float32), jnp.full((6,), 0.9)
    values = jnp.asarray(RNG.normal(size=7), jnp.float32)
    advantage, target = steps(numerics.gae(0.95), rewards, discounts, values)
    expected, following = np.zeros(6), float(values[-1])
    for t in reversed(range(6)):  # G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1})
        following = expected[t] = rewards[t] + 0.9 * (0.05 * values[t + 1] + 0.95 * following)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(target, advantage + values[:-1], rtol=1e-5, atol=1e-6)
    # The document's Monte-Carlo target is the other end, lambda = 1 with an unroll that ends the episode.
    ended = discounts.at[-1].set(0.0)
    monte_carlo = steps(numerics.gae(1.0), rewards, ended, values)[1]
    np.testing.assert_allclose(monte_carlo[0], np.sum(rewards * 0.9 ** np.arange(6)), rtol=1e-5)
