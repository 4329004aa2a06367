"""The language world as the training step sees it: a batch of completions, and a policy evaluated on it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.contracts import Evaluation, Metric, Samples
from gempi_jax.llm.scoring import hidden_states, score, token_terms
from gempi_jax.methods.base import Method
from gempi_jax.models import Adapted
from gempi_jax.numerics import standardize
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.baselines import Baseline
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import World
from gempi_jax.types import Array, Params


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
    """

    prompts: Int[Array, "G P"]
    prompt_lengths: Int[Array, "G"]
    completions: Int[Array, "G K C"]
    mask: Bool[Array, "G K C"]
    sampler_shift: Float[Array, "G K"]
    model_log_probs: Float[Array, "G K C"]
    rewards: Float[Array, "G K"]
    index: Int[Array, "G"]
    behaviour_log_probs: Float[Array, "G K"] | None = None


class Scored(NamedTuple):
    """A batch with what frozen policies say of it.

    Attributes:
      batch: the batch.
      features: the prompt's last hidden state under pi_t, for the value baseline.
      old_log_probs: log pi_t of each token.
    """

    batch: Batch
    features: Float[Array, "G D"]
    old_log_probs: Float[Array, "G K C"]


class Policy(NamedTuple):
    """The networks of a run, without the parameters that train.

    Attributes:
      model: a :class:`gempi_jax.models.Decoder`, or what has its passes.
      value_head: of the learned baseline.
    """

    model: Any
    value_head: nn.Module | None

    def on(self, frozen: Params) -> "Policy":
        """With the parameters that the model reads and nothing trains (``{}`` for none) in place.

        For the inside of a compiled function whose argument they are; from outside they would be its constants.
        """
        return self._replace(model=self.model.on(frozen)) if frozen else self


def behaviour(state: TrainState) -> Params:
    """pi_t: the policy that writes completions."""
    return state.snapshots.get("old", state.params["policy"])


def snapshot(policy: Policy, name: str, params: Params) -> Params:
    """A frozen policy at the start of a phase: a copy of what trains.

    Of adapters "ref" is the tree without any, ``{}``: the base itself, in every phase and whatever an earlier one or
    the file that they came from had made of them.  So pi_ref costs no memory.  For another reference, merge the
    adapters, as an export does, and start afresh on that.
    """
    if name == "ref" and isinstance(policy.model, Adapted):
        return {}
    return jax.tree.map(jnp.copy, params)


class _Reading(NamedTuple):
    """What a pass of pi_t over a batch says, or the sampler in its place.

    Attributes:
      log_probs, entropy: of each token, nats; ``None`` for an entropy that nobody asked for.
      features: the prompts' last hidden states.
    """

    log_probs: Float[Array, "G K C"]
    entropy: Float[Array, "G K C"] | None
    features: Float[Array, "G D"]


def score_batch(
    policy: Policy,
    method: Method,
    baseline: Baseline | None,
    normalize: bool,
    state: TrainState,
    batch: Batch,
    *,
    as_sampled: bool = False,
    written: bool = True,
    prefill_chunk: int | None = None,
) -> tuple[Scored, Samples, dict[str, Metric]]:
    """Scores a batch under every frozen policy that the method asks for, and takes the baseline off its rewards.

    All passes are deterministic, whatever dropout the M-step uses.

    Args:
      policy: the networks.
      method: names the anchors.
      baseline: of the advantages; ``None`` for a batch without rewards, whose advantages are 0.
      normalize: divides advantages by their standard deviation over the batch.
      state: parameters and snapshots.
      batch: G prompts with K completions each.
      as_sampled: takes log pi_t from the sampler instead of a pass over what it wrote; no value head, then.
      written: pi_t wrote the completions, and its entropy and the sampler's gap are reported; a dataset's are read
        only where the method or the value head needs it.
      prefill_chunk: tokens of each prompt that are read at a time; ``None`` for all of them.

    Returns:
      The scored batch, the samples of the E-step, metrics.
    """

    def scores(params):
        rows = batch.prompts, batch.prompt_lengths, batch.completions, batch.mask
        return score(policy.model, params, *rows, prefill_chunk=prefill_chunk)

    needed = bool(method.anchors) or method.trust_region is not None or policy.value_head is not None
    reported, unread = jnp.where(batch.mask, batch.model_log_probs, 0.0), jnp.zeros((batch.prompts.shape[0], 1))
    if as_sampled:
        # -log pi_t of a sample estimates the entropy without bias, at temperature 1 without truncation.
        reading = _Reading(reported, -reported, unread)
    elif written or needed:
        scored = scores(behaviour(state))
        reading = _Reading(scored.log_probs, scored.entropy, scored.prompt_hidden)
    else:
        reading = _Reading(jnp.zeros(batch.mask.shape, jnp.float32), None, unread)
    sequence = {"old": reading.log_probs.sum(-1)}
    for name in set(method.snapshots) - {"old"}:
        sequence[name] = scores(state.snapshots[name]).log_probs.sum(-1)
    carried = batch.behaviour_log_probs
    advantages = _advantages(policy, baseline, normalize, state, batch, reading.features)
    samples = Samples(
        advantages=advantages,
        sampler_log_probs=sequence["old"] + batch.sampler_shift if carried is None else carried,
        anchor_log_probs=jnp.stack([sequence[name] for name in method.anchors])
        if method.anchors
        else jnp.zeros((0, *advantages.shape)),
        tie_break=batch.rewards,
        signal=None if baseline is None else baseline.signal(batch.rewards),
    )
    metrics, num_tokens = {}, batch.mask.sum().astype(jnp.float32)
    if reading.entropy is not None:
        metrics["entropy"] = Metric(reading.entropy.sum(), num_tokens)
    if written:
        metrics["sampler_shift"] = Metric.of(batch.sampler_shift.mean())
    if written and not as_sampled:
        metrics["sampler_gap"] = Metric(jnp.abs(reading.log_probs - reported).sum(), num_tokens)
    if "ref" in sequence:
        metrics["kl"] = Metric.of((sequence["old"] - sequence["ref"]).mean())
    return Scored(batch, reading.features, reading.log_probs), samples, metrics


