"""Our methods on TRL's pairs: from rewards through E-step, fit and decoder to the gradient of every parameter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import Reduction
from gempi_jax.llm import scoring
from gempi_jax.methods import Contrast
from tests.parity import trl_golden

GOLDEN = trl_golden.read()
PAIRS = GOLDEN.batches["pairs"]
MASK = jnp.asarray(PAIRS.mask)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CASES = {
    "dpo": lambda beta: methods.dpo(beta),
    # TRL's reading: means over tokens.
    "ipo": lambda beta: methods.ipo(beta, reduction=Reduction.MEAN),
    "rdpo": lambda beta: methods.rdpo(beta, label_noise=0.1),
    "exo": lambda beta: methods.exo(beta, epsilon=1e-3),
    # A hard label: of the rewards 1 and 0 the softmax at 1 / 50 gives the second e^-50.
    "nca": lambda beta: methods.info_nca(beta, alpha=0.02, contrast=Contrast.NCA),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Our decoder with TRL's weights, and its log-probs on the pairs with their pullback."""
    loaded = trl_golden.load(GOLDEN.weights["policy"], tmp_path_factory.mktemp("policy"))

    @quick_jit
    def evaluate(params):
        def log_probs(params):
            prompts, lengths, completions = map(jnp.asarray, PAIRS[:3])
            return scoring.score(loaded.model, params, prompts, lengths, completions, MASK).log_probs

        return jax.vjp(log_probs, params)

    return evaluate(loaded.params)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_parameter_gradients_are_those_of_trl(name, policy, tmp_path):
    case = GOLDEN.cases[name]
    method = CASES[name](case.settings["beta"])
    assert method.needs.anchors == ("ref",)
    ref = jnp.asarray(case.ref_log_probs, jnp.float32).sum(-1)
    # What a row says: the first answer is better.
    rewards = jnp.tile(jnp.array([1.0, 0.0]), (len(ref), 1))
    target = method.e_step(method.init(), Samples(rewards, jnp.zeros_like(ref), ref[None], rewards=rewards))
    counts = Counts(MASK.sum().astype(jnp.float32), jnp.float32(ref.size), 1.0)

    def loss(log_probs):
        return method.m_step({}, target, Evaluation(log_probs, MASK, {}, counts))

    log_probs, pullback = policy
    value, gradient = jax.value_and_grad(lambda x: loss(x).loss)(log_probs)
    np.testing.assert_allclose(value, case.loss, rtol=1e-4)
    np.testing.assert_allclose(gradient, case.grad_log_probs, rtol=1e-3, atol=2e-5)
    ours, theirs = pullback(gradient)[0], trl_golden.load(case.grad_params, tmp_path).params
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theirs))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4 * scale)
    metrics = {key: float(metric.mean()) for key, metric in loss(log_probs).metrics.items()}
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        if name != "ipo":  # TRL logs it by sums, and fits means
            np.testing.assert_allclose(metrics[key], case.metrics[key], rtol=1e-3, atol=1e-5)
