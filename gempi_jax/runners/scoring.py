"""Completions as an E-step sees them: read by every frozen policy that the method asks for, with their advantages."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Metric, Metrics, Samples
from gempi_jax.em import Level
from gempi_jax.llm.scoring import score
from gempi_jax.methods.base import Needs
from gempi_jax.numerics import standardize, telling
from gempi_jax.runners.baselines import Baseline
from gempi_jax.runners.batch import Batch, Scored
from gempi_jax.runners.critics import critic_states, read_values
from gempi_jax.runners.networks import Policy, behaviour
from gempi_jax.training.state import TrainState
from gempi_jax.types import Array, Params


class Reader(NamedTuple):
    """How completions are read; all passes are deterministic, whatever dropout the M-step uses.

    Attributes:
      policy: the networks.
      as_sampled: log pi_t is what the sampler said, without a pass over what it wrote; no critic, then.
      written: pi_t wrote the completions, and its entropy and the sampler's gap are reported; a dataset's are read
        only where the method needs it.
      prefill_chunk: tokens of each prompt that are read at a time; ``None`` for all of them.
    """

    policy: Policy
    as_sampled: bool = False
    written: bool = True
    prefill_chunk: int | None = None


class Advantages(NamedTuple):
    """How rewards become the advantages of a batch, where no critic makes them.

    Attributes:
      baseline: what is taken off; ``None`` for a batch without rewards, whose advantages are 0.
      normalize: divides by the standard deviation over the batch.
    """

    baseline: Baseline | None
    normalize: bool = False


class Reading(NamedTuple):
    """What frozen policies say of a batch.

    Attributes:
      log_probs: of each token by policy, nats; ``"old"`` always, 0 where nothing needed it.
      entropy: of pi_t at each token, nats; ``None`` where nobody asked.
      features: the prompts' last hidden states under pi_t.
      states: that predict each token, by policy, of those that read the batch here.
    """

    log_probs: dict[str, Float[Array, "G K C"]]
    entropy: Float[Array, "G K C"] | None
    features: Float[Array, "G D"]
    states: dict[str, Float[Array, "G K C D"]]


def read(reader: Reader, needs: Needs, state: TrainState, batch: Batch) -> Reading:
    """The log-probs of a batch under pi_t and every other snapshot that the method asks for."""

    def scores(params: Params):
        rows = batch.prompts, batch.prompt_lengths, batch.completions, batch.mask
        return score(reader.policy.model, params, *rows, prefill_chunk=reader.prefill_chunk)

    unread = jnp.zeros((batch.prompts.shape[0], 1))
    if reader.as_sampled:
        # -log pi_t of a sample estimates the entropy without bias, at temperature 1 without truncation.
        reported = jnp.where(batch.mask, batch.model_log_probs, 0.0)
        states = {} if batch.states is None else {"old": batch.states}
        reading = Reading({"old": reported}, -reported, unread, states)
    elif reader.written or needs.snapshots or needs.ratio or needs.critic is not None:
        scored = scores(behaviour(state))
        reading = Reading({"old": scored.log_probs}, scored.entropy, scored.prompt_hidden, {"old": scored.hidden})
    else:
        reading = Reading({"old": jnp.zeros(batch.mask.shape, jnp.float32)}, None, unread, {})
    others = {name: scores(state.snapshots[name]) for name in needs.snapshots if name != "old"}
    return reading._replace(
        log_probs=reading.log_probs | {name: scored.log_probs for name, scored in others.items()},
        states=reading.states | {name: scored.hidden for name, scored in others.items()},
    )


def make_samples(
    reader: Reader, advantages: Advantages, needs: Needs, state: TrainState, batch: Batch, reading: Reading
) -> Samples:
    """The samples of the E-step: an example is a completion or, at the level of tokens, one of its tokens."""
    by_token = needs.level is Level.TOKEN

    def of_example(tokens: Float[Array, "G K C"]) -> Array:
        return tokens if by_token else tokens.sum(-1)

    log_probs = {name: of_example(values) for name, values in reading.log_probs.items()}
    sampler = log_probs["old"] + of_example(jnp.where(batch.mask, batch.sampler_shift, 0.0))
    if batch.behaviour_log_probs is not None:
        sampler = batch.behaviour_log_probs
    # What a completion earns, less what its distance from pi_ref costs; the tokens' own costs are a critic's to see.
    costs = needs.kl_price * (sampler - log_probs["ref"]) if needs.kl_price else jnp.zeros_like(sampler)
    earned = batch.rewards - (costs.sum(-1) if by_token else costs)
    samples = Samples(
        advantages=_advantages(advantages, earned),
        sampler_log_probs=sampler,
        anchor_log_probs=jnp.stack([log_probs[name] for name in needs.anchors])
        if needs.anchors
        else jnp.zeros((0, *sampler.shape)),
        mask=batch.mask if by_token else None,
        rewards=earned,
        signal=_signal(advantages, needs, earned),
        reference_rewards=batch.reference_rewards,
    )
    if by_token:
        spread = {name: getattr(samples, name) for name in ("advantages", "rewards", "signal")}
        shape = batch.mask.shape
        spread = {n: None if x is None else jnp.broadcast_to(x[..., None], shape) for n, x in spread.items()}
        samples = samples._replace(**spread)
    if needs.critic is None:
        return samples
    return _criticised(reader, needs, state, batch, reading, samples, costs)


def _signal(how: Advantages, needs: Needs, rewards: Float[Array, "G K"]) -> Bool[Array, "G K"] | None:
    """The samples whose reward differs from that of one they are compared with: with a critic, any of the batch."""
    if how.baseline is None:
        return None
    return telling(rewards) if needs.critic is not None else how.baseline.signal(rewards)


def _advantages(how: Advantages, rewards: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """r - b(x), over the whole batch."""
    if how.baseline is None:
        return jnp.zeros(rewards.shape, jnp.float32)
    advantages = how.baseline(rewards)
    return standardize(advantages) if how.normalize else advantages


def _criticised(
    reader: Reader,
    needs: Needs,
    state: TrainState,
    batch: Batch,
    reading: Reading,
    samples: Samples,
    costs: Float[Array, "*E"],
) -> Samples:
    """Advantages and value targets by the critic's estimator; a whole completion is one step."""
    policy, value = reader.policy, state.params["value"]
    read_by_policy = reading.states["old"], reading.features
    hidden, prompt = critic_states(policy, needs.critic, value, batch, read_by_policy, reader.prefill_chunk)
    if needs.level is Level.TOKEN:
        values = read_values(policy, value, hidden)
        following = jnp.concatenate([batch.mask[..., 1:], jnp.zeros_like(batch.mask[..., :1])], axis=-1)
        continues = batch.mask & following
        # The task's reward comes with the last token.
        rewards = jnp.where(batch.mask & ~following, batch.rewards[..., None], 0.0) - costs
        steps = rewards, needs.critic.gamma * continues, values, jnp.roll(values, -1, axis=-1)
        rewards, discounts, now, then = (jnp.where(batch.mask, x, 0.0) for x in steps)
        advantages, targets = needs.critic.estimator(rewards, discounts, continues, now, then)
        return samples._replace(advantages=advantages, values=values, value_targets=targets)
    values = read_values(policy, value, prompt)[:, None, None]
    rewards = samples.rewards[..., None]
    nothing, values = jnp.zeros_like(rewards), jnp.broadcast_to(values, rewards.shape)
    advantages, targets = needs.critic.estimator(rewards, nothing, nothing > 0, values, values)
    return samples._replace(advantages=advantages[..., 0], values=values[..., 0], value_targets=targets[..., 0])


