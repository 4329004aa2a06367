"""From rows of texts to tokens.

Every text is encoded as a whole, see :mod:`gempi_jax.llm.seams`: a completion as what follows its prompt, and a prompt
as what a completion follows.  So the prompts of demonstrations are those of rollouts and evaluation; where a token lies
across the seam, it belongs to the completion, is learnt, and the row is counted.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.chat import Turns, encode_turns, render_completion, render_prompt
from gempi_jax.llm.columns import DataError, is_text_row
from gempi_jax.llm.lengths import Encoded, TooLong, fit_completions, fit_prompts
from gempi_jax.llm.messages import template_options
from gempi_jax.llm.seams import Pair, decode_completions, encode_openings, encode_pairs
from gempi_jax.llm.templates import Options

Text = str | Sequence[dict[str, Any]]
"""A string or a role list."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    max_length: int,
    policy: TooLong = TooLong.DROP,
    *,
    options: Sequence[Options] | None = None,
) -> Encoded:
    """Token ids of prompts, with the special tokens that this tokenizer puts in front of a text.

    They are those of texts that go on: see :func:`gempi_jax.llm.seams.encode_openings`.

    Args:
      tokenizer: of the policy.
      prompts: texts, or role lists, which the tokenizer's chat template writes.
      max_length: tokens that a prompt may have: the context of the model less the completion.
      policy: what to do with longer ones.
      options: what each gives its template besides messages.

    Raises:
      ValueError: a prompt without a token, a prompt that is too long under ``ERROR``, or all prompts dropped.
    """
    each = [None] * len(prompts) if options is None else options
    texts = [prompt_text(tokenizer, *pair) for pair in zip(prompts, each, strict=True)]
    encoded = encode_openings(tokenizer, texts, [not isinstance(prompt, str) for prompt in prompts])
    return fit_prompts(tokenizer, encoded, max_length, policy)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text, options: Options = None) -> str:
    """The text of a prompt, up to where a completion begins."""
    return prompt if isinstance(prompt, str) else render_prompt(tokenizer, prompt, options)


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
    rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(before, completions, strict=True)]
    pairs = _pairs(tokenizer, rows)
    return fit_completions([pair.completion for pair in pairs], max_length, policy)


def as_written(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose gold completions (or else answers that are texts) say what they would if the policy had written them.

    That is how reward functions are to be tried: an end token at a gold completion's end is no text, and what the
    tokenizer cannot spell no reward will see.  A row whose prompt has no text stays; encoding says why.
    """
    written = []
    for row in rows:
        try:
            written.append(_as_written(tokenizer, row))
        except DataError:
            written.append(row)
    return written


def _as_written(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, Any]:
    gold = row.get("completion", row.get("answer"))
    turn = gold[0] if isinstance(gold, list) and len(gold) == 1 else None
    said = turn.get("content") if turn else gold
    if not isinstance(said, str):
        return row
    before = prompt_text(tokenizer, row["prompt"], template_options(row))
    (pair,) = encode_pairs(tokenizer, [(before, said)], not isinstance(row["prompt"], str))
    if pair.straddles:
        return row
    ends = (tokenizer.eos_token_id,)
    (text,) = decode_completions(tokenizer, [(before, pair.prompt)], [pair.completion], ends)
    return {**row, "completion": [{**turn, "content": text}] if turn else text}


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
    *,
    end_ids: Collection[int] = (),
) -> Demonstrations:
    """Token ids of rows with ``messages``, with ``prompt`` and ``completion`` (strings or role lists), or ``text``.

    Of conversations, the assistant's tokens carry loss, its end tokens included, in every one of its turns: of a
    ``completion`` those in it, of ``messages`` all.  Where those begin, the completion begins.  Of a ``text``, all is
    learnt, and the end token behind it; its prompt is the bos token, or where the tokenizer has none, its first token.

    A completion that does not end in the tokenizer's end token, or in one of ``end_ids``, gets the tokenizer's.

    Raises:
      DataError, ValueError: as :func:`encode_prompts` and :func:`encode_completions`.
    """
    turns = encode_turns_of(tokenizer, rows, end_ids)
    texts = [turn.completion for turn in turns]
    completions = fit_completions(texts, max_completion_length, long_completions)
    turns = [turns[i] for i in completions.kept]
    prompts = fit_prompts(tokenizer, [turn.prompt for turn in turns], max_prompt_length, long_prompts)
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


def encode_turns_of(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], end_ids: Collection[int]
) -> list[Turns]:
    """Each row's prompt and what is learnt behind it, whatever their lengths."""
    turns: list[Turns | None] = [_several_turns(tokenizer, row) for row in rows]
    rest = [i for i, found in enumerate(turns) if found is None]
    for i, pair in zip(rest, _pairs(tokenizer, [rows[i] for i in rest], end_ids), strict=True):
        turns[i] = Turns(pair.prompt, pair.completion, [True] * len(pair.completion), pair.straddles)
    return turns


def _several_turns(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Turns | None:
    """A row in which the assistant may speak more than once; ``None`` for prompts with one completion."""
    if is_text_row(row):
        return None
    if "messages" in row:
        return encode_turns(tokenizer, row["messages"], options=template_options(row))
    prompt, completion = row["prompt"], row["completion"]
    several = not isinstance(prompt, str) and not isinstance(completion, str) and len(completion) > 1
    if several and prompt[-1]["role"] != "assistant":
        given = sum(message["role"] == "assistant" for message in prompt)
        return encode_turns(tokenizer, [*prompt, *completion], num_given=given, options=template_options(row))
    return None


def _pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], end_ids: Collection[int] = ()
) -> list[Pair]:
    """Texts, and prompts with their completions, as tokens, ended by an end token."""
    texts = [_pair_text(tokenizer, row) for row in rows]
    encoded = encode_pairs(tokenizer, texts, [not isinstance(row.get("prompt", ""), str) for row in rows])
    ends = {tokenizer.eos_token_id, *end_ids}
    return [_ended(tokenizer, *each, ends) for each in zip(encoded, rows, strict=True)]


def _pair_text(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> tuple[str, str]:
    if is_text_row(row):
        return "", row["text"]
    prompt, completion = row["prompt"], row["completion"]
    options = template_options(row)
    if isinstance(completion, str):
        return prompt_text(tokenizer, prompt, options), completion
    if isinstance(prompt, str):
        raise DataError("a completion is a role list, but its prompt is not; make both strings or both role lists.")
    return prompt_text(tokenizer, prompt, options), render_completion(tokenizer, prompt, completion, options)


def _ended(tokenizer: PreTrainedTokenizerBase, pair: Pair, row: dict[str, Any], ends: Collection[int]) -> Pair:
    """The pair with the end of its completion, and with a token in front where it would have none."""
    tokens = pair.completion
    last = next((i for i in range(len(tokens), 0, -1) if tokens[i - 1] in ends), 0)
    if not isinstance(row.get("completion", ""), str) and last:
        # The turn's end, perhaps with more behind it; nothing that follows the end is ever sampled.
        tokens = tokens[:last]
    elif not last or last < len(tokens):
        tokens = [*tokens, tokenizer.eos_token_id]
    first = 0 if pair.prompt or tokenizer.bos_token_id is not None or row.get("prompt") == "" else 1
    return pair._replace(prompt=pair.prompt + tokens[:first], completion=tokens[first:])
