"""Held-out completions before and after a phase, side by side."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from gempi_jax.report.records import Run
from gempi_jax.report.tables import number, phase_label

RIGHT = 1.0
"""A completion with an answer to compare with is right from this reward on."""

MOST = 200
KINDS = {
    "mended": "wrong, then right",
    "spoilt": "right, then wrong",
    "kept": "right both times",
    "missed": "wrong both times",
}


class Pair(NamedTuple):
    """One prompt; each side is a row of ``samples.jsonl``, or ``None`` where it was not recorded (yet)."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def kind(self) -> str | None:
        """A key of ``KINDS``; ``None`` where right and wrong make no sense or a side is missing."""
        verdicts = _verdict(self.before), _verdict(self.after)
        names = {(False, True): "mended", (True, False): "spoilt", (True, True): "kept", (False, False): "missed"}
        return names.get(verdicts)


def pairs(run: Run, phase: str) -> list[Pair]:
    """Samples of a phase by prompt, in the order in which they were written; the latest of each side counts."""
    sides: dict[tuple[str, str], dict[str, dict]] = {}
    for sample in run.samples:
        if sample["phase"] == phase and "prompt" in sample:
            place = sides.setdefault((_text(sample["prompt"]), str(sample.get("answer"))), {})
            place[str(sample.get("when"))] = sample
    return [Pair(place.get("before"), place.get("after")) for place in sides.values()]


def section(run: Run) -> str:
    """HTML of all phases that recorded completions: the last one open, the others folded."""
    phases = [phase.name for phase in run.phases if pairs(run, phase.name)]
    if not phases:
        return ""
    parts = ["<h2>Held-out completions, before and after</h2>"]
    for index, phase in enumerate(reversed(phases)):
        label, body = escape(phase_label(run, phase)), _phase(pairs(run, phase), f"phase{index}")
        if index == 0:
            parts.append(f'<p class="note">Greedy, before and after {label}.</p>{body}')
        else:
            parts.append(f"<details><summary>Before and after {label}</summary>{body}</details>")
    return "\n".join(parts)


def _phase(found: Sequence[Pair], group: str) -> str:
    counts = {kind: sum(pair.kind == kind for pair in found) for kind in KINDS}
    cards = "\n".join(_card(pair) for pair in found[:MOST])
    left_out = f'<p class="note">{len(found) - MOST} more are in samples.jsonl.</p>' if len(found) > MOST else ""
    if not any(counts.values()):
        return cards + left_out
    choices = [
        ("all", f"all {len(found)}"),
        *((kind, f"{KINDS[kind]} {counts[kind]}") for kind in KINDS if counts[kind]),
    ]
    inputs = "".join(
        f'<input class="pick" type="radio" name="{group}" id="{group}-{kind}"{" checked" if kind == "all" else ""}>'
        for kind, _ in choices
    )
    labels = "".join(f'<label for="{group}-{kind}">{escape(text)}</label>' for kind, text in choices)
    return (
        f'<div class="filter">{inputs}{_rules(group, choices)}<div class="picks">{labels}</div>{cards}{left_out}</div>'
    )


def _rules(group: str, choices: Sequence[tuple[str, str]]) -> str:
    """Choosing works by style rules alone: the page runs no script."""
    rules = ("checked", "border-color: var(--accent); color: var(--accent);"), ("focus-visible", "outline: 2px solid;")
    chosen = [
        f'#{group}-{kind}:{state} ~ .picks label[for="{group}-{kind}"] {{ {rule} }}'
        for kind, _ in choices
        for state, rule in rules
    ]
    hidden = [f"#{group}-{kind}:checked ~ .pair:not(.{kind}) {{ display: none; }}" for kind, _ in choices[1:]]
    return "<style>" + "\n".join(chosen + hidden) + "</style>"


def _card(pair: Pair) -> str:
    known = pair.after or pair.before
    assert known is not None  # a pair is made from at least one sample
    answer = f'<div class="answer">answer: <b>{escape(str(known["answer"]))}</b></div>' if "answer" in known else ""
    prompt = escape(_text(known["prompt"]))
    return (
        f'<article class="card pair {pair.kind or ""}"><div class="prompt">{prompt}</div>{answer}'
        f'<div class="sides">{_side("before", pair.before)}{_side("after", pair.after)}</div></article>'
    )


def _side(when: str, sample: dict[str, Any] | None) -> str:
    if sample is None:
        return f'<div class="side"><div class="head"><span>{when}</span><span>not recorded</span></div></div>'
    verdict, reward = _verdict(sample), _reward(sample)
    word = {True: "✓ right", False: "✗ wrong", None: ""}[verdict]
    shown = f"reward {number(reward)}" if reward is not None else "no reward"
    css = {True: " right", False: " wrong", None: ""}[verdict]
    head = f'<span>{when}</span><span><span class="verdict">{word}</span> {shown}</span>'
    text = _completion(_text(sample.get("completion", "")), "answer" in sample)
    return f'<div class="side{css}"><div class="head">{head}</div><pre>{text}</pre></div>'


def _completion(text: str, has_answer: bool) -> str:
    if not text.strip():
        return '<span class="sub">(empty)</span>'
    body, mark, answer = text.rpartition("####")
    if not (has_answer and mark):
        return escape(text)
    first, newline, rest = answer.partition("\n")
    return f"{escape(body + mark)}<mark>{escape(first)}</mark>{escape(newline + rest)}"


def _text(value: Any) -> str:
    """A prompt or completion as a string; lists of messages as one paragraph per role."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value):
        return "\n".join(f"{item['role']}: {item['content']}" for item in value)
    return json.dumps(value, ensure_ascii=False)


def _reward(sample: dict[str, Any]) -> float | None:
    try:
        return float(sample["reward"])
    except (KeyError, TypeError, ValueError):
        return None


def _verdict(sample: dict[str, Any] | None) -> bool | None:
    if sample is None or "answer" not in sample:
        return None
    reward = _reward(sample)
    return None if reward is None else reward >= RIGHT
