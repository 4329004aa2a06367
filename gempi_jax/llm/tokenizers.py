"""Tokenizers: byte-pair encoding trained on the spot, and loading with errors that say what to do."""

import enum
import functools
import importlib.util
import json
import logging
import pathlib
import re
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}

# Digits stand alone and take no space with them, so that 12 is one token wherever it stands.  A word or a marker in
# front of a number takes the space instead.  The end of a sentence never does: prompt and completion, which meet
# there, have the same tokens apart and together.
_PIECES = (
    r"[0-9]+"
    r"| ?\p{L}+(?: (?=[0-9]))?"
    r"| ?[.?!]+"
    r"| ?[^\s\p{L}0-9.?!]+(?: (?=[0-9]))?"
    r"|\s+(?=\s[^\s0-9])|\s+"
)

_SENTENCEPIECE = ("tokenizer.model", "spiece.model")
_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", *_SENTENCEPIECE)


class Alphabet(enum.Enum):
    """What a trained tokenizer can spell."""

    BYTES = "bytes"
    """Any text at all, at the price of 256 entries."""
    SEEN = "seen"
    """The characters of the training texts (and digits); anything else becomes the unknown token."""


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    whole_numbers: bool = True,
    largest_number: int = 200,
    alphabet: Alphabet = Alphabet.BYTES,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``; the same texts give the same tokenizer.

    Text is never changed: decoding what was encoded gives it back.  No special token is added on encoding.

    Args:
      texts: what to learn merges from.
      vocab_size: entries at most, special tokens and numbers included; fewer where the texts offer no more merges.
      whole_numbers: 0 .. ``largest_number`` are one token each, in every context; a larger number is spelt in digits.
        Otherwise every number is.
      largest_number: see above.
      alphabet: what can be spelt without the unknown token.

    Returns:
      A fast tokenizer with pad, bos, eos and unk tokens (ids 0 to 3).

    Raises:
      ValueError: no text, or a ``vocab_size`` that cannot hold special tokens, alphabet and numbers.
    """
    texts = list(texts)
    if not any(texts):
        raise ValueError("train_tokenizer: there is no text to learn from; pass at least one non-empty string.")
    numbers = [str(number) for number in range(10, largest_number + 1)] if whole_numbers else []
    vocabulary, merges = _learn_merges(texts, vocab_size - len(numbers), alphabet)
    if len(vocabulary) + len(numbers) > vocab_size:
        raise ValueError(
            f"train_tokenizer: vocab_size {vocab_size} cannot hold {len(SPECIAL_TOKENS)} special tokens, the alphabet "
            f"and {len(numbers)} numbers; give at least {len(vocabulary) + len(numbers)}, lower largest_number, or use "
            "Alphabet.SEEN."
        )
    vocabulary |= {number: len(vocabulary) + i for i, number in enumerate(numbers)}
    # ignore_merges: a piece that is an entry is that entry; this is what makes each number whole without merges.
    model = models.BPE(vocabulary, merges, unk_token=SPECIAL_TOKENS["unk_token"], ignore_merges=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **SPECIAL_TOKENS
    )


def _pre_tokenizer(*splits: pre_tokenizers.PreTokenizer) -> pre_tokenizers.Sequence:
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    return pre_tokenizers.Sequence([pieces, *splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _learn_merges(
    texts: list[str], vocab_size: int, alphabet: Alphabet
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of everything but numbers, whose digits are kept apart here."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = _pre_tokenizer(pre_tokenizers.Digits(individual_digits=True))
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet is Alphabet.BYTES else list("0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, 0),
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(initial),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def load_tokenizer(path: str | pathlib.Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder (or of a hub name, where there is a network).

    Nothing that comes with the checkpoint is executed.  A tokenizer without a pad token pads with its end token, which
    changes nothing here: lengths come from the sampler and never from comparing with the pad id.

    Raises:
      FileNotFoundError: no such folder, or no tokenizer in it.
      ValueError: files that cannot be read, or a tokenizer without an end token.
    """
    tokenizer = open_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path} has no end token, so no completion could ever end. Name one of "
            'its tokens in tokenizer_config.json: "eos_token": "</s>".'
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        _say_pad_is_eos(str(path), tokenizer.eos_token)
    return tokenizer


def check_ids(tokenizer: PreTrainedTokenizerBase, num_rows: int, place: str) -> None:
    """Has every entry of a tokenizer a row of the embedding?  Ids may have gaps, so their number says too little.

    Raises:
      ValueError: names the entry with the largest id.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= num_rows:
        raise ValueError(
            f"{place}: the tokenizer has {len(tokenizer)} entries, the embedding only {num_rows} rows, and {token!r} "
            f"has the id {largest}; use the tokenizer that the model was trained with, or enlarge the embedding"
        )


def open_tokenizer(path: str | pathlib.Path) -> PreTrainedTokenizerBase:
    """As :func:`load_tokenizer`, for models that never end a text: what the files say, without pad or end.

    Raises:
      ImportError: the files are of SentencePiece alone, and its library is missing; names the line that installs it.
    """
    folder = pathlib.Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _FILES):
            raise FileNotFoundError(
                f"load_tokenizer: {folder} holds no tokenizer: none of {', '.join(_FILES)} is there. Save one into it "
                "with tokenizer.save_pretrained(folder), or point to the folder that has it."
            )
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(path)) or str(path).startswith("."):
        raise FileNotFoundError(
            f"load_tokenizer: there is no folder {folder}; give the folder that holds tokenizer.json."
        )
    return _open(str(folder) if folder.is_dir() else str(path), is_folder=folder.is_dir())


def _open(name: str, *, is_folder: bool) -> PreTrainedTokenizerBase:
    try:
        if is_folder and _is_all_in_one_file(pathlib.Path(name)):
            return PreTrainedTokenizerFast.from_pretrained(name, local_files_only=True)
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=is_folder)
    except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot parse
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if is_folder and (file := _needs_sentencepiece(pathlib.Path(name))):
            raise ImportError(
                f"{file}: reading it needs sentencepiece, which is not installed: pip install sentencepiece"
            ) from error
        if is_folder:
            raise ValueError(f"load_tokenizer: the tokenizer files in {name} cannot be read: {reason}") from error
        raise FileNotFoundError(
            f"load_tokenizer: {name!r} is neither a folder here nor a name that the hub gave a tokenizer for: {reason}"
        ) from error


def _is_all_in_one_file(folder: pathlib.Path) -> bool:
    """Whether the folder says that ``tokenizer.json`` is the whole tokenizer, of no model's own class.

    Transformers 5 opens it by the class of the model beside it all the same, which finds no word in a text of it.
    """
    config = folder / "tokenizer_config.json"
    if not config.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    values = json.loads(config.read_text(encoding="utf-8"))
    return values.get("tokenizer_class") in {"PreTrainedTokenizerFast", "TokenizersBackend"}


def _needs_sentencepiece(folder: pathlib.Path) -> pathlib.Path | None:
    """The file that only SentencePiece's library reads, where that is missing."""
    if (folder / "tokenizer.json").is_file() or importlib.util.find_spec("sentencepiece") is not None:
        return None
    return next((folder / name for name in _SENTENCEPIECE if (folder / name).is_file()), None)


@functools.cache
def _say_pad_is_eos(path: str, token: str) -> None:
    logging.getLogger(__name__).warning(
        "The tokenizer at %s has no pad token; padding with its end token %r.", path, token
    )
