"""Conversations as text and as tokens, through the tokenizer's chat template."""

import itertools
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.messages import Messages
from gempi_jax.llm.seams import encode_spans
from gempi_jax.llm.templates import Options, Template, roles_of

_OTHER = "\u241f"
"""A content that no message begins with."""


class Rendered(NamedTuple):
    """A whole conversation as text.

    Attributes:
      text: what the template writes.
      assistant: (first, end) of the characters that the assistant wrote, turn by turn, the end of its turn included.
    """

    text: str
    assistant: list[tuple[int, int]]


class Conversation(NamedTuple):
    """A whole conversation in tokens.

    Attributes:
      tokens: ids.
      assistant: for each token, whether the assistant wrote it (its end token included): the tokens that carry loss.
    """

    tokens: list[int]
    assistant: list[bool]


class Turns(NamedTuple):
    """A conversation in tokens, cut where the assistant begins to be learnt from.

    Attributes:
      prompt: ids before that.
      completion: ids from there to the end of the assistant's last turn; other roles' turns among them.
      learnt: which of those the assistant wrote: the tokens that carry loss.
      straddles: ``prompt`` is not what the prompt alone is encoded to, since a token lies across the seam.
    """

    prompt: list[int]
    completion: list[int]
    learnt: list[bool]
    straddles: bool = False


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages, options: Options = None) -> str:
    """The text of a role list up to where the assistant begins; or goes on, where the last message is its own.

    Raises:
      DataError: the tokenizer has no chat template, the template refuses these messages, or it writes nothing of one.
    """
    template = Template(tokenizer, options)
    return template.prompt(template.read(messages))


def render_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Messages, completion: Messages, options: Options = None
) -> str:
    """What a template writes for ``completion`` behind ``prompt``, the end of the turn included.

    Raises:
      DataError: as :func:`render_prompt`; also where the template changes the prompt once a completion follows.
    """
    template = Template(tokenizer, options)
    messages = template.read([*prompt, *completion])
    prompt, completion = messages[: len(prompt)], messages[len(prompt) :]
    before, whole = template.prompt(prompt), template.write(_join(prompt, completion))
    if not whole.startswith(before):
        raise DataError(_changes(len(prompt) - 1, before, whole))
    return whole[len(before) :]


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages, options: Options = None) -> Rendered:
    """A conversation's text, and where in it the assistant's turns are.

    A template that marks them (``{% generation %}``) is believed.  Otherwise they are found by rendering the messages
    up to each of them.

    Raises:
      DataError: as :func:`render_prompt`; or there is no turn of an assistant; or the template changes earlier turns
        when later ones follow, so that their place is not defined.
    """
    template = Template(tokenizer, options)
    messages = template.read(messages)
    text = template.write(messages)
    if template.marks:
        return Rendered(text, template.marked(messages))
    spans = [_span(template, messages, i, text) for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not spans:
        raise DataError(
            f"no message is the assistant's, so there is nothing to learn; the roles are {roles_of(messages)}."
        )
    return Rendered(text, spans)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends a turn of the assistant; ``None`` where it has none of its own.

    That is the first special (or added) token behind what the assistant says.
    """
    said = "Yes, indeed."
    messages = [{"role": "user", "content": "Really?"}, {"role": "assistant", "content": said}]
    try:
        _, found, behind = Template(tokenizer, None).write(messages).rpartition(said)
    except DataError:
        return None
    own = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    tokens = tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []
    return next((token for token in tokens if token in own), None)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, options: Options = None
) -> Conversation:
    """Tokens of a conversation, encoded once, as a whole, and which of them the assistant wrote.

    Raises:
      DataError: as :func:`render_conversation`.
    """
    tokens, parts = encode_spans(tokenizer, *render_conversation(tokenizer, messages, options))
    return Conversation(tokens, [any(part.first <= i < part.end for part in parts) for i in range(len(tokens))])


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, num_given: int = 0, options: Options = None
) -> Turns:
    """A conversation as a prompt with all later turns of the assistant to be learnt.

    Args:
      tokenizer: with a chat template.
      messages: the whole conversation.
      num_given: turns of the assistant that belong to the prompt, from the first.
      options: for the template.

    Raises:
      DataError: as :func:`encode_conversation`; or no turn is left to learn.
    """
    tokens, parts = encode_spans(tokenizer, *render_conversation(tokenizer, messages, options))
    written = [part for part in parts if part.first < part.end]
    if len(written) <= num_given:
        raise DataError(
            f"{len(written)} turns of the assistant have tokens and {num_given} belong to the prompt, so there is "
            f"nothing to learn; the roles are {roles_of(messages)}."
        )
    first, end = written[num_given].first, written[-1].end
    learnt = [any(part.first <= i < part.end for part in written[num_given:]) for i in range(first, end)]
    return Turns(tokens[:first], tokens[first:end], learnt, written[num_given].straddles)


def _span(template: Template, messages: Messages, index: int, text: str) -> tuple[int, int]:
    """Characters of ``text`` that the assistant's message ``index`` fills, with its end token, without space behind."""
    until = template.write(messages[: index + 1])
    if index:
        before = template.write(messages[:index], add_generation_prompt=True)
    else:
        # Nothing can be rendered before a first message; it begins where another one would differ.
        before = _shared(until, template.write([{**messages[0], "content": _OTHER}]))
    for part in (before, until):
        if not text.startswith(part):
            raise DataError(_changes(index, part, text))
    return len(before), len(until.rstrip())


def _join(prompt: Messages, completion: Messages) -> Messages:
    """Both as one conversation; a completion that goes on with the assistant's own message belongs to that message."""
    if prompt[-1]["role"] == "assistant" and completion and completion[0]["role"] == "assistant":
        merged = {**prompt[-1], "content": (prompt[-1]["content"] or "") + (completion[0]["content"] or "")}
        return [*prompt[:-1], merged, *completion[1:]]
    return [*prompt, *completion]


def _changes(index: int, part: str, whole: str) -> str:
    same = len(_shared(part, whole))
    return (
        f"the chat template writes the conversation up to message {index} differently once more follows: "
        f"{part[same : same + 40]!r} becomes {whole[same : same + 40]!r}. Split it into prompt and completion at the "
        "last turn, or give the tokenizer a template that only appends."
    )


def _shared(one: str, other: str) -> str:
    """The beginning that two texts have in common."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in same)]
