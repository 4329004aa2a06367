"""What every config shares: one ``arg`` string, read strictly, and the ``quick`` scale."""

from ml_collections import ConfigDict

METHODS = {
    "sft": {"reduction": "sum"},
    # divergence: kl, reverse_kl, chi_squared, jensen_shannon, squared_hellinger, or alpha_ORDER such as alpha_0.5.
    "awr": {"beta": 0.2, "divergence": "kl", "weight_clip": 20.0, "reduction": "sum"},
    "vmpo": {
        # Budgets of the E-step, nats per sample, and of the M-step, nats per token.
        "epsilon_eta": 0.3,
        "epsilon_alpha": 0.004,
        "initial_multiplier": 20.0,
        "top_k_fraction": 0.25,
        # advantage or log_weight.
        "score": "advantage",
        # Of the E-step, which epsilon_eta bounds.
        "divergence": "kl",
        # dual (gradient steps), dual_5.0 (which start there and not at 1), or solved.
        "temperature": "solved",
        # D_M of the M-step: forward_kl, reverse_kl, jensen_shannon or chi_squared, exact over the vocabulary; k1, k2 or
        # k3, on the sampled tokens.
        "trust_region": "forward_kl",
        # batch or group.
        "scope": "batch",
        # Over an example's tokens: sum or mean.
        "reduction": "sum",
    },
    "dar": {
        "alpha": 0.02,
        "beta": 0.18,
        # One for each anchor: D(q || pi_ref) and D(q || pi_t).
        "divergence_ref": "kl",
        "divergence_old": "kl",
        "weight_clip": 20.0,
        "scope": "none",
        "reduction": "sum",
    },
    "rl_em": {"beta": 0.2, "divergence": "kl", "scope": "group", "reduction": "sum"},
    "at_dar": {
        "epsilon_ref": 4.0,
        "epsilon_old": 0.3,
        "divergence_ref": "kl",
        "divergence_old": "kl",
        "temperature": "solved",
        "scope": "batch",
        "reduction": "sum",
    },
    "dar_tr": {
        "alpha": 0.02,
        "beta": 0.18,
        "epsilon_alpha": 0.004,
        "trust_region": "forward_kl",
        "initial_multiplier": 20.0,
        "divergence_ref": "kl",
        "divergence_old": "kl",
        "weight_clip": 20.0,
        "reduction": "sum",
    },
    "top_k_dar": {
        "alpha": 0.02,
        "beta": 0.18,
        "top_k_fraction": 0.25,
        "score": "advantage",
        "divergence_ref": "kl",
        "divergence_old": "kl",
        "scope": "batch",
        "reduction": "sum",
    },
}
"""Methods that a config's arg can name, with their settings; any is overridden by --config.rl.method_args.NAME."""


def parse_arg(arg: str | None, *, method: str) -> tuple[str, bool]:
    """Reads ``"METHOD"``, ``"METHOD,quick"`` or ``"quick"``.

    Returns:
      The method's name, and whether the run is to take seconds.

    Raises:
      ValueError: for anything else, with what is valid.
    """
    parts = [part.strip() for part in (arg or "").split(",") if part.strip()]
    quick = "quick" in parts
    names = [part for part in parts if part != "quick"]
    unknown = [name for name in names if name not in METHODS]
    if unknown or len(names) > 1:
        raise ValueError(
            f"config arg {arg!r}: expected one method of {', '.join(METHODS)}, and optionally 'quick', "
            "e.g. arithmetic.py:vmpo,quick"
        )
    return (names[0] if names else method), quick


