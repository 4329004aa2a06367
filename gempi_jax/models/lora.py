"""Low-rank adapters: y = x W + (alpha / rank) drop(x) A B, of which only A and B train.

Adapters are a tree of their own, and an :class:`Adapted` model is one whose parameters they are: the base parameters
are a field of it.  The projections add the second term as they are called, so a merged copy of the weights exists in
an export only, and the base without adapters is the policy with the tree ``{}``: the reference policy of a run.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.models.config import DecoderConfig
from gempi_jax.models.decoder import Decoder
from gempi_jax.models.dense import Dense, matmul
from gempi_jax.models.dropout import drop
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Params

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What can be adapted: the projections of a block."""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections are adapted, and how.

    Attributes:
      rank: columns of A and rows of B.
      alpha: the adapters' product counts alpha / rank.
      targets: names of the adapted projections.
      dropout: rate at which A's input is dropped; W's is not.  Rounded as :class:`~gempi_jax.models.dropout.Dropout`.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = 0.0

    def __post_init__(self):
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown or not self.targets:
            raise ValueError(f"LoRA.targets is {self.targets}; choose one or more of {', '.join(PROJECTIONS)}")
        if self.rank < 1:
            raise ValueError(f"LoRA.rank is {self.rank}; it must be at least 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"LoRA.alpha is {self.alpha}; it must be a positive number")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"LoRA.dropout is {self.dropout}; a rate is in [0, 1)")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A decoder whose parameters are its adapters, with the passes of :class:`gempi_jax.models.Decoder`.

    Attributes:
      model: the decoder.
      lora: how the adapters count.
      base: the decoder's own parameters, which nothing differentiates.  Under jit they are to be an argument of the
        compiled function, put in place inside it by :meth:`on`, or they would be constants of it.
    """

    model: Decoder
    lora: LoRA
    base: Params | None = None

    @property
    def config(self) -> DecoderConfig:
        """The decoder's."""
        return self.model.config

    @property
    def dtype(self) -> Any:
        """The decoder's."""
        return self.model.dtype

    def on(self, base: Params) -> "Adapted":
        """The same adapters on these base parameters."""
        return dataclasses.replace(self, base=base)

    def apply(
        self,
        variables: dict[str, Params],
        *args: Any,
        method: str | None = None,
        deterministic: bool = True,
        rngs: dict[str, Array] | None = None,
        **options: Any,
    ) -> Any:
        """As ``Decoder.apply``, of adapters; those of a projection may be missing, and ``{}`` is the base itself."""
        if self.base is None:
            raise ValueError("Adapted.apply: there are no base parameters; use model.on(base).apply(...)")
        adapters = variables["params"]

        def adapt(call, args, kwargs, context):
            outputs = call(*args, **kwargs)
            module = context.module
            own = _at(adapters, module.path) if isinstance(module, Dense) else None
            if own is None or context.method_name != "__call__":
                return outputs
            inputs = args[0]
            if not deterministic and self.lora.dropout:
                inputs = drop(module.make_rng("dropout"), self.lora.dropout, inputs)
            return outputs + low_rank(inputs, own, self.lora.scale, outputs.dtype)

        # The passes without dropout know no such switch.
        options |= {} if deterministic else {"deterministic": False}
        with nn.intercept_methods(adapt):
            return self.model.apply({"params": self.base}, *args, method=method, rngs=rngs, **options)


def low_rank(inputs: Float[Array, "*N D"], adapter: Params, scale: float, dtype: Any) -> Float[Array, "*N F"]:
    """scale x A B in ``dtype``: through the narrow rank, never as a matrix A B."""
    narrow = matmul(inputs.astype(dtype), adapter["a"].astype(dtype))
    return matmul(narrow, (scale * adapter["b"]).astype(dtype))


def _at(tree: Params, path: tuple[str, ...]) -> Params | None:
    """The subtree at a path, or ``None``."""
    for name in path:
        if name not in tree:
            return None
        tree = tree[name]
    return tree


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
    for path in sorted(kernels):
        inputs, outputs = kernels[path].shape
        bound = math.sqrt(1.0 / inputs)
        shape = (inputs, lora.rank)
        adapters[(*path[:-1], "a")] = jax.random.uniform(
            named_key(key, "/".join(path)), shape, minval=-bound, maxval=bound
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
