"""Everything that an iteration reads and writes, as one pytree: what a checkpoint holds is what a run is."""

from typing import NamedTuple

from jaxtyping import Int, PyTree

from gempi_jax.types import Array, Duals


class TrainState(NamedTuple):
    """The state of a run between two iterations.

    Attributes:
      step: iterations completed in this phase.
      params: ``{"policy": ..., "value": ...}``; the value head is absent without a learned baseline.
      opt_state: of the parameters' optimiser.
      duals: of the method.
      dual_opt_state: of the duals' optimiser.
      snapshots: frozen policies by name, each a copy of ``params["policy"]``.
      key: root key of the run; everything random is a ``named_key`` of it.
      skipped: updates skipped in all because loss, gradient or reward was not finite.
      skipped_in_a_row: the latest uninterrupted stretch of iterations in which none could be made.
      method: what the method carries between batches beside the duals, and no gradient moves.
      world: what the world carries: environments, memories, replay; ``()`` for language.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    duals: Duals
    dual_opt_state: PyTree
    snapshots: dict[str, PyTree]
    key: Array
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]
    method: PyTree = ()
    world: PyTree = ()
