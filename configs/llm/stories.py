"""A pretrained story model learns to end its stories happily, within a length budget, near its reference.

Reference: AT-DAR, document section 10 ("Novel Instantiations"): anchors pi_ref and pi_t, a KL budget each, solved.
Command: python -m experiments.train --config=configs/llm/stories.py --config.model.path=DIR --workdir=runs/stories
Expected: held-out reward of greedy stories from 0.25 to 0.90, with KL(q || pi_ref) at its budget of 12 nats a story.
Cost: about 5 minutes on one busy CPU core.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: a method (default at_dar), and ``quick``."""
    method, quick = common.parse_arg(arg, method="at_dar")
    config = common.base()
    # A Hugging Face folder of a story model; required.
    config.model = ConfigDict({**config.model, "path": placeholder(str)})
    config.model.dtype = "float32"
    # This family of models starts the next story where it ends one.
    config.model.end_tokens = ("<s>",)
    config.data.update({"task": "stories", "num_train": 420, "num_heldout": 96, "max_prompt_length": 64})
    config.rewards = ConfigDict({"happy_ending": 0.5, "finished": 0.3, "no_repetition": 0.2})
    config.phases = ("rl",)
    config.rl = common.phase(
        method,
        num_iterations=40,
        batch_prompts=32,
        max_completion_length=80,
        optimizer={"name": "adam", "learning_rate": 5e-4, "b2": 0.95, "schedule": "cosine", "warmup_steps": 8},
    )
    if method == "at_dar":
        # Nats a story: the reference is kept within 0.15 a token, pi_t within what 32 x 8 samples can say.
        config.rl.method_args.update({"epsilon_ref": 12.0, "epsilon_old": 0.5})
    config.eval.batch_prompts = 96
    if quick:
        config.data.update({"num_train": 16, "num_heldout": 8})
        config.eval.update({"batch_prompts": 8, "num_samples": 4})
        config.checkpoint.every = 2
        config.rl.optimizer.warmup_steps = 1
        config.rl.update(
            {
                "num_iterations": 2,
                "batch_prompts": 4,
                "num_generations": 2,
                "max_completion_length": 8,
                "updates_per_epoch": 2,
            }
        )
    return config.lock()
