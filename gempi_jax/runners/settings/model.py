"""The policy of a run: a checkpoint folder or a new model, whole or under adapters."""

import dataclasses

from gempi_jax.runners.settings.checks import require


@dataclasses.dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters, which train instead of the policy's own parameters.

    Attributes:
      path: a PEFT folder to go on from, with a rank, an alpha and targets of its own; empty starts afresh.
      rank: 0 for no adapters: everything trains.
      alpha: the adapters' product counts alpha / rank.
      dropout: rate on the adapters' input, in the M-step's likelihood only.
      targets: the adapted projections, of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
    """

    path: str = ""
    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        require(self.rank >= 0, "rank", self.rank, "must be at least 1, or 0 for no adapters")
        require(not (self.path and self.rank), "rank", self.rank, f"leave it 0: {self.path} says its rank itself")

    @property
    def used(self) -> bool:
        """Whether adapters train, and nothing else."""
        return bool(self.path or self.rank)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The policy: a checkpoint folder, or a decoder made here with a tokenizer trained on the spot.

    Attributes:
      path: a Hugging Face folder; empty makes a new model from the fields below.
      loader: decoder (ours, for the families that it covers) or flax (transformers' own Flax class, for any other).
      num_layers, hidden_size, num_heads, num_kv_heads, intermediate_size: of a new model.
      max_positions: longest sequence of a new model, tokens.
      vocab_size: of the tokenizer trained on the spot.
      dropout: rate on embeddings and residual branches, in the M-step's likelihood only.
      dtype: of activations: float32, bfloat16, or auto (bfloat16 on accelerators).
      end_tokens: tokens that end a completion, beside the tokenizer's own, those that the checkpoint names, and for
        conversations the one with which the chat template ends a turn.  The export lists them all.
      lora: adapters, see its class.
    """

    path: str = ""
    loader: str = "decoder"
    num_layers: int = 2
    hidden_size: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    intermediate_size: int = 384
    max_positions: int = 64
    vocab_size: int = 512
    dropout: float = 0.0
    dtype: str = "auto"
    end_tokens: tuple[str, ...] = ()
    lora: LoRASettings = LoRASettings()

    def __post_init__(self):
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "a rate is in [0, 1)")
        for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "max_positions"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")
        # A checkpoint brings its own sizes.
        if not self.path:
            for name, parts in (("hidden_size", "num_heads"), ("num_heads", "num_kv_heads")):
                fix = f"must be a multiple of {parts} = {getattr(self, parts)}"
                require(getattr(self, name) % getattr(self, parts) == 0, name, getattr(self, name), fix)
