"""What a run of a language model is, as typed values: every field of a config is a field here, with its unit.

``runners.build`` turns a config into these and checks types and names on the way; nothing below it sees a config.
"""

import dataclasses
import math
import string
from typing import Any


def _require(condition: bool, place: str, value, fix: str) -> None:
    if not condition:
        raise ValueError(f"{place} = {value!r}: {fix}")


@dataclasses.dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters, which train instead of the policy's own parameters.

    Attributes:
      path: a PEFT folder to go on from, with a rank, an alpha and targets of its own; empty starts afresh.
      rank: 0 for no adapters: everything trains.
      alpha: the adapters' product counts alpha / rank.
      dropout: rate on the adapters' input, in the M-step's likelihood only.
      targets: the adapted projections, of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
    """

    path: str = ""
    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        _require(self.rank >= 0, "rank", self.rank, "must be at least 1, or 0 for no adapters")
        _require(not (self.path and self.rank), "rank", self.rank, f"leave it 0: {self.path} says its rank itself")

    @property
    def used(self) -> bool:
        """Whether adapters train, and nothing else."""
        return bool(self.path or self.rank)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The policy: a checkpoint folder, or a decoder made here with a tokenizer trained on the spot.

    Attributes:
      path: a Hugging Face folder; empty makes a new model from the fields below.
      loader: decoder (ours, for the families that it covers) or flax (transformers' own Flax class, for any other).
      num_layers, hidden_size, num_heads, num_kv_heads, intermediate_size: of a new model.
      max_positions: longest sequence of a new model, tokens.
      vocab_size: of the tokenizer trained on the spot.
      dropout: rate on embeddings and residual branches, in the M-step's likelihood only.
      dtype: of activations: float32, bfloat16, or auto (bfloat16 on accelerators).
      end_tokens: tokens that end a completion, beside the tokenizer's own, those that the checkpoint names, and for
        conversations the one with which the chat template ends a turn.  The export lists them all.
      lora: adapters, see its class.
    """

    path: str = ""
    loader: str = "decoder"
    num_layers: int = 2
    hidden_size: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    intermediate_size: int = 384
    max_positions: int = 64
    vocab_size: int = 512
    dropout: float = 0.0
    dtype: str = "auto"
    end_tokens: tuple[str, ...] = ()
    lora: LoRASettings = LoRASettings()

    def __post_init__(self):
        _require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "a rate is in [0, 1)")
        for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "max_positions"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")
        # A checkpoint brings its own sizes.
        if not self.path:
            for name, parts in (("hidden_size", "num_heads"), ("num_heads", "num_kv_heads")):
                fix = f"must be a multiple of {parts} = {getattr(self, parts)}"
                _require(getattr(self, name) % getattr(self, parts) == 0, name, getattr(self, name), fix)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where rows come from.

    Attributes:
      task: arithmetic (generated), stories (generated openings), jsonl (files with TRL's columns,
        of any format that is read).
      train_path, heldout_path: for task jsonl: a .jsonl, .json or .parquet file, a folder of such files, or one that
        ``datasets`` saved.
      stream: rows are read and encoded when a batch asks for them, for files larger than memory.
      columns: names in the file -> names here, e.g. {"question": "prompt"}; a tuple gives a column several names.
      num_demonstrations, num_train, num_heldout: rows; 0 takes all of a file.
      split: which generated problems judge the run: ``tuning`` or ``heldout``.
      max_prompt_length: tokens.
      long_prompts: what happens to longer ones: drop, truncate (keeps the end; both are counted), error.
      long_completions: the same for completions that are learnt.
      prompt_template: text around a prompt, with ``{prompt}`` in it.
      chat_template: of role lists: the name of one of the tokenizer's templates, or the path of a Jinja file; empty
        takes the tokenizer's own, of several its default.
    """

    task: str = "arithmetic"
    train_path: str = ""
    heldout_path: str = ""
    stream: bool = False
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_demonstrations: int = 0
    num_train: int = 0
    num_heldout: int = 0
    split: str = "heldout"
    max_prompt_length: int = 32
    long_prompts: str = "drop"
    long_completions: str = "error"
    prompt_template: str = "{prompt}"
    chat_template: str = ""

    def __post_init__(self):
        _require(
            _template_fields(self.prompt_template) == {"prompt"},
            "prompt_template",
            self.prompt_template,
            "needs {prompt} in it and no other field; a brace of the text itself is written twice, {{ or }}",
        )
        for name in ("num_demonstrations", "num_train", "num_heldout"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 1, or 0 for all of a file")
        for name, new in self.columns.items():
            names = (new,) if isinstance(new, str) else new
            several = isinstance(names, tuple | list) and names and all(isinstance(item, str) for item in names)
            _require(several, f"columns[{name!r}]", new, "must be a name such as 'prompt', or a tuple of names")
        _require(self.split in ("tuning", "heldout"), "split", self.split, "must be 'tuning' or 'heldout'")
        _require(self.max_prompt_length > 0, "max_prompt_length", self.max_prompt_length, "must be at least 1")


def _template_fields(template: str) -> set[str] | None:
    """Names of the plain fields of a format string; ``None`` where it is no such string."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    plain = all(not form and not conversion for _, name, form, conversion in parts if name is not None)
    return {name for _, name, _, _ in parts if name is not None} if plain else None


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The parameters' optimiser.

    Attributes:
      name: adamw, adam, sgd (``b1`` is its momentum) or adafactor.
      learning_rate: the peak.
      schedule: constant, linear or cosine after the warm-up, down to ``final_fraction`` of the peak.
      warmup_steps: optimiser steps.
      weight_decay: of adamw, times the learning rate.
      b1, b2: decay of the moments.
      max_grad_norm: the gradient is clipped to this global norm; 0 does not clip.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    max_grad_norm: float = 1.0

    def __post_init__(self):
        _require(
            self.weight_decay == 0 or self.name == "adamw",
            "weight_decay",
            self.weight_decay,
            f"adamw alone decays weights, and name is {self.name!r}; set it to 0, or name to 'adamw'",
        )


