"""A world small enough to know everything about, for any method: logits of completions that are parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax.contracts import Counts, Evaluation, Metric, Samples
from gempi_jax.em import ExactDivergence, Level
from gempi_jax.methods import Method
from gempi_jax.training.step import World

GROUPS, SAMPLES, LENGTH, ACTIONS = 8, 4, 5, 6


class Data(NamedTuple):
    """Completions, and what frozen policies say of them; units in axis 0.

    Attributes:
      features: of each position; the logits are features @ params["w"].
      actions: the tokens.
      mask: ragged: between one and all of the positions.
      log_probs: of each token under pi_t ("old") and pi_ref ("ref"), with all logits.
    """

    features: jax.Array
    actions: jax.Array
    mask: jax.Array
    old_logits: jax.Array
    ref_logits: jax.Array


def make_data(seed: int = 0, length: int = LENGTH) -> Data:
    """Random ragged completions."""
    rng = np.random.default_rng(seed)
    shape = (GROUPS, SAMPLES, length)
    lengths = rng.integers(1, length + 1, shape[:2])
    logits = [rng.normal(size=(*shape, ACTIONS)) for _ in range(2)]
    features = rng.normal(size=(*shape, 3))
    arrays = (features, rng.integers(0, ACTIONS, shape), np.arange(length) < lengths[..., None], *logits)
    dtypes = (jnp.float32, jnp.int32, bool, jnp.float32, jnp.float32)
    return Data(*(jnp.asarray(x, d) for x, d in zip(arrays, dtypes, strict=True)))


def make_params(seed: int = 1):
    """A policy, and the value of an example as a linear function of its first features."""
    rng = np.random.default_rng(seed)
    policy = jnp.asarray(0.5 * rng.normal(size=(3, ACTIONS)), jnp.float32)
    return {"policy": {"w": policy}, "value": {"v": jnp.asarray(rng.normal(size=3), jnp.float32)}}


def token_log_probs(logits, data: Data):
    """log pi of the tokens."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), data.actions[..., None], -1)[..., 0]


def make_samples(method: Method, data: Data, rewards=None, seed: int = 2) -> Samples:
    """What a world hands to the E-step for completions with these rewards (random, a flat first group)."""
    rng = np.random.default_rng(seed)
    needs, by_token = method.needs, method.needs.level is Level.TOKEN
    if rewards is None:
        rewards = rng.integers(0, 2, (GROUPS, SAMPLES)) + 0.25 * rng.integers(0, 3, (GROUPS, SAMPLES))
        rewards[0] = 0.5
    rewards = jnp.asarray(rewards, jnp.float32)

    def of_example(values):
        masked = jnp.where(data.mask, values, 0.0)
        return masked if by_token else masked.sum(-1)

    named = {"old": data.old_logits, "ref": data.ref_logits}
    log_probs = {name: of_example(token_log_probs(logits, data)) for name, logits in named.items()}
    shape = log_probs["old"].shape
    anchors = [log_probs[name] for name in needs.anchors]
    centred = rewards - rewards[:, :1] - (rewards - rewards[:, :1]).mean(-1, keepdims=True)

    def spread(x):
        return jnp.broadcast_to(x[..., None], shape) if by_token else x

    values = jnp.asarray(rng.normal(size=shape), jnp.float32)
    # Of the prompt's own rewards, and flat where they are.
    reference = rewards[:, rng.integers(0, SAMPLES, needs.reference_samples)]
    return Samples(
        spread(centred),
        log_probs["old"],
        jnp.stack(anchors) if anchors else jnp.zeros((0, *shape)),
        data.mask if by_token else None,
        spread(rewards),
        spread(jnp.broadcast_to((rewards != rewards[:, :1]).any(-1, keepdims=True), rewards.shape)),
        values if needs.critic is not None else None,
        values + spread(centred) if needs.critic is not None else None,
        reference if needs.reference_samples else None,
    )


def world(method: Method) -> World:
    """How any method's policy is evaluated on a part of the data; gradients reach ``params``."""
    needs, by_token = method.needs, method.needs.level is Level.TOKEN

    def distance(data: Data, log_q, log_probs):
        frozen = data.old_logits if needs.trust_region.towards == "old" else data.ref_logits
        measure = needs.trust_region.divergence
        if isinstance(measure, ExactDivergence):
            return measure.function(jax.nn.log_softmax(frozen), log_q)
        return measure.function(token_log_probs(frozen, data), log_probs)

    def divergence(params, snapshots, data: Data):
        logits = data.features @ params["policy"]["w"]
        values = distance(data, jax.nn.log_softmax(logits), token_log_probs(logits, data))
        return {"kl": Metric(jnp.sum(values, where=data.mask), data.mask.sum().astype(jnp.float32))}

    def evaluate(params, snapshots, data: Data, key, counts: Counts) -> Evaluation:
        logits = data.features @ params["policy"]["w"]
        log_probs = jnp.where(data.mask, token_log_probs(logits, data), 0.0)
        log_q = jax.nn.log_softmax(logits)
        paid_for = needs.trust_region is not None and not needs.trust_region.at_end
        divergence = {"kl": distance(data, log_q, log_probs)} if paid_for else {}
        values = data.features @ params["value"]["v"]
        fields = {
            "log_probs": log_probs,
            "mask": data.mask,
            "old_log_probs": jnp.where(data.mask, token_log_probs(data.old_logits, data), 0.0) if needs.ratio else None,
            "entropy": -(jnp.exp(log_q) * log_q).sum(-1) if needs.entropy else None,
        }
        if by_token:
            fields = {name: None if value is None else value[..., None] for name, value in fields.items()}
            divergence = {part: value[..., None] for part, value in divergence.items()}
        return Evaluation(
            **fields,
            divergence=divergence,
            counts=counts,
            values=None if needs.critic is None else (values if by_token else values[..., 0]),
            prior=0.5 * jnp.square(params["policy"]["w"]).sum() if needs.prior else None,
        )

    def count(data: Data):
        examples = data.mask if by_token else data.mask.any(-1)
        return data.mask.sum().astype(jnp.float32), examples.sum().astype(jnp.float32)

    return World(evaluate, count, divergence)
