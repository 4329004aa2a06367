"""One stretch of a run with one method: its pieces, whose fields a phase's section has side by side."""

import dataclasses
import math
from typing import Any

from gempi_jax.runners.settings.checks import at_least_one, require
from gempi_jax.runners.settings.optimizer import DualSettings, OptimizerSettings


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How completions come about.

    Attributes:
      num_generations: K, samples per prompt.
      max_completion_length: tokens.
      length_buckets: how many widths a rollout is scored and trained at: max_completion_length, its half, its quarter
        and so on, rounded up; the least of them that holds a batch's longest completion.  What is cut is padding,
        which no weight or gradient sees.  Each is compiled when it is first met; 1 keeps all at the full width.
      temperature, top_k, top_p, min_p: of the sampler; top_k = 0, top_p = 1 and min_p = 0 truncate nothing.
      tempered: policy (softmax(logits / temperature) is what is sampled, scored and fitted, so that samples are pi_t's
        own) or sampler (the policy stays at 1, and weights are corrected for what really sampled).
      stop_sequences: strings that end a completion with the token that completes the first of them, wherever tokens
        fall; that token, and all that it spells, is part of the completion, and rewards read it.  A held-out
        completion ends at those of any phase.
      prefill_chunk: tokens of each prompt that are read at a time, in every pass of the policy; 0 reads them at once.
      shrink: divisors of a rollout's batch, (2, 4, 8, 16) say: as sequences end, the others go on in batches of that
        part of its size; for one device, where lengths vary widely, see :func:`gempi_jax.llm.compaction.run`.
      old_log_probs: scored (pi_t reads its completions once more), sampler (what it said while it wrote them), or auto:
        sampler in float32, where both are the same up to rounding and no critic or price of KL reads on, else scored.
    """

    num_generations: int = 8
    max_completion_length: int = 16
    length_buckets: int = 3
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    tempered: str = "policy"
    stop_sequences: tuple[str, ...] = ()
    prefill_chunk: int = 0
    shrink: tuple[int, ...] = ()
    old_log_probs: str = "auto"

    def __post_init__(self):
        at_least_one(self, "num_generations", "max_completion_length", "length_buckets")
        fix = "the policy must be sampled: above 0, finite"
        require(0 < self.temperature < math.inf, "temperature", self.temperature, fix)
        require(0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "must be at least 1, or 0 to keep the whole vocabulary")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "must be in (0, 1], or 0 to truncate nothing")
        require("" not in self.stop_sequences, "stop_sequences", self.stop_sequences, "'' ends everything; drop it")
        fix = "must be at least 1, or 0 for prompts at once"
        require(self.prefill_chunk >= 0, "prefill_chunk", self.prefill_chunk, fix)
        growing = all(small < large for small, large in zip((1, *self.shrink), self.shrink, strict=False))
        require(growing, "shrink", self.shrink, "give growing whole numbers above 1, such as (2, 4, 8, 16)")


@dataclasses.dataclass(frozen=True)
class AdvantageSettings:
    """How rewards become advantages, for methods that do not say it themselves.

    Attributes:
      baseline: group_mean, batch_mean, value (a critic of whole completions, V(x)), or zero.
      normalize_advantages: divides by the batch's standard deviation.
      value_learning_rate: of a critic's Adam; a network of its own wants the policy's.
    """

    baseline: str = "group_mean"
    normalize_advantages: bool = False
    value_learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """How the M-step goes over a batch.

    Attributes:
      m_step_fraction: share of the prompts, those with most weight, that the M-step sees.  1 is the whole batch, over
        which V-MPO averages D_M; less saves the work on prompts whose samples have no weight, and averages D_M over
        the others; ``mstep/kept_mass`` is their share of the weight.  A critic is fitted on all prompts in any case.
      updates_per_epoch: optimiser steps per pass over the batch.  num_epochs: passes.
      num_microbatches: parts of one optimiser step, for memory.
      trust_region_dropout: same_mask (pi_k and pi_theta drop the same units) or deterministic (D_M drops none).
      ratio_dropout: lets a method of ratios (PPO, GRPO) train with dropout, which makes its ratios noise: they divide a
        pass that drops by one that does not.
      old_period: T_target, iterations between refreshes of pi_t, which writes the rollouts.  old_ema_decay: 0 copies.
      optimizer, duals: see their classes.
    """

    m_step_fraction: float = 1.0
    updates_per_epoch: int = 4
    num_epochs: int = 1
    num_microbatches: int = 1
    trust_region_dropout: str = "same_mask"
    ratio_dropout: bool = False
    old_period: int = 1
    old_ema_decay: float = 0.0
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    duals: DualSettings = dataclasses.field(default_factory=DualSettings)

    def __post_init__(self):
        at_least_one(self, "updates_per_epoch", "num_epochs", "num_microbatches", "old_period")
        require(0 < self.m_step_fraction <= 1, "m_step_fraction", self.m_step_fraction, "must be in (0, 1]")
        require(0 <= self.old_ema_decay < 1, "old_ema_decay", self.old_ema_decay, "must be in [0, 1)")


@dataclasses.dataclass(frozen=True)
class PhaseSettings(SamplingSettings, AdvantageSettings, UpdateSettings):
    """One stretch of a run with one method.

    Attributes:
      method: a name of ``gempi_jax.methods.METHODS``, with ``method_args`` for its factory.
      source: rollout (the policy writes), demonstrations (prompt, completion), scored (prompt, completion, reward,
        and log_prob: log b(y) in nats of the policy that wrote it, its end token included, without which pi_t is the
        only anchor), or preferences (prompt, chosen, rejected: two completions, of reward 1 and 0).
      num_iterations: E-steps.
      eval_every: iterations between held-out evaluations; a phase's ends are always evaluated.
      batch_prompts: groups per E-step, over all devices.
    """

    method: str = "vmpo"
    method_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = "rollout"
    num_iterations: int = 100
    eval_every: int = 10
    batch_prompts: int = 64

    def __post_init__(self):
        SamplingSettings.__post_init__(self)
        UpdateSettings.__post_init__(self)
        at_least_one(self, "num_iterations", "batch_prompts", "eval_every")
        parts = self.updates_per_epoch * self.num_microbatches
        require(
            self.update_prompts > 0 and self.update_prompts % parts == 0,
            "batch_prompts",
            self.batch_prompts,
            f"m_step_fraction of it must be a multiple of updates_per_epoch * num_microbatches = {parts}",
        )
        require(
            self.old_log_probs != "sampler" or (self.source == "rollout" and self.baseline != "value"),
            "old_log_probs",
            self.old_log_probs,
            f"only a rollout without a critic does without 'scored'; source is {self.source!r}, "
            f"baseline {self.baseline!r}",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Of completions in a batch, the widest first."""
        return tuple(-(-self.max_completion_length // 2**i) for i in range(self.length_buckets))

    @property
    def update_prompts(self) -> int:
        """Prompts that the M-step sees."""
        return round(self.m_step_fraction * self.batch_prompts)

    @property
    def samples_per_prompt(self) -> int:
        """K: a dataset has one completion of each prompt, or a pair."""
        return {"rollout": self.num_generations, "preferences": 2}.get(self.source, 1)
