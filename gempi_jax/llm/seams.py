r"""One text, one encoding: where in the tokens of a text its prompt ends, and what stands behind it.

A tokenizer cuts a text where it likes.  ``Tom said`` and ``: hello.`` have other tokens apart than together, since
SentencePiece's kind puts a space before every text that it is given, and a space belongs to the word behind it.  So a
text is encoded whole, here, by everything that needs its tokens, and this module alone says

* which tokens stand in front (each tokenizer's own begin tokens, once),
* which tokens a prompt has, as the beginning of a text that goes on (:func:`encode_openings`): ``[assistant] `` ends in
  ``]``, since its space will be the first thing of the next word's token,
* which tokens are a completion's (:func:`encode_pairs`): all that follow the prompt's,
* what a completion says behind its prompt (:func:`decode_completions`).

Only encoding and decoding are used, no offsets: it holds for fast and slow tokenizers, whatever their kind.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

Tokens = list[int]
_PROBES = ("a", "e", "A", "E", "0", "1", ".", "x")
"""What a text goes on with, to see where its tokens end: the first that the tokenizer knows."""


class Pair(NamedTuple):
    """A text in tokens, cut in two.

    Attributes:
      prompt: ids in front of the completion.
      completion: ids from the first that is not the prompt's, without an end token.
      straddles: a token lies across the seam, which is the completion's: then ``prompt`` is shorter than what the
        prompt alone is encoded to.
    """

    prompt: Tokens
    completion: Tokens
    straddles: bool


class Part(NamedTuple):
    """Some tokens of a text.

    Attributes:
      first, end: the first of them, and the first behind them.
      straddles: the first writes something of what stands before, too.
    """

    first: int
    end: int
    straddles: bool


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], rendered: bool | Sequence[bool] = False
) -> list[Tokens]:
    """Tokens of whole texts: behind the tokenizer's begin tokens, and without those that it puts at the end.

    Args:
      tokenizer: of the policy.
      texts: any; one that begins with the begin tokens, as text, gets no second ones.
      rendered: whether a chat template wrote them (or each of them), with all special tokens that they are to have.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    begin = _begin_tokens(tokenizer)
    return [
        list(tokens) if by_template or tokens[: len(begin)] == begin else [*begin, *tokens]
        for tokens, by_template in zip(encoded, _flags(rendered, len(texts)), strict=True)
    ]


def encode_openings(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], rendered: bool | Sequence[bool] = False
) -> list[Tokens]:
    """Tokens of texts that go on: those that stay what they are when a word follows.

    Space at the end of a text is left to the tokens behind where they would take it in; nothing else is ever left out.

    Args:
      tokenizer: of the policy.
      texts: prompts.
      rendered: see :func:`encode_texts`.
    """
    encoded = encode_texts(tokenizer, texts, rendered)
    spaced = [i for i, text in enumerate(texts) if text[-1:].isspace()]
    if not spaced:
        return encoded
    probe, flags = _probe(tokenizer), [_flags(rendered, len(texts))[i] for i in spaced]
    # The probe is one character, so the last token alone holds it, with the space that it took in.
    followed = [tokens[:-1] for tokens in encode_texts(tokenizer, [texts[i] + probe for i in spaced], flags)]
    for i, tokens in zip(spaced, followed, strict=True):
        if _decode(tokenizer, tokens).rstrip() == _decode(tokenizer, encoded[i]).rstrip():
            encoded[i] = tokens
    return encoded


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], rendered: bool | Sequence[bool] = False
) -> list[Pair]:
    """Tokens of prompts with their completions, each pair encoded as one text.

    Args:
      tokenizer: of the policy.
      pairs: prompt and completion, which follow each other as they stand.
      rendered: see :func:`encode_texts`.

    Returns:
      Pairs whose prompts are those of :func:`encode_openings`, except where a token straddles the seam.
    """
    openings = encode_openings(tokenizer, [prompt for prompt, _ in pairs], rendered)
    wholes = encode_texts(tokenizer, ["".join(pair) for pair in pairs], rendered)
    seams = [_shared(opening, whole) for opening, whole in zip(openings, wholes, strict=True)]
    return [
        Pair(whole[:seam], whole[seam:], seam < len(opening))
        for opening, whole, seam in zip(openings, wholes, seams, strict=True)
    ]


