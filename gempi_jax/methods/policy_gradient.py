"""Policy gradients on whole completions: signed weights, with or without a clipped ratio to the policy that sampled."""

from gempi_jax.em import GempiSpec, GroupStandardized, LeaveOneOut, Penalty, SampledDivergence, Signed, Unconstrained
from gempi_jax.em.averages import PER_TERM, Average, PerExample, PerLimit
from gempi_jax.em.choices import Reduction
from gempi_jax.em.transforms import GroupCentred, Transform
from gempi_jax.losses.surrogate import Epsilon
from gempi_jax.methods.base import Method
from gempi_jax.methods.critic import with_kl_price
from gempi_jax.methods.fits.surrogate import ClippedSurrogate, Ratio
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics import k3
from gempi_jax.types import Array


def _k3_of_the_policy(log_frozen: Array, log_policy: Array) -> Array:
    """KL(pi_theta || pi_ref) of what pi_theta (nearly) sampled, by k3, as GRPO has it."""
    return k3(log_policy, log_frozen)


K3_TO_REFERENCE = SampledDivergence(_k3_of_the_policy)


def reinforce(*, reduction: Reduction = Reduction.SUM) -> Method:
    """REINFORCE (Williams 1992): w = A, likelihood; its gradient is E[A grad log pi] with the baseline of the phase.

    Args:
      reduction: sum over a completion's tokens, whose gradient is unbiased, or their mean.
    """
    return from_spec(GempiSpec(weighting=Signed(), reduction=reduction))


def rloo(beta: float = 0.05, epsilon: Epsilon | None = 0.2) -> Method:
    """RLOO (Ahmadian et al. 2024): r_i less the mean of the others' rewards, a clipped ratio of whole completions.

    The rewards are less beta times the summed k1 of the policy that sampled and pi_ref, so that a group of equal ones
    has a signal.  TRL clips the ratio, the paper has none; on the first pass both are one. [K 2, beta 0.05, eps 0.2]

    Args:
      beta: price of the KL in the reward; 0 leaves it out.
      epsilon: of the clip, or (low, high); ``None`` is the paper's likelihood, which takes no ratio.
    """
    fit = None if epsilon is None else ClippedSurrogate(epsilon, Ratio.EXAMPLE)
    return with_kl_price(from_spec(GempiSpec(weighting=Signed(), transform=LeaveOneOut()), fit), beta)


def _grpo(beta: float, epsilon: Epsilon, transform: Transform, average: Average) -> Method:
    penalty = Penalty(beta, K3_TO_REFERENCE, towards="ref", average=average) if beta else Unconstrained()
    spec = GempiSpec(weighting=Signed(), transform=transform, projection=penalty)
    return from_spec(spec, ClippedSurrogate(epsilon, Ratio.TERM, average))


def grpo(beta: float = 0.0, epsilon: Epsilon = 0.2, *, scale_rewards: bool = True, per_token: bool = False) -> Method:
    """GRPO (Shao et al. 2024): z-scores in the group, a clipped ratio of tokens, k3 to pi_ref in the loss.

    Surrogate and penalty are averaged over each completion, then over completions; DAPO (and TRL's default) averages
    over all tokens.  A group of equal rewards has no advantage, and still pays the penalty. [beta 0, eps 0.2]

    Args:
      beta: price of k3.
      epsilon: of the clip, or (low, high).
      scale_rewards: divides by the group's standard deviation (of K - 1, plus 1e-4).
      per_token: averages over all tokens of the update.
    """
    transform = GroupStandardized() if scale_rewards else GroupCentred()
    return _grpo(beta, epsilon, transform, PER_TERM if per_token else PerExample())


def dr_grpo(max_completion_length: int = 1024, beta: float = 0.0, epsilon: Epsilon = 0.2) -> Method:
    """Dr. GRPO (Liu et al. 2025): r less the group's mean, and tokens summed over a constant, so that no length gains.

    Args:
      max_completion_length: the constant: what a completion may be long, tokens; with the phase's own the loss has the
        scale of a mean.
      beta: price of k3 to pi_ref.
      epsilon: of the clip, or (low, high).
    """
    return _grpo(beta, epsilon, GroupCentred(), PerLimit(max_completion_length))