def score_batch(
    reader: Reader, advantages: Advantages, needs: Needs, state: TrainState, batch: Batch
) -> tuple[Scored, Samples, Metrics]:
    """Scores a batch under every frozen policy that the method asks for, and takes the baseline off its rewards.

    Args:
      reader: how completions are read.
      advantages: how rewards become advantages.
      needs: of the method.
      state: parameters and snapshots.
      batch: G prompts with K completions each.

    Returns:
      The scored batch, the samples of the E-step, metrics.
    """
    reading = read(reader, needs, state, batch)
    samples = make_samples(reader, advantages, needs, state, batch, reading)
    region = needs.trust_region
    frozen = None if region is None else reading.states.get(region.towards)
    scored = Scored(batch._replace(states=None), reading.features, reading.log_probs["old"], frozen)
    return scored, samples, _metrics(reader, batch, reading)


def _metrics(reader: Reader, batch: Batch, reading: Reading) -> Metrics:
    metrics, num_tokens = {}, batch.mask.sum().astype(jnp.float32)
    if reading.entropy is not None:
        metrics["entropy"] = Metric(reading.entropy.sum(), num_tokens)
    if reader.written:
        metrics["sampler_shift"] = Metric.of(jnp.where(batch.mask, batch.sampler_shift, 0.0).sum(-1).mean())
    if reader.written and not reader.as_sampled:
        reported = jnp.where(batch.mask, batch.model_log_probs, 0.0)
        metrics["sampler_gap"] = Metric(jnp.abs(reading.log_probs["old"] - reported).sum(), num_tokens)
    if "ref" in reading.log_probs:
        log_ratios = reading.log_probs["old"].sum(-1) - reading.log_probs["ref"].sum(-1)
        metrics["kl"] = Metric.of(log_ratios.mean())
    return metrics
