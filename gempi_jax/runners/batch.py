"""What a batch of the language world holds."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from gempi_jax.types import Array


class Batch(NamedTuple):
    """K completions for each of G prompts, on device.

    Attributes:
      prompts, prompt_lengths: right-padded.
      completions: right-padded; of a dataset's conversations all that follows the prompt, other roles' turns too.
      mask: the tokens that the policy wrote (or is to), its end tokens included.
      sampler_shift: log b(y_t) - log pi_t(y_t): what truncation, and a temperature of the sampler alone,
        changed; 0 of a dataset.
      model_log_probs: log pi_t(y_t) as the sampler computed it, nats; 0 of a dataset.
      rewards: r_i.
      index: the group's place in the global batch; its dropout masks come from it.
      behaviour_log_probs: log b(y_i), nats, as a dataset's rows carry it; ``None`` where b is pi_t, up to the shift.
      reference_rewards: of R completions of each prompt that pi_ref wrote; ``None`` where no method asks for them.
      states: the hidden states of pi_t that predicted each token, as the sampler computed them; ``None`` where they
        are computed again.
    """

    prompts: Int[Array, "G P"]
    prompt_lengths: Int[Array, "G"]
    completions: Int[Array, "G K C"]
    mask: Bool[Array, "G K C"]
    sampler_shift: Float[Array, "G K C"]
    model_log_probs: Float[Array, "G K C"]
    rewards: Float[Array, "G K"]
    index: Int[Array, "G"]
    behaviour_log_probs: Float[Array, "G K"] | None = None
    reference_rewards: Float[Array, "G R"] | None = None
    states: Float[Array, "G K C D"] | None = None


class Scored(NamedTuple):
    """A batch with what frozen policies say of it.

    Attributes:
      batch: the batch.
      features: the prompt's last hidden state under pi_t, for a critic of whole completions.
      old_log_probs: log pi_t of each token.
      frozen_states: of the trust region's snapshot, without dropout: what predicts each token; ``None`` where no trust
        region reads them.
    """

    batch: Batch
    features: Float[Array, "G D"]
    old_log_probs: Float[Array, "G K C"]
    frozen_states: Float[Array, "G K C D"] | None = None
