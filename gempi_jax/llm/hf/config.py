"""config.json <-> DecoderConfig.  What is not understood is an error that names it, never ignored by accident."""

import dataclasses
import json
import pathlib
from typing import Any

from gempi_jax.llm.hf.families import FAMILIES
from gempi_jax.llm.hf.family import Family
from gempi_jax.llm.hf.fields import Fields
from gempi_jax.models import DecoderConfig


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; a checkpoint folder holds config.json and model.safetensors, as save_pretrained "
            "writes them"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}); download or export it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not a JSON object; download or export it again")
    return values


def family_of(values: dict[str, Any], place: str = "config.json") -> Family:
    """The family that a config.json names by ``architectures`` or, failing that, by ``model_type``.

    Raises:
      ValueError: the architecture is not one of :data:`FAMILIES`.
    """
    named = values.get("architectures")
    if named and not isinstance(named, list):
        raise ValueError(f"{place}: attribute 'architectures' is {named!r}; it must be a list, such as [{named!r}]")
    if named:
        for family in FAMILIES:
            if named == [family.architecture]:
                return family
    else:
        for family in FAMILIES:
            if values.get("model_type") == family.model_type:
                return family
    stated = f"architectures {named}" if named else f"model_type {values.get('model_type')!r}"
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ValueError(f"{place}: {stated} is not supported; the supported architectures are {known}")


def read_config(values: dict[str, Any], place: str = "config.json") -> DecoderConfig:
    """The decoder that a config.json describes.

    Args:
      values: the JSON object.
      place: what to call it in errors.

    Raises:
      ValueError: unknown architecture, unknown attribute, an attribute of the wrong type or of an absurd size, or one
        that asks for something that is not built.
    """
    family = family_of(values, place)
    fields = Fields(values, f"{place} ({family.architecture})")
    fields.refuse_code(family.own_code)
    config = family.read(fields)
    fields.finish()
    return config


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """A config.json for a decoder that did not come with one: a Llama where that can express it, else a GPT-2.

    Dropout rates that the family has no attribute for are left out: they change no exported number.

    Raises:
      ValueError: no family that can be written expresses this decoder; the message says what stands in the way.
    """
    obstacles = []
    for family in FAMILIES:
        if family.write is None:
            continue
        values = {"architectures": [family.architecture], "model_type": family.model_type} | family.write(config)
        differing = _differences(read_config(values), config)
        if not differing:
            return values
        obstacles.append(f"{family.architecture} has no {', '.join(differing)}")
    raise ValueError(
        f"this DecoderConfig cannot be exported: {'; '.join(obstacles)}. Export it with the config.json of its own "
        "family: Pretrained(model, params, tokenizer, CheckpointConfig(values))"
    )


def _differences(one: DecoderConfig, other: DecoderConfig) -> list[str]:
    one, other = one.without_dropout(), other.without_dropout()
    names = (field.name for field in dataclasses.fields(DecoderConfig))
    return [f"{name} = {getattr(other, name)!r}" for name in names if getattr(one, name) != getattr(other, name)]


def check_config(values: dict[str, Any], config: DecoderConfig) -> None:
    """Raises ValueError unless config.json ``values`` describe ``config``, dropout apart."""
    differing = _differences(read_config(values), config)
    if differing:
        raise ValueError(
            f"the model's config and its config.json disagree: the model has {', '.join(differing)}; change "
            "config.json alike, or pass config=None to export from the model alone"
        )
