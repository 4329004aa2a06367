"""A*-PO as a method of the table is TRL's on the tiny Qwen2: its loss, and its gradient in the parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.llm import scoring
from tests.parity import trl_golden

GOLDEN = trl_golden.read()
CASE = GOLDEN.cases["a_star_po"]
BATCH = GOLDEN.batches[CASE.batch]


def references():
    """Rewards of four reference samples of each prompt whose V* is TRL's.

    TRL estimates V* from the given samples.  The last prompt has one reward, 1/2, for which we leave out what is no
    better and no worse than its references; TRL does not, and so these differ: 1/2 + beta_1 log x has the same V* as
    1/2 where the mean of x is 1.
    """
    spread = 0.5 + CASE.settings["beta1"] * np.log([0.5, 1.5, 1.25, 0.75])
    return jnp.asarray(np.concatenate([BATCH.rewards[:3], spread[None]]), jnp.float32)


def test_a_star_po_is_that_of_trl(tmp_path):
    method = methods.a_star_po(CASE.settings["beta1"], CASE.settings["beta2"], reference_samples=4)
    model, params, *_ = trl_golden.load(GOLDEN.weights["policy"], tmp_path / "policy")
    mask, rewards = jnp.asarray(BATCH.mask), jnp.asarray(BATCH.rewards, jnp.float32)
    ref = jnp.asarray(CASE.ref_log_probs.sum(-1), jnp.float32)
    # Who sampled does not matter to it: nothing is weighed against the sampler.
    samples = Samples(rewards, jnp.zeros(ref.shape), ref[None], rewards=rewards, reference_rewards=references())
    target = method.e_step({}, samples)
    np.testing.assert_allclose(target.examples["baselines"], CASE.values, rtol=1e-5)
    counts = Counts(mask.sum().astype(jnp.float32), jnp.float32(ref.size))

    def loss(params):
        rows = map(jnp.asarray, (BATCH.prompts, BATCH.prompt_lengths, BATCH.completions))
        log_probs = scoring.score(model, params, *rows, mask).log_probs
        return method.m_step({}, target, Evaluation(log_probs, mask, {}, counts)).loss

    options = {"xla_backend_optimization_level": 0}
    value, gradient = jax.jit(jax.value_and_grad(loss), compiler_options=options)(params)
    np.testing.assert_allclose(value, CASE.loss, rtol=1e-4)
    theirs = trl_golden.load(CASE.grad_params, tmp_path / "gradient").params
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theirs))
    for mine, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4 * scale)
