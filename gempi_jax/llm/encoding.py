"""From rows of texts to tokens: what is too long is handled by a stated policy, and counted.

Every text is encoded as a whole, see :mod:`gempi_jax.llm.seams`: a completion as what follows its prompt, and a prompt
as what a completion follows.  So the prompts of demonstrations are those of rollouts and evaluation; where a token lies
across the seam, it belongs to the completion, is learnt, and the row is counted.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.chat import Turns, encode_turns, render_completion, render_prompt
from gempi_jax.llm.columns import DataError
from gempi_jax.llm.seams import Pair, encode_openings, encode_pairs


class TooLong(enum.Enum):
    """What happens to a text with more tokens than fit."""

    DROP = "drop"
    TRUNCATE = "truncate"
    """A prompt keeps its end (and its bos token), a completion its beginning (and so loses its eos)."""
    ERROR = "error"


class Encoded(NamedTuple):
    """Token ids of the texts that are left, and what became of the others.

    Attributes:
      tokens: ids by text.
      kept: [len(tokens)] which of the given texts they are, ascending.
      num_dropped: texts that were left out.
      num_truncated: texts that lost tokens.
    """

    tokens: list[list[int]]
    kept: Int[np.ndarray, " N"]
    num_dropped: int
    num_truncated: int


Text = str | Sequence[dict[str, Any]]
"""A string or a role list."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text], max_length: int, policy: TooLong = TooLong.DROP
) -> Encoded:
    """Token ids of prompts, with the special tokens that this tokenizer puts in front of a text.

    They are those of texts that go on: see :func:`gempi_jax.llm.seams.encode_openings`.

    Args:
      tokenizer: of the policy.
      prompts: texts, or role lists, which the tokenizer's chat template writes.
      max_length: tokens that a prompt may have: the context of the model less the completion.
      policy: what to do with longer ones.

    Raises:
      ValueError: a prompt without a token, a prompt that is too long under ``ERROR``, or all prompts dropped.
    """
    texts = [prompt_text(tokenizer, prompt) for prompt in prompts]
    encoded = encode_openings(tokenizer, texts, [not isinstance(prompt, str) for prompt in prompts])
    return _fit_prompts(tokenizer, encoded, max_length, policy)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> str:
    """The text of a prompt, up to where a completion begins."""
    return prompt if isinstance(prompt, str) else render_prompt(tokenizer, prompt)


def encode_completions(
    tokenizer: PreTrainedTokenizerBase,
    completions: Sequence[Text],
    max_length: int,
    policy: TooLong = TooLong.DROP,
    *,
    prompts: Sequence[Text] | None = None,
) -> Encoded:
    """Token ids of completions as they stand behind their prompts, each ended by the eos token.

    Args:
      tokenizer: of the policy.
      completions: texts, or role lists.
      max_length: tokens that a completion may have, eos included.
      policy: what to do with longer ones.
      prompts: what they follow; needed for role lists, whose text depends on it.

    Raises:
      ValueError: a completion that is too long under ``ERROR``, all completions dropped, or a role list without its
        prompt.
    """
    before = [""] * len(completions) if prompts is None else prompts
    pairs = _pairs(tokenizer, list(zip(before, completions, strict=True)))
    return _fit_completions([pair.completion for pair in pairs], max_length, policy)


