"""An agent whose critic knows what each action is worth, Q(s, a), of which V is the expectation under its policy."""

from jaxtyping import Float

from gempi_jax.losses import expected_values
from gempi_jax.rl.agent import Agent, Memories, Read, Seen
from gempi_jax.types import Array, Params


class ActionValueAgent(Agent):
    """An :class:`Agent` whose ``value_head`` makes Q [B, T, V], on a ``value_trunk`` of its own."""

    def action_values(self, params: Params, seen: Seen, memories: Memories) -> Float[Array, "B T V"]:
        """Q at T steps."""
        return self._critic(params, seen, memories)[0]

    def read(self, params: Params, seen: Seen, memories: Memories) -> Read:
        """The policy at T steps, and V = sum_a pi Q."""
        policy, _, memory = self.act(params["policy"], seen, memories.policy)
        values, own = self._critic(params, seen, memories)
        return Read(policy, expected_values(policy.log_probs, values), Memories(memory, own))

    def _critic(self, params: Params, seen: Seen, memories: Memories):
        features, own = self.value_trunk.apply({"params": params["value"]["trunk"]}, seen, memories.value)
        return self.value_head.apply({"params": params["value"]["head"]}, features), own


__all__ = ["ActionValueAgent"]
