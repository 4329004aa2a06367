"""A decoder as data: every family of language models is one value of :class:`DecoderConfig`."""

import dataclasses
import enum
from collections.abc import Callable

import jax

from gempi_jax.models.positions import Learned, Rotary, check_rotary


@dataclasses.dataclass(frozen=True)
class RMS:
    """x / rms(x) times (offset + scale); Gemma stores the scale minus one, offset 1."""

    epsilon: float = 1e-6
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class Layer:
    """(x - mean) / std times scale plus bias."""

    epsilon: float = 1e-5


class Placement(enum.Enum):
    """Where a block's norm sits: on its input, on its output before the residual is added, or on both."""

    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"


class HeadNorm(enum.Enum):
    """Norm of queries and keys: none, each head by itself, or the whole projection at once."""

    NONE = "none"
    PER_HEAD = "per_head"
    PROJECTION = "projection"


@dataclasses.dataclass(frozen=True)
class Band:
    """What tells one layer's attention from another's.

    Attributes:
      window: how many positions, its own included, a query sees; ``None`` for all before it.
      positions: the position scheme of this layer; ``None`` for the decoder's own.
      scale: factor on this layer's attention logits on top of the query scale.
    """

    window: int | None = None
    positions: Rotary | None = None
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Everything that tells one decoder-only language model from another.

    Attributes:
      vocab_size: rows of the embedding.
      hidden_size: width D of the residual stream.
      intermediate_size: width of the MLP.
      num_layers: number of blocks.
      num_heads: query heads.
      num_kv_heads: key/value heads; ``None`` for as many as query heads.
      head_dim: width of one head; ``None`` for hidden_size / num_heads.
      max_positions: longest sequence the model was made for; a hard limit for learned positions only.
      norm: RMS(...) or Layer(...), for all norms.
      placement: where the norms of a block sit.
      head_norm: norm of queries and keys.
      activation: of the MLP, a function of arrays.
      gated: MLP is down(activation(gate(x)) * up(x)) instead of down(activation(up(x))).
      qkv_bias, output_bias, mlp_bias: which projections have a bias.
      positions: Rotary(...) or Learned().
      bands: one per layer where layers differ; empty when all attend to everything before them.
      query_scale: factor on attention logits; ``None`` for head_dim ** -0.5.
      attention_softcap, logits_softcap: c * tanh(x / c) on attention logits and on the model's logits.
      embedding_scale: factor on the embedded tokens.
      tie_embeddings: the LM head is the transposed embedding.
      embedding_dropout, residual_dropout, attention_dropout: rates, active with ``deterministic=False``.
      initializer_range: standard deviation of the initial weights.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int = 1024
    norm: RMS | Layer = RMS()
    placement: Placement = Placement.PRE
    head_norm: HeadNorm = HeadNorm.NONE
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    positions: Rotary | Learned = dataclasses.field(default_factory=Rotary)
    bands: tuple[Band, ...] = ()
    query_scale: float | None = None
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    embedding_scale: float = 1.0
    tie_embeddings: bool = False
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self):
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"DecoderConfig.{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"DecoderConfig.num_heads is {self.num_heads}; it must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"DecoderConfig.hidden_size is {self.hidden_size}, no multiple of num_heads ({self.num_heads}); "
                    "state head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        for scheme in {self.positions, *(band.positions for band in self.bands)}:
            if isinstance(scheme, Rotary):
                check_rotary(scheme, self.head_dim)
        if self.bands and len(self.bands) != self.num_layers:
            raise ValueError(
                f"DecoderConfig.bands has {len(self.bands)} entries for {self.num_layers} layers; give one per layer"
            )
        for name in ("embedding_dropout", "residual_dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"DecoderConfig.{name} is {getattr(self, name)}; it must be in [0, 1)")

    def band(self, layer: int) -> Band:
        """The attention of one layer."""
        return self.bands[layer] if self.bands else Band()

    def layer_positions(self, layer: int) -> Rotary | Learned:
        """The position scheme of one layer."""
        return self.band(layer).positions or self.positions

    def without_dropout(self) -> "DecoderConfig":
        """The same decoder with all dropout rates 0."""
        return dataclasses.replace(self, embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
