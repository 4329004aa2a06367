"""What TRL computes on a tiny Qwen2, read from trl_golden.npz.

make_trl_golden.py and make_trl_golden_ppo.py wrote the file; their docstrings say which of TRL's settings each case is,
and where TRL differs from our formulas.

    golden = trl_golden.read()
    case = golden.cases["grpo"]
    batch = golden.batches[case.batch]
    model, params, *_ = trl_golden.load(golden.weights["policy"], tmp_path)
"""

import functools
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from gempi_jax.llm import load_pretrained
from gempi_jax.llm.hf.pretrained import Pretrained

FILE = pathlib.Path(__file__).with_name("trl_golden.npz")
Tensors = dict[str, np.ndarray]


class Batch(NamedTuple):
    """G prompts with K completions each, right-padded with 0.

    Attributes:
      prompts: [G, P], token ids.
      prompt_lengths: [G].
      completions: [G, K, C]; of pairs K = 2, the preferred one first.
      completion_lengths: [G, K]; a completion shorter than C ends with EOS (2), except in batch "full".
      rewards: [G, K]; the last group of batch "groups" is flat, and absent from "pairs".
    """

    prompts: np.ndarray
    prompt_lengths: np.ndarray
    completions: np.ndarray
    completion_lengths: np.ndarray
    rewards: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """[G, K, C], True at real tokens."""
        return np.arange(self.completions.shape[-1]) < self.completion_lengths[..., None]


class Case(NamedTuple):
    """One loss of TRL.  Arrays are float64 and 0 where nothing is; what a case does not use is None.

    Attributes:
      batch: the name of its batch.
      settings: what was given to TRL's config class.
      metrics: what TRL logged, by its names; empty for PPO.
      trl: TRL's version.
      loss: the scalar that TRL differentiates.
      log_probs: [G, K, C], of the policy that is fitted, nats per token; temperature 1 (PPO's: 1 + 1e-7).
      grad_log_probs: [G, K, C], d loss / d log_probs.
      grad_params: d loss / d parameters, by Hugging Face's names; float32.
      old_log_probs: [G, K, C], of the policy that sampled.
      ref_log_probs: [G, K, C], of the reference.
      advantages: [G, K], of PPO [G, K, C] and whitened.
      values: [G, K, C], V before each token, as it is fitted, and after the last one where there is room (see
        ``value_mask``): there TRL's PPO pays the reward.  Of a_star_po [G], V*.
      old_values: [G, K, C], when the completions were sampled.
      value_mask: [G, K, C], True where a value counts.
      token_rewards: [G, K, C], less the KL's penalty.
      returns: [G, K, C], the values' targets.
      grad_values: [G, K, C], d loss / d values.
      policy_loss: the surrogate's part of PPO's loss.
      value_loss: the values' part before its coefficient.
    """

    batch: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    trl: str
    loss: float
    log_probs: np.ndarray
    grad_log_probs: np.ndarray
    grad_params: Tensors
    old_log_probs: np.ndarray | None = None
    ref_log_probs: np.ndarray | None = None
    advantages: np.ndarray | None = None
    values: np.ndarray | None = None
    old_values: np.ndarray | None = None
    value_mask: np.ndarray | None = None
    token_rewards: np.ndarray | None = None
    returns: np.ndarray | None = None
    grad_values: np.ndarray | None = None
    policy_loss: float | None = None
    value_loss: float | None = None


class Golden(NamedTuple):
    """All of the file.

    Attributes:
      config: the model's config.json.
      weights: of "policy", "old" and "ref", by Hugging Face's names.
      batches: "groups", "pairs" (best and worst of each group that is not flat) and "full" (equally long completions).
      cases: by name.
    """

    config: dict[str, Any]
    weights: dict[str, Tensors]
    batches: dict[str, Batch]
    cases: dict[str, Case]


@functools.cache
def read() -> Golden:
    """The golden file, read once."""
    with np.load(FILE) as stored:
        content = _nested({name: stored[name] for name in stored.files})
    shapes = json.loads(str(content["tensors"]))
    weights = {name: _tensors(vector, shapes) for name, vector in content["weights"].items()}
    batches = {name: Batch(**fields) for name, fields in content["batches"].items()}
    cases = {name: _case(fields, shapes) for name, fields in content["cases"].items()}
    return Golden(json.loads(str(content["config"])), weights, batches, cases)


def load(tensors: Tensors, folder: pathlib.Path) -> Pretrained:
    """The tiny Qwen2 with these tensors, through a checkpoint folder that is written here.

    With a case's ``grad_params`` for tensors, the parameters that come back are its gradient in our layout.

    Args:
      tensors: by Hugging Face's names.
      folder: an empty one, such as ``tmp_path``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(read().config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return load_pretrained(folder)


def _case(fields: dict[str, Any], shapes: dict[str, list[int]]) -> Case:
    plain = {name: str(fields[name]) for name in ("batch", "trl")}
    parsed = {name: json.loads(str(fields[name])) for name in ("settings", "metrics")}
    scalars = {name: float(fields[name]) for name in ("loss", "policy_loss", "value_loss") if name in fields}
    gradient = {"grad_params": _tensors(fields["grad_params"], shapes)}
    return Case(**(fields | plain | parsed | scalars | gradient))


def _tensors(vector: np.ndarray, shapes: dict[str, list[int]]) -> Tensors:
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _nested(content: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in content.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
