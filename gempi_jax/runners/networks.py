"""The networks of a run, and the frozen copies of them that it keeps."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gempi_jax.models import Adapted
from gempi_jax.training.state import TrainState
from gempi_jax.types import Params


class Policy(NamedTuple):
    """The networks of a run, without the parameters that train.

    Attributes:
      model: a :class:`gempi_jax.models.Decoder`, or what has its passes.
      value_head: of the critic; ``None`` without one.
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
