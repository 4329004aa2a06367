"""Hugging Face checkpoints, in and out."""

from gempi_jax.llm.hf.config import read_config, write_config
from gempi_jax.llm.hf.end_tokens import list_end_tokens
from gempi_jax.llm.hf.peft import load_adapters, save_adapters
from gempi_jax.llm.hf.pretrained import CheckpointConfig, Pretrained, load_pretrained, save_pretrained

__all__ = [
    "CheckpointConfig",
    "Pretrained",
    "list_end_tokens",
    "load_adapters",
    "load_pretrained",
    "read_config",
    "save_adapters",
    "save_pretrained",
    "write_config",
]
