"""Low-rank adapters: kernels W + (alpha / rank) A B, of which only A and B train.

Adapters are a tree of their own.  The adapted policy has the parameters ``merge_adapters(base, adapters, lora)``, made
inside the function that is differentiated in ``adapters``; the reference policy has ``base``, so it needs no second
copy.  One merged kernel costs D * r * F, little beside the N * D * F of using it on N tokens.
"""

import dataclasses
import math

import flax.traverse_util
import jax
import jax.numpy as jnp

from gempi_jax.types import Params


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections are adapted, and how.

    Attributes:
      rank: columns of A and rows of B.
      alpha: the adapters' product counts alpha / rank.
      targets: names of the adapted projections.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        known = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        unknown = [name for name in self.targets if name not in known]
        if unknown or not self.targets:
            raise ValueError(f"LoRA.targets is {self.targets}; choose one or more of {', '.join(known)}")
        if self.rank < 1:
            raise ValueError(f"LoRA.rank is {self.rank}; it must be at least 1")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


def init_adapters(params: Params, lora: LoRA, key: jax.Array) -> Params:
    """Fresh adapters for the targets in ``params``: A uniform as PyTorch's linear layers start, B zero.

    The adapted model starts as the base model, exactly.

    Args:
      params: of the base model.
      lora: what to adapt.
      key: for A.

    Returns:
      A tree of ``a`` [D, r] and ``b`` [r, F] under the path of each adapted projection, in float32.

    Raises:
      ValueError: a target that this model does not have.
    """
    flat = flax.traverse_util.flatten_dict(params)
    kernels = {path: leaf for path, leaf in flat.items() if path[-1] == "kernel" and path[-2] in lora.targets}
    missing = set(lora.targets) - {path[-2] for path in kernels}
    if missing:
        raise ValueError(
            f"LoRA.targets names {', '.join(sorted(missing))}, which this model does not have; leave it out"
        )
    adapters = {}
    for number, path in enumerate(sorted(kernels)):
        inputs, outputs = kernels[path].shape
        bound = math.sqrt(1.0 / inputs)
        shape = (inputs, lora.rank)
        adapters[(*path[:-1], "a")] = jax.random.uniform(
            jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound
        )
        adapters[(*path[:-1], "b")] = jnp.zeros((lora.rank, outputs))
    return flax.traverse_util.unflatten_dict(adapters)


def merge_adapters(params: Params, adapters: Params, lora: LoRA) -> Params:
    """The base parameters with the adapters' products added, in the base's dtype: what is exported."""
    merged = flax.traverse_util.flatten_dict(params)
    flat = flax.traverse_util.flatten_dict(adapters)
    for path in {path[:-1] for path in flat}:
        kernel = merged[(*path, "kernel")]
        change = lora.scale * (flat[(*path, "a")] @ flat[(*path, "b")])
        merged[(*path, "kernel")] = (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
    return flax.traverse_util.unflatten_dict(merged)
