"""The model and the rows that all sides read, in a folder of Hugging Face's format; nothing is downloaded.

All weights are random.  One direction of the residual stream is the same for every token and no layer writes to it, so
that the logit of a token can be set through its embedding: the end token's, for completions that end with a given
probability at each of their tokens, and that of padding, which is never sampled.
"""

import json
import math
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.speed.work import Size, Work
from gempi_jax.llm.hf.pretrained import CheckpointConfig, Pretrained, save_pretrained
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.types import Params

PAD, END, FIRST_WORD = 0, 1, 2
CONSTANT = 8.0
"""Of every token's embedding, in direction 0: much larger than all else, whose norm is then nearly the same."""
NEVER = -30.0
"""How much less likely a token is that is never sampled, nats."""
ROWS = 64


def write_folder(folder: pathlib.Path, size: Size, work: Work) -> pathlib.Path:
    """Writes ``model`` and ``rl.jsonl``, ``sft.jsonl``, ``dpo.jsonl``, ``heldout.jsonl``, each prompt with its answers.

    Args:
      folder: made if it does not exist.
      size: of the model.
      work: lengths of prompts and answers, and how completions end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(folder / "model", model(size, work.mean_length))
    rng = np.random.default_rng(0)

    def words(length: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(FIRST_WORD, size.vocab_size, length))

    for name in ("rl", "sft", "dpo", "heldout"):
        rows = [{"prompt": words(work.prompt_length)} for _ in range(ROWS)]
        # One token less than there is room for: the end token follows.
        answers = {"sft": ("completion",), "dpo": ("chosen", "rejected")}.get(name, ())
        for row in rows:
            row |= {answer: " " + words(work.completion_length - 1) for answer in answers}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def model(size: Size, mean_length: int = 0) -> Pretrained:
    """A random Qwen2 whose completions have a geometric length of this mean, or never end."""
    config = DecoderConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.width,
        intermediate_size=size.intermediate,
        num_layers=size.layers,
        num_heads=size.heads,
        num_kv_heads=size.kv_heads,
        qkv_bias=True,
        tie_embeddings=True,
    )
    decoder = Decoder(config)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    end = math.log((size.vocab_size - FIRST_WORD) / (mean_length - 1)) if mean_length else NEVER
    return Pretrained(decoder, _weights(shapes, size.width, end), word_tokenizer(size.vocab_size), _config(size))


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """One token for each of the words w2, w3, ..."""
    names = ["<pad>", "<end>", *(f"w{i}" for i in range(FIRST_WORD, vocab_size))]
    words = tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=f"w{FIRST_WORD}")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def _weights(shapes: Params, width: int, end: float) -> Params:
    rng = np.random.default_rng(0)
    flat = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
        value = 0.02 * rng.standard_normal(leaf.shape, np.float32) if len(leaf.shape) > 1 else np.zeros(leaf.shape)
        if path[-1] == "scale":
            value = np.ones(leaf.shape)
        if path[-2:] in {("o_proj", "kernel"), ("down_proj", "kernel")}:
            value[:, 0] = 0.0
        flat[path] = value
    flat["embedding",][:, 0] = CONSTANT
    for token, logit in ((PAD, NEVER), (END, end)):
        flat["embedding",][token] = 0.0
        flat["embedding",][token, 0] = CONSTANT + logit
    # The norm makes sqrt(width) of the constant; after this it is 1, by which logits are those offsets.
    flat["final_norm", "scale"][0] = width**-0.5
    return flax.traverse_util.unflatten_dict({path: jnp.asarray(value, jnp.float32) for path, value in flat.items()})


def _config(size: Size) -> CheckpointConfig:
    ids = {"eos_token_id": END, "pad_token_id": PAD}
    values = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": size.vocab_size,
        "hidden_size": size.width,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
    }
    return CheckpointConfig(values | ids, ids)
