"""Our decoder gives the log-probs of TRL's forward passes, and their gradients, on the batches of the golden file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm import scoring
from tests.parity import trl_golden

GOLDEN = trl_golden.read()
POLICIES = {"policy": "log_probs", "old": "old_log_probs", "ref": "ref_log_probs"}
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {name: trl_golden.load(GOLDEN.weights[name], tmp_path_factory.mktemp(name)) for name in POLICIES}


@pytest.fixture(scope="module")
def scored(checkpoints):
    """log-probs [G, K, C] of a policy on a batch, with the pullback into its parameters."""
    model = checkpoints["policy"].model

    def log_probs(params, batch, mask):
        prompts, lengths, completions = map(jnp.asarray, batch[:3])
        return scoring.score(model, params, prompts, lengths, completions, mask).log_probs

    @functools.cache
    def compiled(batch_name):
        batch = GOLDEN.batches[batch_name]
        forward = functools.partial(log_probs, batch=batch, mask=jnp.asarray(batch.mask))

        @quick_jit
        def evaluate(params, cotangent):
            values, pullback = jax.vjp(forward, params)
            return values, pullback(cotangent)[0]

        return evaluate

    return compiled


@pytest.mark.parametrize("name", GOLDEN.cases)
def test_log_probs_and_their_gradients_are_those_of_trl(name, checkpoints, scored, tmp_path):
    case = GOLDEN.cases[name]
    mask = GOLDEN.batches[case.batch].mask
    evaluate = scored(case.batch)
    cotangent = jnp.asarray(case.grad_log_probs, jnp.float32)
    for policy, field in POLICIES.items():
        expected = getattr(case, field)
        if expected is not None:
            ours, gradient = evaluate(checkpoints[policy].params, cotangent)
            np.testing.assert_allclose(ours, expected, atol=3e-5)
            assert (expected[mask] < 0).all()
            assert not expected[~mask].any()
            if policy == "policy":
                # The chain rule: TRL's gradient in the parameters is its gradient in the log-probs, pulled back by us.
                theirs = trl_golden.load(case.grad_params, tmp_path).params
                scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theirs))
                for mine, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(theirs), strict=True):
                    np.testing.assert_allclose(mine, other, atol=3e-5 * scale)


def test_the_policies_differ_and_all_branches_of_a_clipped_surrogate_are_taken():
    for name in ("grpo", "rloo", "ppo", "ppo_full"):
        case = GOLDEN.cases[name]
        mask = GOLDEN.batches[case.batch].mask
        moves = (case.log_probs - case.old_log_probs)[mask]
        assert moves.max() > 0.1
        assert moves.min() < -0.1
        # A clipped token has no gradient but the penalty's, which PPO and RLOO have in the reward.
        if name.startswith("ppo"):
            clipped = mask & (case.grad_log_probs == 0)
            assert 0 < clipped.sum() < mask.sum() / 2