@dataclasses.dataclass(frozen=True)
class DualSettings:
    """Optimisers of the duals, which step on 1 - D / eps, the gradient relative to the budget.

    Attributes:
      optimizer: exponentiated (steps on the logarithm, which know no unit), adam or sgd.
      num_temperature_steps: of a dual-adaptive temperature, per E-step.
      temperature_learning_rate, multiplier_learning_rate: their rates.
    """

    optimizer: str = "exponentiated"
    num_temperature_steps: int = 1
    temperature_learning_rate: float = 0.1
    multiplier_learning_rate: float = 0.3

    def __post_init__(self):
        steps = self.num_temperature_steps
        _require(steps >= 0, "num_temperature_steps", steps, "must be at least 1, or 0 to keep the temperature")


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """One stretch of a run with one method.

    Attributes:
      method: a name of ``gempi_jax.methods.METHODS``, with ``method_args`` for its factory.
      source: rollout (the policy writes), demonstrations (prompt, completion), or scored (prompt, completion, reward,
        and log_prob: log b(y) in nats of the policy that wrote it, its end token included, without which pi_t is the
        only anchor).
      num_iterations: E-steps.
      eval_every: iterations between held-out evaluations; a phase's ends are always evaluated.
      batch_prompts: groups per E-step, over all devices.
      num_generations: K, samples per prompt.
      max_completion_length: tokens.
      temperature, top_k, top_p, min_p: of the sampler; top_k = 0, top_p = 1 and min_p = 0 truncate nothing.
      tempered: policy (softmax(logits / temperature) is what is sampled, scored and fitted, so that samples are pi_t's
        own) or sampler (the policy stays at 1, and weights are corrected for what really sampled).
      stop_sequences: strings that end a completion with the token that completes the first of them, wherever tokens
        fall; that token, and all that it spells, is part of the completion, and rewards read it.  A held-out
        completion ends at those of any phase.
      prefill_chunk: tokens of each prompt that are read at a time, in every pass of the policy; 0 reads them at once.
      shrink: divisors of a rollout's batch, (2, 4, 8, 16) say: as sequences end, the others go on in batches of that
        part of its size; for one device, where lengths vary widely, see :func:`gempi_jax.llm.compaction.run`.
      old_log_probs: scored (pi_t reads its completions once more) or sampler (what it said while it wrote them).
      baseline: group_mean, batch_mean, value (a learned V(x)), or zero.
      normalize_advantages: divides by the batch's standard deviation (DAR).
      m_step_fraction: share of the prompts, those with most weight, that the M-step sees.  1 is the whole batch, over
        which V-MPO averages D_M; less saves the work on prompts whose samples have no weight, and averages D_M over
        the others; ``mstep/kept_mass`` is their share of the weight.  V(x) is fitted on all prompts in any case.
      num_updates: optimiser steps per pass over the batch.  num_epochs: passes.
      num_microbatches: parts of one optimiser step, for memory.
      trust_region_dropout: same_mask (pi_k and pi_theta drop the same units) or deterministic (D_M drops none).
      value_learning_rate: of the learned baseline's Adam.
      old_period: T_target, iterations between refreshes of pi_t, which writes the rollouts.  old_ema_decay: 0 copies.
    """

    method: str = "vmpo"
    method_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = "rollout"
    num_iterations: int = 100
    eval_every: int = 10
    batch_prompts: int = 64
    num_generations: int = 8
    max_completion_length: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    tempered: str = "policy"
    stop_sequences: tuple[str, ...] = ()
    prefill_chunk: int = 0
    shrink: tuple[int, ...] = ()
    old_log_probs: str = "scored"
    baseline: str = "group_mean"
    normalize_advantages: bool = False
    m_step_fraction: float = 1.0
    num_updates: int = 4
    num_epochs: int = 1
    num_microbatches: int = 1
    trust_region_dropout: str = "same_mask"
    value_learning_rate: float = 1e-3
    old_period: int = 1
    old_ema_decay: float = 0.0
    optimizer: OptimizerSettings = OptimizerSettings()
    duals: DualSettings = DualSettings()

    def __post_init__(self):
        for name in (
            "num_iterations", "batch_prompts", "num_generations", "max_completion_length", "num_updates", "num_epochs",
            "num_microbatches", "old_period", "eval_every",
        ):  # fmt: skip
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")
        _require(0 < self.m_step_fraction <= 1, "m_step_fraction", self.m_step_fraction, "must be in (0, 1]")
        parts = self.num_updates * self.num_microbatches
        _require(
            self.update_prompts > 0 and self.update_prompts % parts == 0,
            "batch_prompts",
            self.batch_prompts,
            f"m_step_fraction of it must be a multiple of num_updates * num_microbatches = {parts}",
        )
        _require(
            0 < self.temperature < math.inf,
            "temperature",
            self.temperature,
            "the policy must be sampled: above 0, finite",
        )
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1]")
        _require(self.top_k >= 0, "top_k", self.top_k, "must be at least 1, or 0 to keep the whole vocabulary")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "must be in (0, 1], or 0 to truncate nothing")
        _require("" not in self.stop_sequences, "stop_sequences", self.stop_sequences, "'' ends everything; drop it")
        _require(
            self.prefill_chunk >= 0, "prefill_chunk", self.prefill_chunk, "must be at least 1, or 0 for prompts at once"
        )
        _require(
            self.old_log_probs == "scored" or (self.source == "rollout" and self.baseline != "value"),
            "old_log_probs",
            self.old_log_probs,
            f"only a rollout without a learned baseline does without 'scored'; source is {self.source!r}, "
            f"baseline {self.baseline!r}",
        )
        _require(
            all(small < large for small, large in zip((1, *self.shrink), self.shrink, strict=False)),
            "shrink",
            self.shrink,
            "give growing whole numbers above 1, such as (2, 4, 8, 16)",
        )
        _require(0 <= self.old_ema_decay < 1, "old_ema_decay", self.old_ema_decay, "must be in [0, 1)")

    @property
    def update_prompts(self) -> int:
        """Prompts that the M-step sees."""
        return round(self.m_step_fraction * self.batch_prompts)

    @property
    def samples_per_prompt(self) -> int:
        """K: a dataset has one completion of each prompt."""
        return self.num_generations if self.source == "rollout" else 1


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Greedy held-out evaluation: prompts at a time, and how many completions are kept as text."""

    batch_prompts: int = 128
    num_samples: int = 16

    def __post_init__(self):
        _require(self.batch_prompts > 0, "batch_prompts", self.batch_prompts, "must be at least 1")
        _require(self.num_samples >= 0, "num_samples", self.num_samples, "must be at least 1, or 0 to keep none")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """A checkpoint every so many iterations, of which the latest ``keep`` stay."""

    every: int = 10
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; their product is the number of devices used."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A whole run: what is trained, on what, judged by what, in which phases.

    Attributes:
      model, data, eval, checkpoint, mesh: see their classes.
      rewards: name -> weight; a name of ``runners.tasks.REWARDS``, ``package.module:function``, ``file.py:function``,
        or ``classifier:DIR?label=NAME``, see ``runners.tasks``.
      reward_functions: more of them, ``NAME`` or ``WEIGHT*NAME``: keys of a config hold no dots, as names of files do.
      phases: by name, in order.
      seed: of everything random.
      max_skips_in_a_row: the run ends with an error after so many iterations in a row that could make no update,
        since a loss, a reward or a gradient was not finite.
      preemption_grace_seconds: from a signal until the run is saved from outside the main thread.
      keep_boundary: one more copy of the state on the devices, so that a signal is answered at any moment; without it
        one that comes once the M-step has begun is answered after the iteration.
    """

    model: ModelSettings
    data: DataSettings
    rewards: dict[str, float]
    phases: dict[str, PhaseSettings]
    eval: EvalSettings = EvalSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    mesh: MeshSettings = MeshSettings()
    reward_functions: tuple[str, ...] = ()
    seed: int = 0
    max_skips_in_a_row: int = 5
    preemption_grace_seconds: float = 1.0
    keep_boundary: bool = True

    def __post_init__(self):
        # Larger ones lose their upper bits, and two runs would be one.
        _require(-(2**31) <= self.seed < 2**31, "seed", self.seed, "must be in [-2**31, 2**31)")
        _require(self.max_skips_in_a_row > 0, "max_skips_in_a_row", self.max_skips_in_a_row, "must be at least 1")
        grace = self.preemption_grace_seconds
        _require(0 <= grace < math.inf, "preemption_grace_seconds", grace, "must be a number of at least 0")
