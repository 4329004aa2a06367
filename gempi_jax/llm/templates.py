"""A tokenizer's chat template, which writes messages as text: what it refuses or leaves out is said."""

import functools
import itertools
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.messages import Messages, plain_messages

_logger = logging.getLogger(__name__)
Options = Mapping[str, Any] | None
"""What a row gives its template besides messages, see :func:`gempi_jax.llm.messages.template_options`."""


class Template:
    """A tokenizer's chat template with what a row gives it besides messages.

    Attributes:
      marks: whether it marks what the assistant writes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Options):
        if tokenizer.chat_template is None:
            raise DataError(
                "the dataset has role lists, but the tokenizer has no chat template; set tokenizer.chat_template (in a "
                "config, data.chat_template names a file with one), or give prompts as strings."
            )
        self._tokenizer, self._options = tokenizer, dict(options or {})
        try:
            # Several templates by name are a dictionary; transformers knows which is the default.
            self._text = tokenizer.get_chat_template(tools=self._options.get("tools"))
        except ValueError as error:
            raise DataError(
                f"{str(error).splitlines()[0]} Choose one by its name (in a config, data.chat_template)."
            ) from error
        self.marks = re.search(r"\{%-?\s*generation\b", self._text) is not None

    def write(self, messages: Messages, **how: Any) -> Any:
        """The text of messages."""
        how = {**self._options, "tokenize": False, "add_generation_prompt": False, **how}
        try:
            return self._tokenizer.apply_chat_template(list(messages), **how)
        except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"the chat template refuses a conversation with the roles {roles_of(messages)}: {error}"
            ) from error

    def prompt(self, messages: Messages) -> str:
        """Up to where the assistant begins, or goes on."""
        goes_on = messages[-1]["role"] == "assistant"
        return self.write(messages, add_generation_prompt=not goes_on, continue_final_message=goes_on)

    def marked(self, messages: Messages) -> list[tuple[int, int]]:
        """(first, end) of the characters that a template marks as the assistant's, run by run.

        Raises:
          DataError: it marks none.
        """
        how = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
        encoded = self.write(messages, **how, tokenizer_kwargs={"return_offsets_mapping": True})
        places = zip(encoded["assistant_masks"], encoded["offset_mapping"], strict=True)
        runs = [[place for _, place in run] for mine, run in itertools.groupby(places, lambda pair: pair[0]) if mine]
        if not runs:
            raise DataError(
                f"the chat template marks no token as the assistant's; the roles are {roles_of(messages)}. Check its "
                "{% generation %} block."
            )
        return [(run[0][0], run[-1][1]) for run in runs]

    def read(self, messages: Messages) -> list[dict[str, Any]]:
        """Messages as this template writes them, the word None nowhere.

        Raises:
          DataError: a message without content of which it writes nothing.
        """
        messages = plain_messages(messages)
        silent = [i for i, message in enumerate(messages) if _is_silent(message)]
        if silent:
            messages = self._without_null_contents(messages)
            self._check_written(messages, silent)
        for column, given in (("tools", self._options.get("tools")), ("tool_calls", _have(messages, "tool_calls"))):
            if given and not re.search(rf"\b{column}\b", self._text):
                _say_ignored(column, self._text)
        return messages

    def _without_null_contents(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Nulls are what templates for tools expect; where this one would write the word None, they are empty texts."""
        empty = [{**message, "content": message["content"] or ""} for message in messages]
        written, other = self._try(messages), self._try(empty)
        if written is None or (other is not None and written.count("None") > other.count("None")):
            return empty
        return messages

    def _try(self, messages: Messages) -> str | None:
        """The text of messages; ``None`` where the template refuses them."""
        try:
            return self.write(messages)
        except DataError:
            return None

    def _check_written(self, messages: list[dict[str, Any]], indices: list[int]) -> None:
        text = self.write(messages)
        for i in indices:
            bare = {"role": messages[i]["role"], "content": ""}
            if self._try([*messages[:i], bare, *messages[i + 1 :]]) == text:
                rest = ", ".join(sorted(messages[i].keys() - bare.keys()))
                raise DataError(
                    f"message {i} ({bare['role']}) has no content{rest and ', only ' + rest}, and the chat template "
                    "writes nothing of it; give the tokenizer a template that does (in a config, data.chat_template), "
                    "or remove such rows."
                )


def choose_template(tokenizer: PreTrainedTokenizerBase, chosen: str) -> None:
    """Makes one chat template the tokenizer's own, in what is read here and in what is saved.

    Args:
      tokenizer: changed in place.
      chosen: the name of one of its templates, or the path of a file with one (``chat_template.jinja``).

    Raises:
      ValueError: neither; names what there is.
    """
    own, file = tokenizer.chat_template, pathlib.Path(chosen).expanduser()
    named = own if isinstance(own, dict) else {"default": own} if own else {}
    if chosen in named:
        tokenizer.chat_template = named[chosen]
    elif file.is_file():
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    else:
        there = f"its templates are {', '.join(sorted(named))}" if named else "it has none"
        raise ValueError(f"{chosen!r} is neither a file nor the name of a chat template of the tokenizer; {there}")


def _is_silent(message: dict[str, Any]) -> bool:
    """Has it no content, not even an empty one, or tool calls in its place?"""
    return message["content"] is None or (message["content"] == "" and bool(message.get("tool_calls")))


def _have(messages: Messages, name: str) -> bool:
    return any(message.get(name) for message in messages)


@functools.cache
def _say_ignored(column: str, template: str) -> None:
    _logger.warning(
        "The chat template writes nothing of the data's %r, so nothing of it is read or learnt; a template that does "
        "can be chosen (in a config, by data.chat_template).",
        column,
    )


def roles_of(messages: Messages) -> str:
    """The roles in order, for errors."""
    return ", ".join(str(message["role"]) for message in messages)