def encode_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[Tokens, list[Part]]:
    """Tokens of a text that a template rendered, and which of them write given parts of it.

    A part begins where the tokens of what stands before it end, as a prompt's do, and ends with the token that writes
    its last character.

    Args:
      tokenizer: of the policy.
      text: with all its special tokens.
      spans: first character of each part, and the first behind it.

    Returns:
      The tokens, and the parts in them.
    """
    (whole,) = encode_texts(tokenizer, [text], True)
    begins = encode_openings(tokenizer, [text[:begin] for begin, _ in spans], True)
    ends = encode_texts(tokenizer, [text[:end] for _, end in spans], True)
    parts = []
    for begin, end in zip(begins, ends, strict=True):
        first = _shared(begin, whole)
        parts.append(Part(first, _reach(tokenizer, end, whole), first < len(begin)))
    return whole, parts


def decode_completions(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, Sequence[int]]],
    completions: Sequence[Sequence[int]],
    end_ids: Collection[int],
) -> list[str]:
    """What completions say behind their prompts: a prompt's text and this are the text that the tokens spell.

    Nothing is cleaned up, and special tokens are text like others, but the one that ends a completion is left out.
    Space at a prompt's end that its tokens leave to the completion is the prompt's, and is not given twice.

    Args:
      tokenizer: of the policy.
      prompts: text and tokens of what each completion follows.
      completions: tokens.
      end_ids: tokens that end a completion.
    """
    decoded, texts, cuts = {}, [], _cuts(tokenizer)
    for (prompt, before), tokens in zip(prompts, completions, strict=True):
        tokens = tokens[:-1] if len(tokens) and tokens[-1] in end_ids else tokens
        # Behind a begin token, some tokenizers show the space that they put before a text.
        context = tuple(before[_unspelt(tokenizer, prompt, before) :])
        if context not in decoded:
            decoded[context] = _decode(tokenizer, context, cuts)
        text = _behind(decoded[context], _decode(tokenizer, [*context, *tokens], cuts))
        texts.append(text.removeprefix(_left_out(prompt, decoded[context])))
    return texts


def _flags(rendered: bool | Sequence[bool], count: int) -> Sequence[bool]:
    return [rendered] * count if isinstance(rendered, bool) else rendered


def _begin_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """What the tokenizer puts in front of every text."""
    probe = _probe(tokenizer)
    alone, dressed = (list(tokenizer(probe, add_special_tokens=add)["input_ids"]) for add in (False, True))
    places = range(len(dressed) - len(alone) + 1)
    return next((dressed[:i] for i in places if dressed[i : i + len(alone)] == alone), [])


def _probe(tokenizer: PreTrainedTokenizerBase) -> str:
    unknown = ([], [tokenizer.unk_token_id])
    return next((probe for probe in _PROBES if _plain(tokenizer, probe) not in unknown), _PROBES[0])


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _shared(one: Sequence, other: Sequence) -> int:
    """How much both begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _reach(tokenizer: PreTrainedTokenizerBase, part: Tokens, whole: Tokens) -> int:
    """How many tokens of ``whole`` it takes to write what ``part``, the tokens of its beginning, does."""
    count = _shared(part, whole)
    if count < len(part):
        length = len(_decode(tokenizer, part))
        while count < len(whole) and len(_decode(tokenizer, whole[:count])) < length:
            count += 1
    return count


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], cuts: Collection[int] = ()) -> str:
    """What tokens spell; what stands between the tokens ``cuts`` is a text by itself."""
    if cuts:
        return "".join(_decode(tokenizer, list(part)) for _, part in itertools.groupby(tokens, lambda t: t in cuts))
    return tokenizer.decode(
        list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False, spaces_between_special_tokens=False
    )


def _cuts(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens, where the tokenizer begins a new text behind them, with the space that it puts before each."""
    special = frozenset(id_ for id_, token in tokenizer.added_tokens_decoder.items() if not token.normalized)
    text = f"{tokenizer.eos_token}{_probe(tokenizer)}"
    tokens = _plain(tokenizer, text)
    faithful = _decode(tokenizer, tokens) == text or _decode(tokenizer, tokens, special) != text
    return frozenset() if faithful else special


def _unspelt(tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: Sequence[int]) -> int:
    """How many special tokens stand in front of a prompt that its text does not spell: begin tokens."""
    special = set(tokenizer.all_special_ids)
    begin = itertools.takewhile(lambda token: token in special, tokens)
    return sum(1 for _ in itertools.takewhile(lambda token: not prompt.startswith(_decode(tokenizer, [token])), begin))


def _behind(before: str, whole: str) -> str:
    """What follows ``before``, whose last character may be whole only with the bytes behind it."""
    return whole[len(before) if whole.startswith(before) else _shared(before, whole) :]


def _left_out(prompt: str, decoded: str) -> str:
    """The space at the end of a prompt that its tokens do not spell."""
    space = prompt[len(prompt.rstrip()) :]
    spelt = next(n for n in range(len(space), -1, -1) if decoded.endswith(space[:n]))
    return space[spelt:]
