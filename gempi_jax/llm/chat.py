"""Conversations as text and as tokens, through the tokenizer's chat template."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.columns import DataError

Messages = Sequence[dict[str, Any]]


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
    """

    prompt: list[int]
    completion: list[int]
    learnt: list[bool]


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """The text of a role list up to where the assistant begins; or goes on, where the last message is its own.

    Raises:
      DataError: the tokenizer has no chat template, or the template refuses these messages.
    """
    goes_on = messages[-1]["role"] == "assistant"
    return _render(tokenizer, messages, add_generation_prompt=not goes_on, continue_final_message=goes_on)


def render_completion(tokenizer: PreTrainedTokenizerBase, prompt: Messages, completion: Messages) -> str:
    """What a template writes for ``completion`` behind ``prompt``, the end of the turn included.

    Raises:
      DataError: also where the template changes the prompt once a completion follows.
    """
    before = render_prompt(tokenizer, prompt)
    whole = _join(tokenizer, prompt, completion)
    if not whole.startswith(before):
        raise DataError(_changes(len(prompt) - 1, before, whole))
    return whole[len(before) :]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Conversation:
    """Tokens of a conversation, and which of them the assistant wrote.

    A template that marks them (``{% generation %}``) is believed.  Otherwise the conversation is encoded once, as a
    whole, and where the assistant's turns lie is found by rendering the messages up to each of them.

    Raises:
      DataError: there is no chat template, or no turn of an assistant, or the template changes earlier turns when later
        ones follow, so that their place is not defined.
    """
    if re.search(r"\{%-?\s*generation\b", tokenizer.chat_template or ""):
        return _encode_marked(tokenizer, messages)
    text = _render(tokenizer, messages)
    spans = [_span(tokenizer, messages, i, text) for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not spans:
        raise DataError(
            f"no message is the assistant's, so there is nothing to learn; the roles are {_roles(messages)}."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # By the first character: a token that begins in the assistant's turn is one that it had to write.
    assistant = [any(begin <= first < end for begin, end in spans) for first, _ in encoded["offset_mapping"]]
    return Conversation(list(encoded["input_ids"]), assistant)


def encode_turns(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, num_given: int = 0) -> Turns:
    """A conversation as a prompt with all later turns of the assistant to be learnt.

    Args:
      tokenizer: with a chat template.
      messages: the whole conversation.
      num_given: turns of the assistant that belong to the prompt, from the first.

    Raises:
      DataError: as :func:`encode_conversation`; or no turn is left to learn.
    """
    tokens, assistant = encode_conversation(tokenizer, messages)
    begins = [i for i, mine in enumerate(assistant) if mine and not (i and assistant[i - 1])]
    if len(begins) <= num_given:
        raise DataError(
            f"{len(begins)} turns of the assistant have tokens and {num_given} belong to the prompt, so there is "
            f"nothing to learn; the roles are {_roles(messages)}."
        )
    first, end = begins[num_given], len(assistant) - assistant[::-1].index(True)
    return Turns(tokens[:first], tokens[first:end], assistant[first:end])


def _encode_marked(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Conversation:
    encoded = _render(tokenizer, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assistant = [bool(mark) for mark in encoded["assistant_masks"]]
    if not any(assistant):
        raise DataError(
            f"the chat template marks no token as the assistant's; the roles are {_roles(messages)}. Check its "
            "{% generation %} block."
        )
    return Conversation(list(encoded["input_ids"]), assistant)


def _span(tokenizer: PreTrainedTokenizerBase, messages: Messages, index: int, text: str) -> tuple[int, int]:
    """Characters of ``text`` that the assistant's message ``index`` fills, with its end token, without space behind."""
    until = _render(tokenizer, messages[: index + 1])
    # Nothing can be rendered before a first message, so its own text tells where it begins.
    first = until[: max(0, until.find(str(messages[0]["content"])))]
    before = _render(tokenizer, messages[:index], add_generation_prompt=True) if index else first
    for part in (before, until):
        if not text.startswith(part):
            raise DataError(_changes(index, part, text))
    return len(before), len(until.rstrip())


def _join(tokenizer: PreTrainedTokenizerBase, prompt: Messages, completion: Messages) -> str:
    """Both as one conversation; a completion that goes on with the assistant's own message belongs to that message."""
    if prompt[-1]["role"] == "assistant" and completion and completion[0]["role"] == "assistant":
        merged = {**prompt[-1], "content": prompt[-1]["content"] + completion[0]["content"]}
        return _render(tokenizer, [*prompt[:-1], merged, *completion[1:]])
    return _render(tokenizer, [*prompt, *completion])


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, tokenize: bool = False, **options: bool) -> Any:
    if tokenizer.chat_template is None:
        raise DataError(
            "the dataset has role lists, but the tokenizer has no chat template; set tokenizer.chat_template (the "
            "checkpoint's chat_template.jinja), or give prompts as strings."
        )
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=tokenize, **options)
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"the chat template refuses a conversation with the roles {_roles(messages)}: {error}"
        ) from error


def _roles(messages: Messages) -> str:
    return ", ".join(str(message["role"]) for message in messages)


def _changes(index: int, part: str, whole: str) -> str:
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(part, whole, strict=False)))
    return (
        f"the chat template writes the conversation up to message {index} differently once more follows: "
        f"{part[same : same + 40]!r} becomes {whole[same : same + 40]!r}. Split it into prompt and completion at the "
        "last turn, or give the tokenizer a template that only appends."
    )
