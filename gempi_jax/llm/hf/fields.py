"""Attributes of a config.json, each of which must be used, or be known to change no logit."""

from collections.abc import Callable, Collection
from typing import Any

_REQUIRED = object()

# Far beyond any model; what is larger is a mistake or an attack, and would only exhaust memory later.
LARGEST = 1 << 24
MOST_LAYERS = 4096
_LARGEST_NUMBER = 1e300

HARMLESS = frozenset(
    """
    _name_or_path architectures model_type transformers_version dtype torch_dtype use_cache use_bfloat16
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class name_or_path
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate torchscript
    tf_legacy_loss tie_encoder_decoder finetuning_task task_specific_params problem_type prefix id2label label2id
    num_labels chunk_size_feed_forward is_decoder gradient_checkpointing _attn_implementation attn_implementation
    cross_attention_hidden_size initializer_factor pretraining_tp unsloth_version unsloth_fixed cache_implementation
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values begin_suppress_tokens
    exponential_decay_length_penalty suppress_tokens _commit_hash _experts_implementation
    _experts_implementation_internal _attn_implementation_autoset _num_labels output_past transformers.js_config
    """.split()  # noqa: SIM905 (a list of quoted words would be ten times as long)
)


class Fields:
    """Takes attributes out of a config.json one by one; :meth:`finish` complains about those that nobody took.

    A null counts as absent; where a family tells them apart, ``nulls`` are the names of those that are there.
    """

    def __init__(self, values: dict[str, Any], place: str):
        self.values = {name: value for name, value in values.items() if value is not None}
        self.nulls = frozenset(values) - frozenset(self.values)
        self.place = place

    def error(self, message: str) -> ValueError:
        """An error that says where."""
        return ValueError(f"{self.place}: {message}")

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """Any value; ``default`` where it is absent."""
        if name not in self.values and default is _REQUIRED:
            raise self.error(f"attribute {name!r} is missing; add it")
        return self.values.pop(name, default)

    def size(self, name: str, default: Any = _REQUIRED, largest: int = LARGEST) -> int | None:
        """A count: a whole number from 1 to ``largest``."""
        value = self.take(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise self.error(f"attribute {name!r} is {value!r}; it must be a whole number from 1 to {largest}")
        return value

    def number(self, name: str, default: Any = _REQUIRED, *, above: float = float("-inf")) -> float | None:
        """A finite number, greater than ``above``."""
        value = self.take(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= _LARGEST_NUMBER:
            limit = "" if above == float("-inf") else f" above {above:g}"
            raise self.error(f"attribute {name!r} is {repr(value)[:40]}; it must be a finite number{limit}")
        return float(value)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.error(f"attribute {name!r} is {value!r}; it must be true or false")
        return value

    def choice(self, name: str, choices: dict[str, Any], default: Any = _REQUIRED) -> Any:
        """One of the named choices."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(f"attribute {name!r} is {value!r}; supported are {', '.join(choices)}")
        return choices[value]

    def nested(self, name: str) -> "Fields | None":
        """An object in its own right; ``None`` where it is absent."""
        value = self.take(name, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"attribute {name!r} is {value!r}; it must be an object")
        return Fields(value, f"{self.place}, {name}")

    def only(self, name: str, *allowed: Any) -> None:
        """An attribute that may be absent or have one of these values; others ask for what is not built."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise self.error(f"attribute {name!r} is {value!r}, which is not supported; only {allowed[0]!r} is")

    def build(self, make: Callable[..., Any], **values: Any) -> Any:
        """``make(**values)``, an error of which says where."""
        try:
            return make(**values)
        except ValueError as error:
            raise self.error(str(error)) from error

    def skip(self, *names: str) -> None:
        """Attributes that change no logit in this family."""
        for name in names:
            self.values.pop(name, None)

    def refuse_code(self, own: Collection[str]) -> None:
        """Refuses ``auto_map``, which asks to run the checkpoint's own code; ``own`` is what a family is known by."""
        mapping = self.take("auto_map", {})
        values = mapping.values() if isinstance(mapping, dict) else [mapping]
        foreign = [value for value in values if value not in own]
        if foreign:
            raise self.error(
                f"attribute 'auto_map' asks to run code that came with the checkpoint ({foreign[0]!r}); that is never "
                "done. If the architecture is the standard one, remove auto_map from config.json"
            )

    def finish(self, harmless: Collection[str] = HARMLESS) -> None:
        """Raises ValueError if an attribute is left that is not harmless."""
        left = sorted(name for name in self.values if name not in harmless)
        if left:
            shown = ", ".join(f"{name!r} ({self.values[name]!r})"[:120] for name in left[:8])
            raise self.error(
                f"unknown attribute {shown}; it may change what the model computes. Remove it from config.json only if "
                "you know that it does not"
            )
