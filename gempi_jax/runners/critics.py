"""The critic of a run: a head on the states of the policy, or of a network of its own that starts as the policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.llm.scoring import hidden_states
from gempi_jax.methods.base import Critic, Features
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.networks import Policy
from gempi_jax.types import Array, Params


def initial_critic(policy: Policy, start: Params, hidden_size: int, key: Array, *, own: bool) -> Params:
    """``params["value"]``: a fresh head, and with a network of its own a copy of what trains of the policy.

    Args:
      policy: whose head it is; ``{}`` without one.
      start: the policy's parameters at the start of the run.
      hidden_size: of its states.
      key: of the head.
      own: whether a phase's critic reads :attr:`Features.OWN`.
    """
    if policy.value_head is None:
        return {}
    head = {"head": policy.value_head.init(key, jnp.zeros((1, hidden_size)))["params"]}
    return {"value": head | ({"network": jax.tree.map(jnp.copy, start)} if own else {})}


def critic_states(
    policy: Policy, critic: Critic, params: Params, batch: Batch, states: tuple[Array, Array], prefill_chunk: int | None
) -> tuple[Float[Array, "G K C D"], Float[Array, "G D"]]:
    """The states that the head reads: those that predict each token, and the last of each prompt.

    Args:
      policy: the networks.
      critic: which of them.
      params: ``params["value"]``.
      batch: the completions.
      states: the policy's.
      prefill_chunk: as in :func:`gempi_jax.llm.scoring.hidden_states`.
    """
    if critic.features is Features.OWN:
        rows = batch.prompts, batch.prompt_lengths, batch.completions
        return hidden_states(policy.model, params["network"], *rows, prefill_chunk=prefill_chunk)
    return jax.lax.stop_gradient(states) if critic.features is Features.DETACHED else states


def read_values(policy: Policy, params: Params, states: Float[Array, "*N D"]) -> Float[Array, "*N"]:
    """V of each state, in units of reward."""
    return policy.value_head.apply({"params": params["head"]}, states)
