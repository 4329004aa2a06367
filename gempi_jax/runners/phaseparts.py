"""A phase's method and source from its settings, each checked as it is made."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gempi_jax.em import Level
from gempi_jax.llm.preferences import ANSWERS
from gempi_jax.llm.rows import place_of
from gempi_jax.methods import Critic, Method, with_critic
from gempi_jax.numerics.advantages import gae
from gempi_jax.numerics.keys import named_seed
from gempi_jax.runners import stages
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.build import blame, lookup, method_from_settings
from gempi_jax.runners.checks import check_phase
from gempi_jax.runners.data import Source
from gempi_jax.runners.scoredrows import check_references, check_scored, check_whole
from gempi_jax.runners.settings import PhaseSettings, RunSettings
from gempi_jax.runners.sources import SOURCES
from gempi_jax.runners.tasks import Task

_logger = logging.getLogger(__name__)

FEW = 1000
"""Rows that stand for all, where one look at them tells enough."""


def check_names(name: str, phase: PhaseSettings) -> None:
    """Settings that stand for a value by its name.

    Args:
      name: of the phase's section, for errors.
      phase: its settings.

    Raises:
      ValueError: an unknown name, with the nearest valid one.
    """
    tables = {
        "source": SOURCES,
        "baseline": BASELINES,
        "old_log_probs": stages.OLD_LOG_PROBS,
        "tempered": stages.TEMPERED,
        "trust_region_dropout": stages.SAME_MASK,
    }
    for setting, table in tables.items():
        lookup(table, getattr(phase, setting), f"config.{name}.{setting}")
    if phase.top_k or phase.top_p < 1 or phase.min_p:
        _logger.warning(
            "config.%s: top_k, top_p or min_p cut what samples, and weights are taken against the cut distribution: a "
            "sample's falls by the mass that was cut at each of its tokens, so the longer completions are, the fewer "
            "carry the update; see sampler_shift (nats a sample) and estep/ess",
            name,
        )


def phase_method(name: str, phase: PhaseSettings) -> Method:
    """The method of a phase, checked against its settings."""
    method = method_from_settings(name, phase)
    learns_value = phase.baseline == "value" and method.needs.critic is None and method.needs.baseline
    if learns_value and SOURCES[phase.source].rewarded:
        # Of a whole completion, one step: its reward less V(x).
        method = with_critic(method, Critic(gae(1.0)))
    check_phase(name, phase, method)
    follows = phase.old_period > 1 or phase.old_ema_decay > 0
    if follows and "old" not in method.needs.snapshots and SOURCES[phase.source].written:
        # No anchor is pi_t, and yet it writes: what it follows the policy by is set.
        return method._replace(needs=method.needs._replace(keeps_old=True))
    return method


def phase_source(name: str, settings: RunSettings, method: Method, task: Task, make: Callable[..., Source]) -> Source:
    """The batches of a phase: of training prompts that the policy answers, or of a dataset's completions.

    Args:
      name: of the phase's section, for errors.
      settings: of the run.
      method: of the phase.
      task: the rows.
      make: a source, of rows and what a phase says of them.

    Raises:
      ValueError: no rows, rows without what the method needs, or lengths that fit none.
    """
    phase, data = settings.phases[name], settings.data
    rows = _rows(name, phase, task)
    writes = SOURCES[phase.source].written
    check_prompts(name, rows, method)
    carries = phase.source == "scored" and check_scored(name, rows, method)
    references = phase.source == "scored" and check_references(name, rows, method)
    lengths = f"data.max_prompt_length = {data.max_prompt_length} (data.long_prompts = {data.long_prompts!r})"
    if not writes:
        lengths += f", max_completion_length = {phase.max_completion_length} (data.long_completions = "
        lengths += f"{data.long_completions!r})"
    with blame(f"config.{name} with {lengths}"):
        source = make(
            rows,
            batch_prompts=phase.batch_prompts,
            max_completion_length=phase.max_completion_length,
            answers=SOURCES[phase.source].answers,
            carries_log_probs=carries,
            carries_references=references,
            # Two phases over the same rows take them in orders of their own.
            seed=named_seed(settings.seed, f"phase/{name}"),
        )
    if carries:
        check_whole(name, source)
    return source


def check_prompts(name: str, rows: Sequence[Mapping[str, Any]], method: Method) -> None:
    """Refuses a critic V(x) of whole completions on rows without prompts, by which alone it tells them apart.

    Args:
      name: of the phase's section, for errors.
      rows: of its source.
      method: of the phase.

    Raises:
      ValueError: none of the first rows has one.
    """
    critic = method.needs.critic is not None and method.needs.level is Level.SEQUENCE
    if critic and not any(row.get("prompt") or row.get("messages") for row in itertools.islice(rows, FEW)):
        raise ValueError(
            f"config.{name} has a critic of whole completions, V(x), and rows without prompts, for which it is one "
            "number; set baseline to 'batch_mean', or choose a method whose critic reads tokens, such as ppo"
        )


def _rows(name: str, phase: PhaseSettings, task: Task):
    writes = SOURCES[phase.source].written
    if SOURCES[phase.source].answers == ANSWERS:
        return _preferences(name, task)
    rows = task.train if writes else task.demonstrations
    if not rows and writes:
        raise ValueError(
            f"config.{name}.source = {phase.source!r}: there are no training prompts; raise data.num_train"
        )
    if not rows:
        raise ValueError(
            f"config.{name}.source = {phase.source!r}: the data have no rows with a completion; name one in "
            "data.columns, or raise data.num_demonstrations"
        )
    return rows


def _preferences(name: str, task: Task):
    place = f"config.{name}.source = 'preferences'"
    if not task.preferences:
        raise ValueError(
            f"{place}: the data have no rows with 'chosen' and 'rejected'; name the columns in data.columns, or set "
            "source to 'rollout', whose pairs are the best and worst of a prompt's samples"
        )
    equal = [i for i, row in enumerate(task.preferences) if row["chosen"] == row["rejected"]]
    if equal:
        _logger.warning(
            "%s: in %d of %d rows 'chosen' and 'rejected' are equal (first %s); nothing is learnt from these.",
            place,
            len(equal),
            len(task.preferences),
            place_of(task.preferences[equal[0]], f"row {equal[0]} (from 0)"),
        )
    return task.preferences