class Demonstrations(NamedTuple):
    """Prompts and what is learnt behind them.

    Attributes:
      prompts, completions: ids by row.
      learnt: which tokens of each completion carry loss.
      straddles: [len(prompts)] rows in which a token lies across the seam of prompt and completion.
      kept: [len(prompts)] which of the given rows they are, ascending.
      num_dropped, num_truncated: rows that were left out, and that lost tokens.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    learnt: list[list[bool]]
    straddles: Bool[np.ndarray, " N"]
    kept: Int[np.ndarray, " N"]
    num_dropped: int
    num_truncated: int


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    max_prompt_length: int,
    max_completion_length: int,
    long_prompts: TooLong = TooLong.DROP,
    long_completions: TooLong = TooLong.DROP,
) -> Demonstrations:
    """Token ids of rows with ``messages``, or with ``prompt`` and ``completion`` (strings or role lists).

    Of conversations, the assistant's tokens carry loss, its end tokens included, in every one of its turns: of a
    ``completion`` those in it, of ``messages`` all.  Where those begin, the completion begins.

    Raises:
      DataError, ValueError: as :func:`encode_prompts` and :func:`encode_completions`.
    """
    turns = _turns(tokenizer, rows)
    texts = [turn.completion for turn in turns]
    completions = _fit_completions(texts, max_completion_length, long_completions)
    turns = [turns[i] for i in completions.kept]
    prompts = _fit_prompts(tokenizer, [turn.prompt for turn in turns], max_prompt_length, long_prompts)
    tokens = [completions.tokens[i] for i in prompts.kept]
    learnt = [turns[i].learnt[: len(completions.tokens[i])] for i in prompts.kept]
    return Demonstrations(
        prompts.tokens,
        tokens,
        learnt,
        np.array([turns[i].straddles for i in prompts.kept], bool),
        completions.kept[prompts.kept],
        prompts.num_dropped + completions.num_dropped,
        prompts.num_truncated + completions.num_truncated,
    )


def _turns(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> list[Turns]:
    turns: list[Turns | None] = [_several_turns(tokenizer, row) for row in rows]
    rest = [i for i, found in enumerate(turns) if found is None]
    pairs = _pairs(tokenizer, [(rows[i]["prompt"], rows[i]["completion"]) for i in rest])
    for i, pair in zip(rest, pairs, strict=True):
        turns[i] = Turns(pair.prompt, pair.completion, [True] * len(pair.completion), pair.straddles)
    return turns


def _several_turns(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Turns | None:
    """A row in which the assistant may speak more than once; ``None`` for prompts with one completion."""
    if "messages" in row:
        return encode_turns(tokenizer, row["messages"])
    prompt, completion = row["prompt"], row["completion"]
    several = not isinstance(prompt, str) and not isinstance(completion, str) and len(completion) > 1
    if several and prompt[-1]["role"] != "assistant":
        given = sum(message["role"] == "assistant" for message in prompt)
        return encode_turns(tokenizer, [*prompt, *completion], num_given=given)
    return None


def _pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[Text, Text]]) -> list[Pair]:
    """Prompts with their completions as tokens, these ended by the eos token."""
    texts = [_pair_text(tokenizer, *pair) for pair in pairs]
    encoded = encode_pairs(tokenizer, texts, [not isinstance(prompt, str) for prompt, _ in pairs])
    return [
        pair._replace(completion=_ended(pair.completion, tokenizer.eos_token_id, by_template=text is not completion))
        for pair, (_, text), (_, completion) in zip(encoded, texts, pairs, strict=True)
    ]


def _pair_text(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text) -> tuple[str, str]:
    if isinstance(completion, str):
        return prompt_text(tokenizer, prompt), completion
    if isinstance(prompt, str):
        raise DataError("a completion is a role list, but its prompt is not; make both strings or both role lists.")
    return prompt_text(tokenizer, prompt), render_completion(tokenizer, prompt, completion)


def _ended(tokens: list[int], eos: int, *, by_template: bool) -> list[int]:
    if by_template and eos in tokens:
        # The turn's end, perhaps with more behind it; nothing that follows the end is ever sampled.
        return tokens[: len(tokens) - tokens[::-1].index(eos)]
    return tokens if tokens[-1:] == [eos] else [*tokens, eos]


def _fit_prompts(
    tokenizer: PreTrainedTokenizerBase, encoded: list[list[int]], max_length: int, policy: TooLong
) -> Encoded:
    if [] in encoded and tokenizer.bos_token_id is None:
        raise ValueError(
            f"encode_prompts: prompt {encoded.index([])} has no tokens, and the tokenizer has no bos token to start "
            "from; remove the row or give the prompt some text."
        )
    encoded = [tokens or [tokenizer.bos_token_id] for tokens in encoded]
    return _fit(encoded, max_length, policy, "prompt", lambda tokens: _keep_end(tokens, max_length, tokenizer))


def _fit_completions(encoded: list[list[int]], max_length: int, policy: TooLong) -> Encoded:
    return _fit(encoded, max_length, policy, "completion", lambda tokens: tokens[:max_length])


def _keep_end(tokens: list[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if tokens[0] == tokenizer.bos_token_id:
        return tokens[:1] + tokens[len(tokens) - max_length + 1 :]
    return tokens[len(tokens) - max_length :]


def _fit(encoded: list[list[int]], max_length: int, policy: TooLong, kind: str, truncate: Callable) -> Encoded:
    if max_length < 1:
        raise ValueError(f"encode_{kind}s: max_length is {max_length}; leave room for at least one token.")
    long = [index for index, tokens in enumerate(encoded) if len(tokens) > max_length]
    if policy is TooLong.ERROR and long:
        raise ValueError(
            f"encode_{kind}s: {len(long)} of {len(encoded)} {kind}s are longer than {max_length} tokens, first {kind} "
            f"{long[0]} with {len(encoded[long[0]])}; raise max_length, or choose TooLong.DROP or TooLong.TRUNCATE."
        )
    if policy is TooLong.TRUNCATE:
        tokens = [truncate(tokens) if len(tokens) > max_length else tokens for tokens in encoded]
        return Encoded(tokens, np.arange(len(tokens)), 0, len(long))
    if encoded and len(long) == len(encoded):
        raise ValueError(
            f"encode_{kind}s: every one of the {len(encoded)} {kind}s is longer than {max_length} tokens (shortest "
            f"{min(map(len, encoded))}), so none is left; raise max_length or choose TooLong.TRUNCATE."
        )
    kept = np.setdiff1d(np.arange(len(encoded)), np.asarray(long, int))
    return Encoded([encoded[index] for index in kept], kept, len(long), 0)
