"""Held-out evaluation: greedy completions, judged by the run's own rewards."""

import json

import jax
import numpy as np

from gempi_jax.llm.generate import Completions, generate
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.compiled import Compiled
from gempi_jax.runners.data import Source
from gempi_jax.runners.phase import Resources
from gempi_jax.training.loop import Judged
from gempi_jax.training.state import TrainState


class GreedyEvaluation:
    """Greedy pass over all held-out prompts.

    Args:
      source: held-out rows.
      resources: of the run.
      max_completion_length: tokens.
      prefill_chunk: tokens of each prompt that are read at a time; ``None`` for all of them.
      batch_prompts: prompts generated for at a time.
      num_samples: how many completions are kept as text.
    """

    def __init__(
        self,
        source: Source,
        resources: Resources,
        *,
        max_completion_length: int,
        prefill_chunk: int | None,
        batch_prompts: int,
        num_samples: int,
    ):
        def greedy(frozen, params, prompts, lengths, key):
            return generate(
                resources.policy.on(frozen).model,
                params,
                prompts,
                lengths,
                key,
                num_samples=1,
                max_new_tokens=max_completion_length,
                temperature=0.0,
                eos_id=resources.ends.eos_ids,
                pad_id=resources.pad_id,
                stops=resources.ends.stops,
                prefill_chunk=prefill_chunk,
            )

        self._greedy, self._source, self._place = Compiled(greedy), source, resources.place
        self._frozen = resources.frozen
        self._batch, self._num_samples = batch_prompts, num_samples

    def __call__(self, state: TrainState) -> Judged:
        """The mean ``heldout/reward`` (an accuracy where rewards are 0 and 1), rewards by function, and lengths."""
        prompts = self._source.take(np.arange(len(self._source.rows)))
        completions = self._complete(state, prompts)
        # Before anything is trained a reward that fails loses no work.
        rewarded = self._source.rewards(prompts, completions, strict=int(state.step) == 0)
        metrics = {f"heldout/{name}": value for name, value in rewarded.metrics.items() if not name.endswith("std")}
        metrics["heldout/dropped_rows"] = float(self._source.num_dropped)
        metrics["heldout/truncated_rows"] = float(self._source.num_truncated)
        texts = self._source.texts(prompts, completions)
        samples = [
            {
                # A message may have entries that JSON lacks, dates for one.
                "prompt": json.loads(json.dumps(row["prompt"], default=str)),
                "completion": text,
                "reward": float(reward),
                **({"answer": str(row["answer"])} if row.get("answer") is not None else {}),
            }
            for row, text, reward in zip(prompts.rows, texts, rewarded.rewards[:, 0], strict=True)
        ]
        return Judged(metrics, samples[: self._num_samples])

    def _complete(self, state: TrainState, prompts) -> Completions:
        """All prompts in batches of one shape; the last is filled up with repetitions that are cut off again."""
        count = len(prompts.lengths)
        parts, key = [], named_key(state.key, "heldout")
        for start in range(0, count, self._batch):
            index = np.arange(start, start + self._batch) % count
            batch = self._place((prompts.tokens[index], prompts.lengths[index]))
            parts.append(jax.device_get(self._greedy(self._frozen, state.params["policy"], *batch, key)))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:count], *parts)
