"""Prompts and completions as TRL hands them to reward functions: both strings, or both role lists."""

from collections.abc import Sequence
from typing import Any

from gempi_jax.llm.columns import is_conversational


def as_turns(prompts: Sequence, completions: Sequence) -> tuple[list, list]:
    """Completions of role lists as role lists, ``[{"role": "assistant", "content": "..."}]``; others as they are.

    Where a prompt ends in the beginning of the assistant's message, that message is the completion's, whole.

    Args:
      prompts: texts, or role lists.
      completions: texts, or role lists, which stay; a content that is null is an empty text.
    """
    pairs = [_turn(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return [prompt for prompt, _ in pairs], [completion for _, completion in pairs]


def _turn(prompt: Any, completion: Any) -> tuple[Any, Any]:
    if is_conversational(completion):
        return prompt, [{**message, "content": message.get("content") or ""} for message in completion]
    if not isinstance(completion, str) or not is_conversational(prompt):
        return prompt, completion
    if prompt[-1]["role"] == "assistant":
        prompt, completion = prompt[:-1], (prompt[-1]["content"] or "") + completion
    return prompt, [{"role": "assistant", "content": completion}]
