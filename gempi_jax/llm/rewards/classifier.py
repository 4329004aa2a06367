"""A sequence classifier as a reward: transformers' Flax classes (BERT, RoBERTa, ...) behind the reward signature."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gempi_jax.llm.hf.flax_classes import open_flax
from gempi_jax.llm.padding import PowerOfTwo
from gempi_jax.llm.rewards.answers import as_text
from gempi_jax.llm.rewards.specs import RewardError
from gempi_jax.llm.tokenizers import check_ids, open_tokenizer
from gempi_jax.types import Array

_logger = logging.getLogger(__name__)
OPENER = "FlaxAutoModelForSequenceClassification"
_ROWS, _COLUMNS = PowerOfTwo(8), PowerOfTwo(16)


def logit(logits: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """The labels' logits as they are."""
    return logits


def log_prob(logits: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """Log-probabilities of the labels, nats; of a single label, log sigmoid."""
    return jax.nn.log_sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.log_softmax(logits)


def prob(logits: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """Probabilities of the labels."""
    return jnp.exp(log_prob(logits))


def completion_alone(prompt: Any, completion: Any) -> str:
    """The classifier reads the completion."""
    return as_text(completion)


def prompt_and_completion(prompt: Any, completion: Any) -> str:
    """The classifier reads the prompt with the completion right behind it."""
    if not isinstance(prompt, str):
        raise RewardError("a classifier cannot read a role list as the prompt; let it read the completion alone")
    return prompt + as_text(completion)


class SequenceClassifier:
    """f(prompts, completions) -> scores of one label, one forward pass for all of them.

    Texts are padded to power-of-two numbers of rows and of tokens, so few shapes are compiled.  What is longer than the
    classifier's positions keeps its end, behind the special tokens: the completion is what is judged.

    Args:
      model: a transformers Flax model for sequence classification.
      params: its parameters.
      tokenizer: its tokenizer.
      label: index of the label.
      score: of the logits.
      text: of a prompt and a completion.
      max_length: tokens.
      compiled: wraps the forward pass, ``jax.jit`` for one.

    Attributes:
      num_truncated: texts that lost tokens so far.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        tokenizer: Any,
        *,
        label: int,
        score: Callable[[Array], Array] = logit,
        text: Callable[[Any, Any], str] = prompt_and_completion,
        max_length: int,
        compiled: Callable[[Callable], Callable] = lambda function: function,
    ):
        def forward(params, tokens, mask):
            logits = model(input_ids=tokens, attention_mask=mask, params=params, train=False).logits
            return score(logits.astype(jnp.float32))[:, label]

        self._forward, self._params, self._tokenizer = compiled(forward), params, tokenizer
        self._tokenizer.truncation_side = "left"
        self._text, self._max_length = text, max_length
        self.num_truncated = 0

    def __call__(self, prompts: Sequence, completions: Sequence) -> list[float]:
        """The score of each completion."""
        if not completions:
            return []
        rows = self._encode([self._text(*pair) for pair in zip(prompts, completions, strict=True)])
        shape = (_ROWS(len(rows)), min(_COLUMNS(max(map(len, rows))), self._max_length))
        tokens = np.full(shape, self._tokenizer.pad_token_id, np.int32)
        mask = np.zeros(shape, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, 1
        # Without a single token to read, attention would be a softmax over nothing.
        mask[:, 0] = 1
        return np.asarray(self._forward(self._params, tokens, mask))[: len(rows)].tolist()

    def _encode(self, texts: list[str]) -> list[list[int]]:
        rows = self._tokenizer(texts, verbose=False)["input_ids"]
        long = [i for i, row in enumerate(rows) if len(row) > self._max_length]
        if long and not self.num_truncated:
            _logger.warning("the classifier reads the end of texts with more than %d tokens", self._max_length)
        self.num_truncated += len(long)
        for i in long:
            rows[i] = self._tokenizer(texts[i], truncation=True, max_length=self._max_length)["input_ids"]
        return rows


def sequence_classifier(
    path: str | pathlib.Path,
    *,
    label: str | int | None = None,
    score: Callable[[Array], Array] = logit,
    text: Callable[[Any, Any], str] = prompt_and_completion,
    max_length: int | None = None,
    compiled: Callable[[Callable], Callable] = lambda function: function,
) -> SequenceClassifier:
    """A reward from a folder of a sequence classifier.

    Args:
      path: the folder: config.json, weights (flax_model.msgpack or safetensors) and tokenizer.
      label: the label whose score is the reward, by its name in config.json or by index; may be left out where there is
        one only.
      score: :func:`logit`, :func:`log_prob` or :func:`prob`.
      text: :func:`prompt_and_completion` or :func:`completion_alone`.
      max_length: tokens that are read, at most the classifier's positions (the default).
      compiled: ``jax.jit``; the default runs the model operation by operation.

    Raises:
      RewardError: no such folder, no tokenizer, files that do not fit, or an unknown label.
    """
    try:
        model, params = open_flax(OPENER, path)
        tokenizer = open_tokenizer(path)
    except (ImportError, OSError, ValueError) as error:
        raise RewardError(f"sequence classifier {path}: {error}") from error
    if tokenizer.pad_token_id is None:
        raise RewardError(f"sequence classifier {path}: its tokenizer has no pad token; name one in its config")
    try:
        check_ids(tokenizer, model.config.vocab_size, f"sequence classifier {path}")
    except ValueError as error:
        raise RewardError(str(error)) from error
    longest = _positions(model.config)
    if max_length is not None and not 0 < max_length <= longest:
        raise RewardError(f"sequence classifier {path}: max_length = {max_length}; it has {longest} positions")
    return SequenceClassifier(
        model,
        jax.tree.map(jnp.asarray, params),
        tokenizer,
        label=_label(model.config, label, path),
        score=score,
        text=text,
        max_length=longest if max_length is None else max_length,
        compiled=compiled,
    )


def _label(config: Any, label: str | int | None, path: Any) -> int:
    names = {str(name): int(index) for index, name in config.id2label.items()}
    if label is None and len(names) == 1:
        return 0
    if str(label) in names:
        return names[str(label)]
    if str(label).isdecimal() and int(label) < len(names):
        return int(label)
    stated = "needs a label" if label is None else f"has no label {label!r}"
    raise RewardError(f"sequence classifier {path}: {stated}; it knows {', '.join(names)}")


def _positions(config: Any) -> int:
    """RoBERTa's positions start behind the pad id."""
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")
    return config.max_position_embeddings - (config.pad_token_id + 1 if shifted else 0)
