"""The language world: prompts in, completions, rewards and log-probabilities out."""

from gempi_jax.llm.generate import Completions, generate
from gempi_jax.llm.scoring import Scores, TokenTerms, hidden_states, score, token_terms

__all__ = [
    "Completions",
    "Scores",
    "TokenTerms",
    "generate",
    "hidden_states",
    "score",
    "token_terms",
]
