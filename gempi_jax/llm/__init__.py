"""The language world: prompts in, completions, rewards and log-probabilities out."""

from gempi_jax.llm.chat import Conversation, encode_conversation
from gempi_jax.llm.columns import DataError
from gempi_jax.llm.datasets import batch_indices, load_rows
from gempi_jax.llm.encoding import encode_completions, encode_prompts
from gempi_jax.llm.generate import Completions, generate
from gempi_jax.llm.hf import CheckpointConfig, Pretrained, load_pretrained, save_pretrained
from gempi_jax.llm.lengths import Encoded, TooLong
from gempi_jax.llm.padding import MultipleOf, Padded, PowerOfTwo, pad_batch
from gempi_jax.llm.rewards import (
    RewardError,
    RewardResult,
    RewardSpec,
    check_columns,
    compute_rewards,
    exact_match,
    load_reward,
    preflight,
    story_reward,
)
from gempi_jax.llm.scoring import Scores, TokenTerms, hidden_states, score, token_terms
from gempi_jax.llm.streaming import StreamedRows
from gempi_jax.llm.synthetic import arithmetic_rows
from gempi_jax.llm.tokenizers import Alphabet, load_tokenizer, train_tokenizer

__all__ = [
    "Alphabet",
    "CheckpointConfig",
    "Completions",
    "Conversation",
    "DataError",
    "Encoded",
    "MultipleOf",
    "Padded",
    "PowerOfTwo",
    "Pretrained",
    "RewardError",
    "RewardResult",
    "RewardSpec",
    "Scores",
    "StreamedRows",
    "TokenTerms",
    "TooLong",
    "arithmetic_rows",
    "batch_indices",
    "check_columns",
    "compute_rewards",
    "encode_completions",
    "encode_conversation",
    "encode_prompts",
    "exact_match",
    "generate",
    "hidden_states",
    "load_pretrained",
    "load_reward",
    "load_rows",
    "load_tokenizer",
    "pad_batch",
    "preflight",
    "save_pretrained",
    "score",
    "story_reward",
    "token_terms",
    "train_tokenizer",
]
