"""The host's side of an iteration: which rows a batch takes, their tokens, and what rewards say of completions.

Text becomes tokens before training, or a batch at a time where the rows are streamed; what the policy writes is decoded
for the reward functions only and never encoded again.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.datasets import batch_indices
from gempi_jax.llm.encoding import prompt_text
from gempi_jax.llm.generate import Completions
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.messages import template_options
from gempi_jax.llm.rewards import RewardError, RewardResult, RewardSpec, compute_rewards
from gempi_jax.llm.rows import place_of
from gempi_jax.llm.seams import decode_completions
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.ends import Ends
from gempi_jax.runners.tokens import Encoding, Stored, Streamed

Row = dict[str, Any]
_logger = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """Prompts of a batch, right-padded: tokens [G, P], lengths [G], and their rows."""

    tokens: np.ndarray
    lengths: np.ndarray
    rows: list[Row]


class Rewarded(NamedTuple):
    """Rewards [G, K], whether all are finite, and metrics of them."""

    rewards: np.ndarray
    finite: bool
    metrics: dict[str, float]


class Source:
    """Rows with their tokens, served in batches that depend on the step and the seed alone.

    Args:
      rows: a list, which is encoded at once, or another sequence, which is read and encoded batch by batch; with
        ``prompt``; for demonstrations ``completion``, ``messages`` or ``text``; for scored data ``reward`` too; for
        preferences ``chosen`` and ``rejected``.
      tokenizer: of the policy.
      rewards: applied to what the policy writes; besides the rows' columns they get ``ended``, whether a completion
        came to an end of its own.
      ends: what ends a completion.
      batch_prompts: G.
      max_prompt_length: P, tokens.
      max_completion_length: C, tokens.
      long_prompts, long_completions: policies for what is longer.
      answers: the columns of the rows' own completions, where these are what is learnt.
      carries_log_probs: rows have ``log_prob``, log b(y) of the policy that wrote them.
      carries_references: rows have ``reference_rewards``, of completions of the same prompt by pi_ref.
      seed: of the order.

    Attributes:
      learns_completions: whether the rows' own completions are what is learnt.
      num_dropped, num_truncated: rows that were longer, by policy.
      num_straddling: rows whose prompt lost its last token to the completion, where the tokenizer puts it.
      failure: why the latest batch has no rewards; empty where it has.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        rewards: Sequence[RewardSpec],
        *,
        ends: Ends,
        batch_prompts: int,
        max_prompt_length: int,
        max_completion_length: int,
        long_prompts: TooLong,
        long_completions: TooLong = TooLong.ERROR,
        answers: tuple[str, ...] = (),
        carries_log_probs: bool = False,
        carries_references: bool = False,
        seed: int,
    ):
        self._tokenizer, self._rewards, self._ends = tokenizer, rewards, ends
        self._batch, self._seed, self._carries_log_probs = batch_prompts, seed, carries_log_probs
        self._carries_references = carries_references
        self.learns_completions, self._max_completion_length = bool(answers), max_completion_length
        lengths = max_prompt_length, max_completion_length
        encoding = Encoding(tokenizer, *lengths, long_prompts, long_completions, answers, ends.eos_ids)
        self._tokens = Stored(rows, encoding) if isinstance(rows, list) else Streamed(rows, encoding)
        self.rows = self._tokens.rows
        self.num_dropped, self.num_truncated = self._tokens.num_dropped, self._tokens.num_truncated
        self.num_straddling, self.failure = self._tokens.num_straddling, ""

    @property
    def prompt_width(self) -> int:
        """P: tokens of the longest prompt."""
        return self._tokens.widths[0]

    def prompts(self, step: int) -> tuple[Prompts, np.ndarray]:
        """The prompts of an iteration, and the indices of their rows."""
        index = batch_indices(len(self.rows), self._batch, step, self._seed)
        return self.take(index), index

    def take(self, index: np.ndarray) -> Prompts:
        """The prompts of given rows."""
        rows = [self.rows[i] for i in index]
        return Prompts(*self._tokens.take(index, rows).prompts, rows)

    def completions(self, prompts: Prompts, index: np.ndarray) -> tuple[Batch, float]:
        """A batch of the dataset's own completions, K = 1, with its rewards where it has them; of pairs K = 2.

        Of a pair the chosen answer has reward 1, the rejected one 0: all that a preference says.  Also how many tokens
        its rows hold: prompts and completions, other roles' turns too.
        """
        taken = self._tokens.take(index, prompts.rows)
        tokens = taken.completions.tokens
        rewards = np.array([_given_rewards(row, tokens.shape[1]) for row in prompts.rows], np.float32)
        behaviour = None
        if self._carries_log_probs:
            behaviour = np.array([[float(row["log_prob"])] for row in prompts.rows], np.float32)
        references = None
        if self._carries_references:
            references = np.array([row["reference_rewards"] for row in prompts.rows], np.float32)
        batch = Batch(
            prompts=prompts.tokens,
            prompt_lengths=prompts.lengths,
            completions=tokens,
            mask=taken.learnt,
            sampler_shift=np.zeros(tokens.shape, np.float32),
            model_log_probs=np.zeros(tokens.shape, np.float32),
            rewards=rewards,
            index=np.arange(len(index), dtype=np.int32),
            behaviour_log_probs=behaviour,
            reference_rewards=references,
        )
        return batch, float(prompts.lengths.sum() + taken.completions.lengths.sum())

    def learnt(self, count: int) -> Completions:
        """The first rows' completions up to the last token that is learnt, without those that were cut."""
        index = np.arange(min(count, len(self.rows)))
        taken = self._tokens.take(index, [self.rows[i] for i in index])
        whole = (taken.completions.lengths < self._max_completion_length).all(axis=-1)
        learnt, tokens = taken.learnt[whole], taken.completions.tokens[whole]
        lengths = ((np.arange(learnt.shape[-1]) + 1) * learnt).max(axis=-1, initial=0)
        nothing = np.zeros(tokens.shape, np.float32)
        return Completions(tokens, lengths, nothing, nothing)

    def rewards(self, prompts: Prompts, completions: Completions, *, strict: bool = False) -> Rewarded:
        """What the reward functions give to each completion [G, K].

        Args:
          prompts: of the batch.
          completions: of these prompts.
          strict: a function that fails raises its error; otherwise it costs this batch, whose rewards are NaN, and is
            said.
        """
        texts = self.texts(prompts, completions)
        rows = [row for row in prompts.rows for _ in range(completions.tokens.shape[1])]
        ended = self._ends.reached(completions)
        columns = _columns(rows) | {"ended": ended.reshape(-1).tolist()}
        result = self._compute(rows, texts, columns, strict)
        rewards = result.total.reshape(completions.lengths.shape)
        metrics = {
            **_moments(rewards),
            "reward_failed": float(bool(self.failure)),
            "completions/mean_length": float(completions.lengths.mean()),
            "completions/clipped_ratio": float(1.0 - ended.mean()),
        }
        metrics |= {f"rewards/{name}/mean": _mean(values) for name, values in result.by_name.items()}
        # Of classifiers: texts that lost tokens since the run began.
        for spec in self._rewards:
            if hasattr(spec.function, "num_truncated"):
                metrics[f"rewards/{spec.name}/num_truncated"] = float(spec.function.num_truncated)
        return Rewarded(rewards, bool(result.finite.all()), metrics)

    def _compute(self, rows: list[Row], texts: list[str], columns: dict[str, list[Any]], strict: bool) -> RewardResult:
        """The rewards of a batch; NaN, and why is in ``failure``, where a function failed."""
        self.failure = ""
        try:
            return compute_rewards(self._rewards, [row["prompt"] for row in rows], texts, columns)
        except RewardError as error:
            prompt = (
                "" if error.sample is None else f" Its prompt is {place_of(rows[error.sample], 'a generated one')}."
            )
            if strict:
                raise RewardError(f"{error}{prompt}", error.sample) from error
            self.failure = f"{error}{prompt}"
            _logger.warning("%s This batch has no rewards, and is skipped where it would be learnt.", self.failure)
            return RewardResult(np.full(len(texts), np.nan, np.float32), {}, np.zeros(len(texts), bool))

    def texts(self, prompts: Prompts, completions: Completions) -> list[str]:
        """What completions [G, K] say behind their prompts, groups before samples: see :func:`decode_completions`."""
        before = [
            (prompt_text(self._tokenizer, row["prompt"], template_options(row)), tokens[:length].tolist())
            for tokens, length, row in zip(*prompts, strict=True)
        ]
        _, num_samples, width = completions.tokens.shape
        tokens, lengths = completions.tokens.reshape(-1, width), completions.lengths.reshape(-1)
        written = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
        before = [prompt for prompt in before for _ in range(num_samples)]
        return decode_completions(self._tokenizer, before, written, self._ends.eos_ids)


def _given_rewards(row: Row, number: int) -> list[float]:
    """The rewards of a row's own completions."""
    return [1.0, 0.0] if number == 2 else [float(row.get("reward", 0.0))]


def _moments(rewards: np.ndarray) -> dict[str, float]:
    """Mean, deviation, and share of groups without one, of rewards [G, K]."""
    # Infinite ones have no deviation; that they are there is counted elsewhere.
    with np.errstate(invalid="ignore"):
        return {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "frac_reward_zero_std": float((rewards.std(axis=1) < 1e-6).mean()),
        }


def _mean(values: np.ndarray) -> float:
    """Over the samples that a function applied to; NaN where there are none."""
    applies = values[~np.isnan(values)]
    return float(applies.mean()) if applies.size else float("nan")


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Extra columns reach the reward functions by name."""
    names = sorted(set(rows[0]) - {"prompt", "completion"})
    return {name: [row.get(name) for row in rows] for name in names}