def _advantages(
    policy: Policy,
    baseline: Baseline | None,
    normalize: bool,
    state: TrainState,
    batch: Batch,
    features: Float[Array, "G D"],
) -> Float[Array, "G K"]:
    """r - b(x), over the whole batch."""
    if baseline is None:
        return jnp.zeros(batch.rewards.shape, jnp.float32)
    values = None
    if policy.value_head is not None:
        values = policy.value_head.apply({"params": state.params["value"]}, features)
    advantages = baseline(batch.rewards, values)
    if normalize:
        advantages = standardize(advantages)
    return advantages


def make_world(
    policy: Policy,
    method: Method,
    whole: Scored,
    *,
    dropout: bool,
    same_mask: bool,
    prefill_chunk: int | None = None,
) -> World:
    """How the language world evaluates pi_theta.

    Args:
      policy: the networks.
      method: its ``trust_region`` says which D_M(pi_t || pi_theta) each token needs.
      whole: the batch of the E-step, whatever part of it an update sees: V(x) is fitted on all of its prompts.
      dropout: whether the likelihood pass drops.
      same_mask: pi_t drops the units that pi_theta drops, which makes D_M exactly 0 before the first update; otherwise
        D_M comes from a deterministic pass of both.
      prefill_chunk: tokens of each prompt that are read at a time; ``None`` for all of them.

    Returns:
      The world.
    """

    def states(params, batch, keys):
        if keys is None:
            rows = batch.prompts, batch.prompt_lengths, batch.completions
            return hidden_states(policy.model, params, *rows, prefill_chunk=prefill_chunk)[0]

        def one(prompt, length, completions, key):
            rows = prompt[None], length[None], completions[None]
            hidden, _ = hidden_states(policy.model, params, *rows, dropout_key=key, prefill_chunk=prefill_chunk)
            return hidden[0]

        # A key of its own for each group: its masks do not depend on devices or micro-batches.
        return jax.vmap(one)(batch.prompts, batch.prompt_lengths, batch.completions, keys)

    def terms(params, hidden, batch, frozen):
        divergence = None if frozen is None else method.trust_region
        return token_terms(
            policy.model, params, hidden, batch.completions, batch.mask, frozen=frozen, divergence=divergence
        )

    def evaluate(params, snapshots, scored, key, num_terms):
        batch = scored.batch
        keys = jax.vmap(lambda i: named_key(key, "group", i))(batch.index) if dropout else None
        hidden = states(params["policy"], batch, keys)
        divergence = {}
        if method.trust_region is None:
            output = terms(params["policy"], hidden, batch, None)
        else:
            old = jax.lax.stop_gradient(snapshots["old"])
            frozen = (old, states(old, batch, keys if same_mask else None))
            if dropout and not same_mask:
                output = terms(params["policy"], hidden, batch, None)
                calm = states(params["policy"], batch, None)
                divergence["kl"] = terms(params["policy"], calm, batch, frozen).divergence
            else:
                output = terms(params["policy"], hidden, batch, frozen)
                divergence["kl"] = output.divergence
        return Evaluation(output.log_probs, batch.mask, divergence, num_terms, scored.old_log_probs)

    def value_loss(params):
        values = policy.value_head.apply({"params": params["value"]}, whole.features)
        loss = 0.5 * jnp.square(values[:, None] - whole.batch.rewards).mean()
        return loss, {"value_loss": Metric.of(loss)}

    auxiliary = None if policy.value_head is None else value_loss
    return World(evaluate, lambda scored: scored.batch.mask.sum().astype(jnp.float32), auxiliary)
