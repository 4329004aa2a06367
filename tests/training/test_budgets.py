"""A budget that is unused or overrun for ten iterations is said, with what to change."""

import io
import re

import pytest

from gempi_jax.training.budgets import budget_notes
from gempi_jax.training.progress import Progress


def rows(name, *shares):
    return [{name: share} for share in shares]


@pytest.mark.parametrize(
    ("name", "share", "words"),
    [
        ("estep/kl_over_budget/old", 0.03, "unused for 10 iterations .* temperature 'solved'"),
        ("estep/kl_over_budget/old", 1.2, "overrun for 10 iterations"),
        ("estep/chi_squared_over_budget/ref", 0.1, "unused"),
        ("mstep/kl_over_budget", 0.1, r"unused .*: raise optimizer\.learning_rate or updates_per_epoch"),
        ("mstep/kl_over_budget", 1.7, r"overrun .* lower optimizer\.learning_rate"),
    ],
)
def test_ten_iterations_outside_are_said(name, share, words):
    assert re.search(words, budget_notes(rows(name, *[share] * 10))[name])
    # Nine, or one of ten that meets it, say nothing.
    assert not budget_notes(rows(name, *[share] * 9))
    assert not budget_notes(rows(name, *[share] * 9, 1.0))
    assert not budget_notes(rows(name, *[share] * 9, float("nan")))
    # Nor do iterations without a signal, which use none.
    assert not budget_notes([*rows(name, *[share] * 9), {name: share, "estep/flat_batch": 1.0}])


def test_a_step_that_is_only_ever_shortened_leaves_its_budget_unused_by_choice():
    def noted(share, scale):
        return budget_notes([{"mstep/kl_over_budget": share, "mstep/step_scale": scale}] * 10)

    assert not noted(0.1, 1.0)
    # One that was lengthened as far as it may be is a finding, and so is one that is shortened and still too long.
    assert "unused" in noted(0.1, 4.0)["mstep/kl_over_budget"]
    assert "overrun" in noted(1.7, 0.5)["mstep/kl_over_budget"]


def test_a_note_takes_one_line_of_the_progress_once_in_a_phase():
    stream = io.StringIO()
    progress = Progress(stream=stream, every_seconds=1e9)
    for step, phase in enumerate(("sft", "sft", "rl"), start=1):
        progress.update(phase, step, 10, {})
        progress.note({"mstep/kl_over_budget": "a budget was unused."})
    assert stream.getvalue().count("sft: a budget was unused.\n") == 1
    assert stream.getvalue().count("rl: a budget was unused.\n") == 1
