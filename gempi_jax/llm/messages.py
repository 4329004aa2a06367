"""Role lists as chat templates read them: contents are texts, and what a table filled in with nulls is gone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gempi_jax.llm.columns import ROLE_LISTS, DataError, Row, is_conversational, start_of

Messages = Sequence[dict[str, Any]]


def plain_row(row: Row, where: str) -> Row:
    """The row with the contents of its role lists as texts.

    Contents in parts, ``[{"type": "text", "text": "..."}, ...]``, are the parts' texts, one right behind the other.

    Args:
      row: checked.
      where: place of the row, for the error.

    Raises:
      DataError: a content that is no text, a part of another type, or ``tools`` that are no list; names place and
        message.
    """
    lists = {name: row[name] for name in ROLE_LISTS & row.keys() if is_conversational(row[name])}
    plain = {name: plain_messages(messages, f"{where}: {name!r}, ") for name, messages in lists.items()}
    try:
        template_options(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return {**row, **plain}


def plain_messages(messages: Messages, where: str = "") -> list[dict[str, Any]]:
    """Messages whose contents are texts, or null; entries that are null are as good as absent."""
    return [_plain(message, f"{where}message {i} ({message['role']})") for i, message in enumerate(messages)]


def template_options(row: Row) -> dict[str, Any]:
    """What a row gives its chat template besides messages: ``tools``, and whatever ``chat_template_kwargs`` holds.

    Both are TRL's columns.  Tools are a list of JSON schemas, or JSON text of one.

    Raises:
      DataError: they are anything else.
    """
    tools, options = row.get("tools"), row.get("chat_template_kwargs") or {}
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"'tools' is {start_of(tools)}; as a text it has to be JSON ({error}).") from error
    if tools is not None and not _is_list_of_mappings(tools):
        raise DataError(f"'tools' is {start_of(tools)}; it has to be a list of JSON schemas, one for each tool.")
    if not isinstance(options, Mapping):
        raise DataError(f"'chat_template_kwargs' is {start_of(options)}; it has to be an object with named values.")
    return {**_without_nulls(options), **({"tools": _without_nulls(tools)} if tools else {})}


def _plain(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message without nulls: a table writes one wherever another row has an entry that this one lacks."""
    content = message.get("content")
    if not isinstance(content, str | None):
        content = "".join(_texts(content, where))
    return {**_without_nulls(message), "content": content}


def _texts(content: Any, where: str) -> Iterator[str]:
    if not isinstance(content, Sequence):
        raise DataError(f"{where}: its content is {start_of(content)}; it has to be a string, or a list of text parts.")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            yield part
        elif kind == "text" and isinstance(part.get("text"), str):
            yield part["text"]
        else:
            what = f"a part of type {kind!r}" if kind not in (None, "text") else f"the part {start_of(part)}"
            raise DataError(
                f'{where}: its content has {what}; a language model reads parts {{"type": "text", "text": "..."}} '
                "alone, so remove the others, or such rows."
            )


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(item, Mapping) for item in value)


def _without_nulls(value: Any) -> Any:
    """Without the entries of objects that are null, at any depth."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nulls(item) for item in value]
    return value
