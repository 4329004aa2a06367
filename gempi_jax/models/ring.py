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
      states: the inputs of each layer at the last S steps.
      valid: how many of the steps before the next one belong to its episode, if that goes on.
      clock: the number of the next step, the same in all environments.
    """

    states: tuple[Float[Array, "B S D"], ...]
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

    def zeros(*shape, dtype=jnp.int32):
        return jnp.zeros((batch_size, *shape), dtype)

    return Memory(tuple(zeros(capacity, width, dtype=dtype) for _ in range(num_layers)), zeros(), zeros())


def recall(states: Float[Array, "B S D"], clock: Int[Array, "B"], length: int) -> Float[Array, "B M D"]:
    """The last ``length`` steps before the next one, oldest first, whether they are valid or not; no gradient flows."""
    slots = (clock[0] - length + jnp.arange(length)) % states.shape[1]
    return jax.lax.stop_gradient(states.at[:, slots].get(mode="promise_in_bounds", unique_indices=True))


def write(states: Float[Array, "B S D"], new: Float[Array, "B T D"], clock: Int[Array, "B"]) -> Float[Array, "B S D"]:
    """The ring after T more steps; of more than S, the last S."""
    capacity, steps = states.shape[1], new.shape[1]
    new = jax.lax.stop_gradient(new).astype(states.dtype)
    if steps == 1:
        return jax.lax.dynamic_update_slice_in_dim(states, new, clock[0] % capacity, axis=1)
    kept = min(steps, capacity)
    slots = (clock[0] + steps - kept + jnp.arange(kept)) % capacity
    return states.at[:, slots].set(new[:, steps - kept :], mode="promise_in_bounds", unique_indices=True)


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


def advance(memory: Memory, resets: Bool[Array, "B T"]) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """``valid`` and ``clock`` after the steps of ``resets``; no more is counted than the ring holds."""
    steps = resets.shape[1]
    since = jnp.min(jnp.where(resets, steps - jnp.arange(steps)[None], steps + memory.valid[:, None]), axis=1)
    # A clock that is kept below twice the capacity never overflows, however long a run is.
    capacity = memory.states[0].shape[1] if memory.states else 1
    return jnp.minimum(since, capacity), (memory.clock + steps) % capacity


__all__ = ["Memory", "advance", "empty", "recall", "visible", "write"]