def base() -> ConfigDict:
    """A run with every setting at its default; a config changes what it means to change."""
    return ConfigDict(
        {
            # Of everything random.
            "seed": 0,
            "model": {
                # A Hugging Face folder; empty makes a decoder of the sizes below and trains a tokenizer on the spot.
                "path": "",
                # decoder (ours, for the families that it covers) or flax (transformers' own Flax class, 4.57).
                "loader": "decoder",
                "num_layers": 2,
                "hidden_size": 128,
                "num_heads": 4,
                "num_kv_heads": 4,
                "intermediate_size": 384,
                # The longest sequence, tokens.
                "max_positions": 64,
                "vocab_size": 512,
                # On embeddings and residual branches, in the M-step's likelihood only.
                "dropout": 0.0,
                # Of activations: float32, bfloat16, or auto (bfloat16 on accelerators).
                "dtype": "auto",
                # Tokens, beside the tokenizer's own, that end a completion.
                "end_tokens": (),
                # Adapters of this rank train instead of the parameters, counting alpha / rank; 0 for none. targets: of
                # q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. path: a PEFT folder to go on from.
                "lora": {"path": "", "rank": 0, "alpha": 16.0, "dropout": 0.0, "targets": ("q_proj", "v_proj")},
            },
            "data": {
                # arithmetic, stories, or jsonl (files with TRL's columns).
                "task": "arithmetic",
                "train_path": "",
                "heldout_path": "",
                # Reads rows when a batch asks for them, for files larger than memory: the same batches, more slowly.
                "stream": False,
                # Names in the file -> names here.
                "columns": ConfigDict(),
                # Rows; 0 takes all of a file.
                "num_demonstrations": 0,
                "num_train": 0,
                "num_heldout": 0,
                # Generated problems that judge the run: "tuning" to choose settings, "heldout" for final figures.
                "split": "heldout",
                # Tokens.
                "max_prompt_length": 32,
                # What happens to longer rows: drop or truncate (both are counted), or error.
                "long_prompts": "drop",
                "long_completions": "error",
                "prompt_template": "{prompt}",
                "chat_template": "",
            },
            # name -> weight; a name, "package.module:function", "file.py:function", or a classifier that transformers'
            # Flax classes open: "classifier:DIR?label=NAME&score=logit&text=both" (score: logit, log_prob, prob; text:
            # both, completion).
            "rewards": ConfigDict(),
            # More of them, as "NAME" or "WEIGHT*NAME", such as "own.py:reward": keys of a config hold no dots.
            "reward_functions": (),
            # Names of the sections that are run, in order.
            "phases": (),
            # Devices along each axis.
            "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
            # Greedy completions of all held-out prompts: so many at a time; num_samples are kept as text.
            "eval": {"batch_prompts": 128, "num_samples": 16},
            # Every so many iterations; the latest "keep" stay.
            "checkpoint": {"every": 10, "keep": 2},
            # The run stops after so many iterations in a row whose losses, gradients or rewards are not finite.
            "max_skips_in_a_row": 5,
            # From SIGTERM until the run is saved from outside the main thread.
            "preemption_grace_seconds": 1.0,
            # One more copy of the state, so that SIGTERM is answered at any moment, the M-step included.
            "keep_boundary": True,
        }
    )


def phase(method: str, **changes) -> ConfigDict:
    """A phase with every setting at its default but ``changes``; a dictionary changes a section in part."""
    config = ConfigDict(
        {
            "method": method,
            "method_args": dict(METHODS[method]),
            # rollout (the policy writes), demonstrations (prompt, completion) or scored (and reward, log_prob).
            "source": "rollout",
            # E-steps, the prompts of each over all devices, and samples of each prompt.
            "num_iterations": 100,
            # Iterations between held-out evaluations; a phase's ends are always evaluated.
            "eval_every": 10,
            "batch_prompts": 64,
            "num_generations": 8,
            # Tokens.
            "max_completion_length": 16,
            # Of the sampler; top_k = 0, top_p = 1 and min_p = 0 truncate nothing.
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            # At a temperature other than 1: policy (it is the policy's own: sampled, scored and fitted with it) or
            # sampler (the policy stays at 1, and weights are corrected for what sampled).
            "tempered": "policy",
            # Strings that end a completion as its end token does, such as "\n\n".
            "stop_sequences": (),
            # Tokens of each prompt that are read at a time, for memory; 0 reads prompts at once.
            "prefill_chunk": 0,
            # As sequences end, the others of a rollout go on in batches of 1 / 2, 1 / 4, ... of the size: (2, 4, 8, 16)
            # is faster where lengths vary and completions are long, and compiles longer.  For one device.
            "shrink": (),
            # Where log pi_t of a completion comes from: scored (a pass of its own) or sampler (as it was sampled: no
            # such pass; the same numbers in float32, other rounding in bfloat16).
            "old_log_probs": "scored",
            # group_mean, batch_mean, value (a learned V(x)) or zero.
            "baseline": "group_mean",
            "normalize_advantages": False,
            # Share of the prompts, those with most weight, that the M-step sees.
            "m_step_fraction": 1.0,
            # Optimiser steps per pass over the batch, passes, and parts of one step (for memory).
            "num_updates": 4,
            "num_epochs": 1,
            "num_microbatches": 1,
            # same_mask (pi_t drops what pi_theta drops) or deterministic (D_M drops nothing).
            "trust_region_dropout": "same_mask",
            "value_learning_rate": 1e-3,
            # T_target, iterations between refreshes of pi_t; a decay above 0 averages instead of copying.
            "old_period": 1,
            "old_ema_decay": 0.0,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-4,
                # constant, linear or cosine, down to final_fraction of the rate.
                "schedule": "constant",
                "warmup_steps": 0,
                "final_fraction": 0.0,
                "weight_decay": 0.0,
                "b1": 0.9,
                "b2": 0.999,
                # Global norm; 0 does not clip.
                "max_grad_norm": 1.0,
            },
            "duals": {
                # exponentiated (steps on logarithms, relative to the budget), adam or sgd.
                "optimizer": "exponentiated",
                # Steps on the temperature's dual in each E-step.
                "num_temperature_steps": 1,
                "temperature_learning_rate": 0.1,
                "multiplier_learning_rate": 0.3,
            },
        }
    )
    config.update(changes)
    return config
