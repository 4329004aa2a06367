"""Settings from the command line, ``--config.section.name=TEXT``, found and read by the types of ``runners.settings``.

What a text means for a setting of a type is :mod:`.literals`.
"""

import contextlib
import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gempi_jax.runners.build import world_of
from gempi_jax.runners.literals import is_tuple, python_value, value_of
from gempi_jax.runners.settings import ControlSettings, PhaseSettings

_OVERRIDE = re.compile(r"--?(no)?config[.\[]")
_SUBSCRIPT = re.compile(r"\[(['\"])([^'\".]*)\1\]")
_FLAGS = ("--config", "--workdir")

Section = Mapping[str, Any]
"""Names to types; a type is a field's annotation, or a section."""


class Override(NamedTuple):
    """A setting and its new value."""

    path: tuple[str, ...]
    value: Any


def read_overrides(arguments: Sequence[str], config: Mapping[str, Any]) -> list[Override]:
    """The overrides of a command line, in order.

    The last one of a setting counts.  A setting that is a tuple takes one that is written as in Python, or a single
    value each time it is given; a section or a dictionary one that is written as in Python, and a section's other
    settings stay.

    Args:
      arguments: ``--config.seed=1``, ``--config.seed 1``, and ``--config.data.stream`` or ``--noconfig.data.stream``
        for truth values.
      config: the settings that they change, as a plain dictionary.

    Raises:
      ValueError: an argument that names no setting (with what was typed, the valid names, and where a setting of that
        name is), or a text that is no value of its type.
    """
    schema = _schema(config)
    overrides: dict[tuple[str, ...], Any] = {}
    tuples: dict[tuple[str, ...], tuple] = {}
    for given, name, text in _split(arguments):
        if name is None:
            raise ValueError(f"{given}: {_unknown_argument(given, schema)}")
        path = tuple(name.split("."))
        hint = _find(given, path, schema)
        with _said_by(given):
            for place, value in _read(path, hint, text, schema):
                if is_tuple(hint):
                    several = not text.strip() or text.lstrip()[0] in "(["
                    value = tuples[place] = value if several else tuples.get(place, ()) + value
                overrides.pop(place, None)
                overrides[place] = value
    return [Override(path, value) for path, value in overrides.items()]


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """(as typed, dotted name, text) of each argument; no name where it is no override."""
    rest = list(arguments)
    while rest:
        given = rest.pop(0)
        head, equals, text = given.partition("=")
        match = _OVERRIDE.match(head)
        if not match:
            yield given, None, ""
            continue
        name = _SUBSCRIPT.sub(r".\2", head[match.end() - 1 :]).lstrip(".")
        if equals:
            yield given, name, text
        elif match[1]:
            yield given, name, "false"
        elif rest and not re.match(r"--?[A-Za-z]", rest[0]):
            text = rest.pop(0)
            yield f"{given} {text}", name, text
        else:
            yield given, name, "true"


def _schema(config: Mapping[str, Any]) -> Section:
    """All settings of a config: those of every run of its world, and the sections of its phases."""
    world = world_of(config)
    if world is ControlSettings:
        return _section(world, config)
    own = typing.get_type_hints(world) | {"phases": tuple[str, ...]}
    phases = config.get("phases") or ()
    named = {
        name: _section(PhaseSettings, value)
        for name, value in config.items()
        if name not in own and isinstance(value, Mapping) and (name in phases or "method" in value)
    }
    return {name: _section(hint, config.get(name)) for name, hint in own.items()} | named


def _section(hint: Any, value: Any) -> Any:
    """A settings class as names to types; of a dictionary with free names, those that the config has."""
    values = value if isinstance(value, Mapping) else {}
    if dataclasses.is_dataclass(hint):
        return {name: _section(inner, values.get(name)) for name, inner in typing.get_type_hints(hint).items()}
    if typing.get_origin(hint) is dict:
        inner = typing.get_args(hint)[1]
        # What holds a text is read as one.
        return _Free(inner, {name: str if isinstance(item, str) else inner for name, item in values.items()})
    return hint


class _Free(dict):
    """A section with names of the user's choice."""

    def __init__(self, inner: Any, known: Mapping[str, Any]):
        super().__init__(known)
        self.inner = inner


def _find(given: str, path: tuple[str, ...], schema: Section) -> Any:
    """The type of the setting at a path."""
    here: Any = schema
    for depth, name in enumerate(path):
        place = ".".join(("config", *path[:depth]))
        if not isinstance(here, Mapping):
            raise ValueError(f"{given}: {place} is a setting, no section; it has no {name!r}")
        if name not in here and not (isinstance(here, _Free) and name):
            last = depth == len(path) - 1
            raise ValueError(f"{given}: {place} has no {name!r}; {_suggest(name, place, here, schema, last)}")
        here = here.get(name, here.inner) if isinstance(here, _Free) else here[name]
    return here


def _suggest(name: str, place: str, here: Section, schema: Section, last: bool) -> str:
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.5)
    places = [where for where, hint in _places(name, schema) if last or isinstance(hint, Mapping)]
    places = places or [f"{place}.{other}" for other in near]
    return (f"did you mean {', '.join(places)}? " if places else "") + f"Valid: {', '.join(sorted(here))}"


def _places(name: str, section: Section, prefix: str = "config") -> Iterator[tuple[str, Any]]:
    """Where settings of a name are, and their types."""
    for key, hint in section.items():
        if key == name:
            yield f"{prefix}.{key}", hint
        if isinstance(hint, Mapping):
            yield from _places(name, hint, f"{prefix}.{key}")


def _unknown_argument(given: str, schema: Section) -> str:
    if not given.startswith("-"):
        return "unexpected; settings are given as --config.key=value"
    name = given.lstrip("-").partition("=")[0].rpartition(".")[2]
    near = difflib.get_close_matches(given.partition("=")[0], _FLAGS, n=1)
    places = near or [f"--{place}" for place, _ in _places(name, schema)]
    hint = f"did you mean {', '.join(places)}? " if places else ""
    return f"unknown; {hint}Valid: {', '.join(_FLAGS)}, and settings as --config.key=value"


@contextlib.contextmanager
def _said_by(given: str):
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from error


def _read(path: tuple[str, ...], hint: Any, text: str, schema: Section) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of a setting, or of each that a section's dictionary gives."""
    if not isinstance(hint, Mapping):
        yield path, value_of(hint, text)
        return
    try:
        value = python_value(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("is a section; give one setting of it, or a dictionary such as \"{'name': value}\"")
    yield from _leaves(path, hint, value, schema)


def _leaves(path: tuple[str, ...], hint: Any, value: Any, schema: Section) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict) or isinstance(hint, _Free):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves((*path, key), _find(f"{key!r}", (*path, key), schema), item, schema)
