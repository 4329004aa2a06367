"""PPO (Schulman et al. 2017), section 4, on tokens and on whole completions: one method under two readings."""

from gempi_jax.em import GempiSpec, Given, Level, Signed, Standardized
from gempi_jax.losses.surrogate import Epsilon
from gempi_jax.methods.base import Critic, Features, Method
from gempi_jax.methods.critic import with_critic, with_entropy, with_kl_price
from gempi_jax.methods.fits.surrogate import ClippedSurrogate, Ratio
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics.advantages import gae
from gempi_jax.numerics.checks import positive


def ppo(
    epsilon: Epsilon = 0.2,
    beta: float = 0.05,
    lam: float = 0.95,
    gamma: float = 1.0,
    *,
    whiten: bool = True,
    value_coefficient: float = 0.1,
    value_clip: float | None = 0.2,
    entropy_coefficient: float = 0.0,
    kl_stop: float | None = None,
    features: Features = Features.DETACHED,
    level: Level = Level.TOKEN,
) -> Method:
    """A clipped ratio of each token, GAE from a critic, the KL to pi_ref in the rewards.

    The published settings for language models are the defaults (TRL's): k1 x 0.05 off each token's reward, the task's
    reward at the last token, whitened advantages, means over tokens.

    Args:
      epsilon: of the clip, or (low, high).
      beta: price of k1 of the policy that sampled and pi_ref, per token.
      lam: of GAE.
      gamma: discount of a token.
      whiten: advantages of mean 0 and deviation 1 over the batch's tokens.
      value_coefficient: of 1/2 (V - G)^2.
      value_clip: V that has moved so far towards its target stops; ``None`` without.
      entropy_coefficient: of the policy's entropy.
      kl_stop: from the first update on whose approximate KL (k3) to the policy that sampled is above this, nats a
        token, those on the same batch leave the policy as it is; ``None`` never stops.
      features: the critic's head reads the policy's states and leaves them alone, reads and moves them, or reads a
        network of its own, which takes the memory of a second policy.
      level: a step is a token or, with V(x) alone, the whole completion.

    Raises:
      ValueError: a number out of range.
    """
    if kl_stop is not None:
        positive(kl_stop, "ppo: kl_stop", "in nats a token (None never stops), it")
    spec = GempiSpec(weighting=Signed(), transform=Standardized(ddof=1) if whiten else Given(), level=level)
    method = from_spec(spec, ClippedSurrogate(epsilon, Ratio.TERM if level is Level.TOKEN else Ratio.EXAMPLE))
    critic = Critic(gae(lam), gamma, features)
    method = with_critic(method, critic, coefficient=value_coefficient, value_clip=value_clip)
    return with_entropy(with_kl_price(method, beta), entropy_coefficient)._replace(kl_stop=kl_stop)


def ppo_sequence(
    epsilon: Epsilon = 0.2,
    beta: float = 0.05,
    *,
    whiten: bool = True,
    value_coefficient: float = 0.1,
    value_clip: float | None = 0.2,
    entropy_coefficient: float = 0.0,
    kl_stop: float | None = None,
    features: Features = Features.DETACHED,
) -> Method:
    """:func:`ppo` with the whole completion as its one step: r_seq(theta), and A = r - V(x).

    Arguments as for :func:`ppo`; beta prices the completion's summed k1.
    """
    return ppo(
        epsilon,
        beta,
        1.0,
        whiten=whiten,
        value_coefficient=value_coefficient,
        value_clip=value_clip,
        entropy_coefficient=entropy_coefficient,
        kl_stop=kl_stop,
        features=features,
        level=Level.SEQUENCE,
    )
