"""What users have: small Hugging Face folders with tokenizers of the two common kinds, files of rows, and a config of
their own.  Everything is made here; no test needs a file that is not in the repository."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from configs import common
from gempi_jax.llm import save_pretrained
from gempi_jax.llm.hf import Pretrained
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run

TEXTS = [
    f'The {a} is {b}.\n\nThe {b} {a} said to Tom: "Hello, {c}!" Once upon a time, the {c} went to the river.\n'
    for a in ("cat", "dog", "cow", "pig")
    for b in ("big", "small", "red")
    for c in ("fox", "owl", "bee")
]

TEMPLATES = {
    # Ends turns with the tokenizer's end token; the generation prompt ends in a space.
    "plain": "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    # Trims the content, as Llama 3's does, and begins with the begin token.
    "trim": "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}",
    # Ends turns with a marker that is not the end token.
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # Writes the schemas of tools where it is given some, and tool calls where a message has them.
    "tools": "{% if tools %}[tools] {{ tools | tojson }}\n{% endif %}{% for m in messages %}[{{ m['role'] }}] "
    "{% if m['content'] %}{{ m['content'] }}{% endif %}{% if 'tool_calls' in m %}{% for call in m['tool_calls'] %}"
    "<call>{{ call['function'] | tojson }}</call>{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
}
"""Chat templates of the kinds that published models have."""


def words_tokenizer(special: Sequence[str] = (), vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """SentencePiece's kind, as Llama 2's: a space before every text, bytes for the rest, ``<s>`` in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        limit_alphabet=100,
        show_progress=False,
        max_token_length=8,
    )
    tokenizer.train_from_iterator([word for text in TEXTS for word in text.split(" ")], trainer)
    # The byte tokens are entries of the model, not special ones.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(special),
    )


def pieces_tokenizer(special: Sequence[str] = ("<|im_start|>", "<|im_end|>")) -> PreTrainedTokenizerFast:
    """Byte-level BPE that splits text as Llama 3's and Qwen's do: a sentence's end and a blank line are one token."""
    pieces = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    special = ("<|endoftext|>", *special)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def write_model(path: pathlib.Path, tokenizer: PreTrainedTokenizerFast, chat: str | None = None) -> pathlib.Path:
    """A folder with a random Llama of two layers for the tokenizer; ``chat`` names one of ``TEMPLATES``."""
    if chat:
        tokenizer.chat_template = TEMPLATES[chat]
    decoder = Decoder(
        DecoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_layers=1,
            num_heads=2,
            max_positions=256,
        )
    )
    params = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    save_pretrained(path, Pretrained(decoder, params, tokenizer))
    return path


def write_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> pathlib.Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def users_config(model: pathlib.Path, train: pathlib.Path, heldout: pathlib.Path, *phases: str) -> ConfigDict:
    """A user's own small config: SFT, V-MPO (section ``rl``), or one after the other; not locked, for more changes."""
    config = common.base()
    config.model.update({"path": str(model), "dtype": "float32"})
    config.data.update(
        {
            "task": "jsonl",
            "train_path": str(train),
            "heldout_path": str(heldout),
            "max_prompt_length": 128,
            "long_completions": "error",
        }
    )
    config.rewards = ConfigDict({"no_repetition": 1.0})
    config.phases = phases or ("sft",)
    config.eval.update({"batch_prompts": 4, "num_samples": 4})
    config.checkpoint.every = 1
    config.sft = common.phase(
        "sft",
        source="demonstrations",
        num_iterations=2,
        eval_every=1000,
        batch_prompts=4,
        num_generations=1,
        max_completion_length=96,
        updates_per_epoch=1,
        baseline="zero",
        optimizer={"learning_rate": 1e-3},
    )
    config.rl = common.phase(
        "vmpo",
        num_iterations=2,
        eval_every=1000,
        batch_prompts=4,
        num_generations=4,
        max_completion_length=16,
        updates_per_epoch=2,
        optimizer={"learning_rate": 1e-3},
    )
    return config


def start(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """The run of a config in this process, without a report; returns the exported folder."""
    return run(settings_from_config(config), workdir, config.to_dict())
