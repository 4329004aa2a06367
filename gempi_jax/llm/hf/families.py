"""The table of families that are read and written."""

from gempi_jax.llm.hf.family import Family
from gempi_jax.llm.hf.gemma import GEMMA, GEMMA2, GEMMA3
from gempi_jax.llm.hf.gpt2 import GPT2
from gempi_jax.llm.hf.llama import LLAMA, MISTRAL, OLMO2, PHI3, QWEN2, QWEN3

FAMILIES: tuple[Family, ...] = (LLAMA, GPT2, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, PHI3, OLMO2)
