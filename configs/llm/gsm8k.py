"""GSM8K from its own JSONL files, with the exact-match verifier, for models of any size.

Reference: Cobbe et al. 2021 for the data; LLM V-MPO, document section 10, for the method.
Command: python -m experiments.train --config=configs/llm/gsm8k.py --config.data.train_path=DIR/train.jsonl
  --config.data.heldout_path=DIR/test.jsonl --config.model.path=CHECKPOINT --workdir=runs/gsm8k
Without ``model.path`` a small decoder is trained from nothing: it shows the path, it does not learn to reason.
Not run to a result yet: lengths and batches are for an accelerator, on which a run takes hours.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from gempi_jax.methods import METHODS


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method of the second phase (default vmpo), and ``quick``."""
    method, quick = common.parse_arg(arg, method="vmpo")
    config = common.base()
    config.model.update(
        {
            "num_layers": 4,
            "hidden_size": 256,
            "num_heads": 8,
            "num_kv_heads": 8,
            "intermediate_size": 768,
            "max_positions": 512,
            "vocab_size": 4096,
        }
    )
    config.data.update({"task": "jsonl", "num_heldout": 128, "max_prompt_length": 192, "long_completions": "drop"})
    # Prompt and completion are one text, and tokenizers of all kinds begin anew behind a line break.
    config.data.prompt_template = "Question: {prompt}\nAnswer:\n"
    config.data = ConfigDict({**config.data, "train_path": placeholder(str), "heldout_path": placeholder(str)})
    # GSM8K's gold answers are the demonstrations of SFT, and what the verifier reads the number from.
    config.data.columns = ConfigDict({"question": "prompt", "answer": ("answer", "completion")})
    config.rewards = ConfigDict({"exact_match": 1.0})
    config.phases = ("sft", "rl")
    config.sft = _demonstrations("sft")
    if METHODS[method]().needs.rewards:
        config.rl = common.phase(
            method,
            num_iterations=200,
            max_completion_length=320,
            num_microbatches=4,
            # At which a chat model of 135 million parameters met its budgets on a task of its own (full fine-tuning).
            optimizer={"learning_rate": 2e-5, "warmup_steps": 15},
        )
    else:
        config.rl = _demonstrations(method)
    config.eval.batch_prompts = 64
    if quick:
        shrink(config)
    return config.lock()


def _demonstrations(method: str) -> ConfigDict:
    return common.phase(
        method,
        source="demonstrations",
        num_iterations=500,
        batch_prompts=32,
        num_generations=1,
        max_completion_length=320,
        updates_per_epoch=1,
        num_microbatches=4,
        baseline="zero",
        optimizer={"learning_rate": 1e-4, "schedule": "cosine", "warmup_steps": 20},
    )


def shrink(config: ConfigDict) -> None:
    """The same path in seconds."""
    config.model.update(
        {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64}
    )
    config.model.vocab_size = 512
    config.data.update({"num_demonstrations": 32, "num_train": 32, "num_heldout": 8, "max_prompt_length": 96})
    config.data.update({"long_prompts": "truncate", "long_completions": "truncate"})
    config.eval.update({"batch_prompts": 8, "num_samples": 4})
    config.checkpoint.every = 2
    for phase in (config.sft, config.rl):
        phase.optimizer.warmup_steps = 1
        phase.update({"num_iterations": 2, "batch_prompts": 8, "num_microbatches": 2})
    if config.rl.source == "rollout":
        config.rl.update(
            {
                "batch_prompts": 4,
                "num_generations": 2,
                "max_completion_length": 16,
                "updates_per_epoch": 2,
                "num_microbatches": 1,
            }
        )
