"""What a Transformer-XL remembers: for each layer a ring of its last inputs, with a count of those that are valid.

Step t stands in slot t mod S.  All environments of a batch move in step, so that one slot is written for all of them,
in place where the memory is donated or carried by a scan.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.types import Array


class Memory(NamedTuple):
    """The memory of B environments; axis 0 of every leaf is the environment, so that batches are cut as others are.

    Attributes:
      states: the inputs of each of the L layers at the last S steps.
      valid: how many of the steps before the next one belong to its episode, if that goes on.
      clock: the number of the next step, the same in all environments.
    """

    states: Float[Array, "B layers S D"]
    valid: Int[Array, "B"]
    clock: Int[Array, "B"]

    def rewound(self, start: "Memory") -> "Memory":
        """The memory as it was at ``start``, read from the ring that has been written since.

        It holds while no more than S - ``memory_length`` steps have been written in between, and copies nothing: what
        was written later stands in slots that are out of reach of the steps from ``start`` on.
        """
        return self._replace(valid=start.valid, clock=start.clock)


def empty(batch_size: int, num_layers: int, capacity: int, width: int, dtype: Any) -> Memory:
    """A memory of ``capacity`` slots in which nothing is valid."""
    states = jnp.zeros((batch_size, num_layers, capacity, width), dtype)
    return Memory(states, jnp.zeros((batch_size,), jnp.int32), jnp.zeros((batch_size,), jnp.int32))


def recall(memory: Memory, length: int) -> Float[Array, "B layers M D"]:
    """The last ``length`` steps before the next one, oldest first, whether they are valid or not; no gradient flows."""
    slots = (memory.clock[0] - length + jnp.arange(length)) % memory.states.shape[2]
    return jax.lax.stop_gradient(memory.states.at[:, :, slots].get(mode="promise_in_bounds", unique_indices=True))


def write(memory: Memory, new: Float[Array, "B layers T D"], resets: Bool[Array, "B T"]) -> Memory:
    """The memory after T more steps, of which ``resets`` begin episodes; of more than S, the last S are held."""
    capacity, steps = memory.states.shape[2], new.shape[2]
    new = jax.lax.stop_gradient(new).astype(memory.states.dtype)
    if steps == 1:
        states = jax.lax.dynamic_update_slice_in_dim(memory.states, new, memory.clock[0] % capacity, axis=2)
    else:
        kept = min(steps, capacity)
        slots = (memory.clock[0] + steps - kept + jnp.arange(kept)) % capacity
        last = new[:, :, steps - kept :]
        states = memory.states.at[:, :, slots].set(last, mode="promise_in_bounds", unique_indices=True)
    since = jnp.min(jnp.where(resets, steps - jnp.arange(steps)[None], steps + memory.valid[:, None]), axis=1)
    # A clock below the capacity, and a count that it bounds, never overflow, however long a run is.
    return Memory(states, jnp.minimum(since, capacity), (memory.clock + steps) % capacity)


def visible(resets: Bool[Array, "B T"], valid: Int[Array, "B"], length: int) -> Bool[Array, "B T N"]:
    """Which of the N = M + T steps (the last M = ``length``, then the T of this chunk) each of the T may attend to.

    Those at a distance of 0 to M that belong to the same episode and are valid.
    """
    steps = resets.shape[1]
    episode = jnp.cumsum(resets, axis=1, dtype=jnp.int32)
    distance = jnp.arange(steps)[:, None] + length - jnp.arange(length + steps)[None]
    near = (distance >= 0) & (distance <= length)
    remembered = jnp.arange(length, 0, -1)[None] <= valid[:, None]
    remembered = remembered[:, None, :] & (episode == 0)[:, :, None]
    same = episode[:, :, None] == episode[:, None, :]
    return jnp.concatenate([remembered, same], axis=-1) & near[None]


__all__ = ["Memory", "empty", "recall", "visible", "write"]
