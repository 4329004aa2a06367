"""What a text of the command line means for a setting of a type.

Every text is read in one way, whichever setting it is for: ``\\n`` is a line break, a backslash is written twice.
"""

import ast
import re
import typing
from typing import Any

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.|$)", re.DOTALL)
_CHARACTERS = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def value_of(hint: Any, text: str) -> Any:
    """What a text means for a setting of a type."""
    if is_tuple(hint):
        return _tuple(typing.get_args(hint)[0], text)
    if hint is str:
        return unescape(text)
    if hint is bool:
        if text.lower() not in _TRUTH:
            raise ValueError("must be true or false")
        return _TRUTH[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"must be a {'whole ' if hint is int else ''}number, not {text!r}") from None
    try:
        return python_value(text)
    except ValueError:
        return unescape(text)


def is_tuple(hint: Any) -> bool:
    """Whether a setting is a tuple, whose values may be given one by one."""
    return typing.get_origin(hint) is tuple


def _tuple(item: Any, text: str) -> tuple:
    if not text.strip():
        return ()
    try:
        value = python_value(text)
    except ValueError:
        if re.search(r"[,'\"()\[\]]", text):
            raise ValueError("cannot be read as a tuple; write one as in Python, such as \"('a', 'b')\"") from None
        value = unescape(text)
    if isinstance(value, tuple | list):
        return tuple(value)
    # A single text need not be quoted, whatever else it could mean.
    return (unescape(text) if item is str and not isinstance(value, str) else value,)


def python_value(text: str) -> Any:
    """A value written as in Python; true and false may be small."""
    _check_escapes(text)
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("cannot be read as a Python value") from None


def unescape(text: str) -> str:
    r"""A text with ``\n``, ``\t``, ``\r``, ``\'``, ``\"``, ``\\``, ``\xHH`` and ``\uHHHH`` as the characters meant.

    Raises:
      ValueError: a backslash before anything else, or what is no text.
    """
    _check_escapes(text)

    def character(match: re.Match) -> str:
        code = match[1]
        return _CHARACTERS[code] if code in _CHARACTERS else chr(int(code[1:], 16))

    result = _ESCAPE.sub(character, text)
    try:
        result.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"is no text: character {error.start} is {result[error.start]!r}") from None
    return result


def _check_escapes(text: str) -> None:
    """Raises ValueError where a backslash is one of the text itself: silently, it would be another character."""
    for match in _ESCAPE.finditer(text):
        if match[1] not in _CHARACTERS and len(match[1]) < 3:
            raise ValueError(
                rf"{match[0]} means nothing here; write a backslash of the text itself twice: \\{match[1]}"
            )
