"""Configs end here: names become functions, dictionaries become typed settings, mistakes become errors with a fix."""

import contextlib
import dataclasses
import difflib
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from gempi_jax.methods import METHODS
from gempi_jax.methods.base import Method
from gempi_jax.runners.options import FAMILIES, OPTIONS
from gempi_jax.runners.settings import ControlSettings, PhaseSettings, RunSettings


def world_of(config: Mapping[str, Any]) -> type[ControlSettings] | type[RunSettings]:
    """What a config describes: a run in environments, if it has a section of that name, or one of a language model."""
    return ControlSettings if "environment" in config else RunSettings


def settings_from_config(config: ml_collections.ConfigDict | dict) -> RunSettings | ControlSettings:
    """Reads a config into typed settings.

    A config with an ``environment`` is a run of the control world.  Of another ``phases`` is a tuple of names, and each
    name is a section of the config with that phase's settings.  A phase's section that ``phases`` leaves out is checked
    as the others are, and not run.

    Args:
      config: the whole config.

    Returns:
      The settings.

    Raises:
      ValueError: an unknown key (with the nearest valid name), a wrong type, or a value out of range; also of methods.
    """
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    for key, value in _leaves(values, "config"):
        if value is None:
            raise ValueError(f"{key}: required, and not given; pass --{key}=VALUE")
    if world_of(values) is ControlSettings:
        return _read(ControlSettings, values, "config")
    names = values.pop("phases", None)
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"config.phases = {names!r}: must be a tuple of section names, e.g. ('sft', 'rl')")
    own = {field.name for field in dataclasses.fields(RunSettings)}
    sections = {name for name, value in values.items() if name not in own and _is_phase(name, value, names)}
    for name in names:
        if name not in sections:
            raise ValueError(
                f"config.phases names {name!r}, which is no section of a phase; {_suggest(name, sections)}"
            )
        if list(names).count(name) > 1:
            raise ValueError(f"config.phases names {name!r} twice; give the second its own section, under another name")
    # In the config's order; those that do not run are read for their mistakes alone.
    read = {name: _read(PhaseSettings, values.pop(name), f"config.{name}") for name in list(values) if name in sections}
    for name, phase in read.items():
        method_from_settings(name, phase)
    return _read(RunSettings, {**values, "phases": {name: read[name] for name in names}}, "config")


def _is_phase(name: str, value: Any, names: Sequence[str]) -> bool:
    """Whether a section of a config is a phase's: it is run as one, or has a method."""
    return isinstance(value, dict) and (name in names or "method" in value)


def method_from_settings(name: str, phase: PhaseSettings) -> Method:
    """The method of a phase; arguments and errors as for :func:`make_method`."""
    return make_method(f"config.{name}", phase.method, phase.method_args)


def make_method(
    place: str, method: str, given: Mapping[str, Any], table: dict[str, Callable[..., Method]] = METHODS
) -> Method:
    """A method by its name in a config.

    Args:
      place: of the section, for errors.
      method: its ``method``.
      given: its ``method_args``.
      table: of methods.

    Raises:
      ValueError: an unknown method or argument (with the nearest valid name), or a value that the method refuses.
    """
    factory = lookup(table, method, f"{place}.method")
    valid = inspect.signature(factory).parameters
    arguments = {}
    for key, value in given.items():
        where = f"{place}.method_args.{key}"
        if key not in valid:
            raise ValueError(f"{where}: {method} has no such argument; {_suggest(key, valid)}")
        if value is not None:
            value = _option(valid[key].annotation, _as_default(value, valid[key].default, where), where)
        arguments[key] = value
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}.method_args = {given!r}: {error}") from error


def _as_default(value: Any, default: Any, place: str) -> Any:
    """A method's argument, of the type of its default where that is a number or a truth value.

    Raises:
      ValueError: a word for a number, say, or ``'no'`` for False, which Python takes for True.
    """
    expected = type(default)
    # Of a Gaussian policy's trust region there may be several numbers.
    if expected not in (bool, int, float) or isinstance(value, tuple | list):
        return value
    return _value(expected, value, place)


def _option(annotation: Any, value: Any, place: str) -> Any:
    """The value that a string stands for, where the argument's type is none that a config can write."""
    kinds = typing.get_args(annotation) or (annotation,)
    kind = next((kind for kind in OPTIONS if kind in kinds), None)
    if kind is None or value is None:
        return value
    for prefix, make, meaning in FAMILIES.get(kind, ()):
        if str(value).startswith(prefix):
            try:
                return make(float(value.removeprefix(prefix)))
            except ValueError as error:
                raise ValueError(f"{place} = {value!r}: give {meaning} ({error})") from None
    return lookup(OPTIONS[kind], str(value), place)


@contextlib.contextmanager
def blame(place: str):
    """Says in a ValueError from inside the block where in the config the mistake is; one that does so is left alone."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("config."):
            raise
        raise ValueError(f"{place}: {error}") from error


def lookup(table: dict[str, Any], name: str, place: str) -> Any:
    """The entry of a literal dictionary that a string names.

    Raises:
      ValueError: an unknown name, with the nearest valid one.
    """
    if name not in table:
        raise ValueError(f"{place} = {name!r}: {_suggest(name, table)}")
    return table[name]


def _leaves(values: dict[str, Any], place: str):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{place}.{key}")
        else:
            yield f"{place}.{key}", value


def _suggest(name: str, valid) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    listing = ", ".join(sorted(valid))
    return (f"did you mean {near[0]!r}? " if near else "") + f"Valid: {listing}"


def _read(cls, values, place: str):
    if not isinstance(values, dict):
        raise ValueError(f"{place} = {values!r}: must be a section with the fields of {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ValueError(f"{place}.{key}: unknown key; {_suggest(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"{place}.{name}: missing; a run needs it")
    read = {key: _value(hints[key], value, f"{place}.{key}") for key, value in values.items()}
    try:
        return cls(**read)
    except ValueError as error:
        raise ValueError(f"{place}.{error}") from None


def _value(hint, value, place: str):
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _read(hint, value, place)
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{place} = {value!r}: must be a tuple, is {type(value).__name__}")
        return tuple(_value(typing.get_args(hint)[0], item, place) for item in value)
    if origin is dict:
        return _dictionary(typing.get_args(hint), value, place)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and place.endswith("path"):
        check_home(value, place)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{place} = {value!r}: must be of type {hint.__name__}, is {type(value).__name__}")
    return value


def check_home(value: Any, place: str) -> None:
    """Raises ValueError where a path starts in the home folder of nobody."""
    if isinstance(value, str) and value.startswith("~") and os.path.expanduser(value) == value:
        raise ValueError(f"{place} = {value!r}: {value.partition('/')[0]} is nobody's home folder; give a full path")


def _dictionary(hints, value, place: str):
    if not isinstance(value, dict):
        raise ValueError(f"{place} = {value!r}: must be a section, is {type(value).__name__}")
    return {key: _value(hints[1], item, f"{place}.{key}") for key, item in value.items()}
