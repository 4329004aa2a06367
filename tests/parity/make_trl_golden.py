"""Writes trl_golden.npz: losses and gradients of TRL 1.16's trainers on a tiny random Qwen2.

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.24.0
    trl/bin/python tests/parity/make_trl_golden.py

On a CPU; afterwards run make_trl_golden_ppo.py, for which another version of TRL is needed.  TRL's code is executed,
not derived again: a trainer is built by its constructor from its own config class, completes the batch (old and
reference log-probs, advantages) in its own ``_generate_and_score_completions`` and computes its own loss.  Replaced are
two things only: completions and rewards are given instead of sampled and computed, and the per-token log-probs that
the model returns are cast to float64, so that losses and their gradients with respect to log-probs are in float64
(advantages of GRPO come from rewards that TRL holds in float32).  The model's forward and backward pass is in float32.

Cases and TRL's settings (what is not named is TRL's default and without effect, as temperature 1):

* ``dpo``: DPOConfig(loss_type="sigmoid", beta=0.5).  TRL ignores label_smoothing here, so there is no cdpo.
* ``ipo``: loss_type="ipo", beta=0.1.
* ``rdpo``: loss_type="robust", beta=0.5, label_smoothing=0.1.
* ``exo``: loss_type="exo_pair", beta=0.5, label_smoothing=1e-3 (held in float32).
* ``nca``: loss_type="nca_pair", beta=0.5.
* ``grpo``: GRPOConfig(loss_type="grpo", scale_rewards="group", beta=0.04, epsilon=0.1, use_bias_correction_kl=False,
  num_iterations=2).
* ``grpo_corrected_kl``: ``grpo`` with TRL's default use_bias_correction_kl=True.
* ``dr_grpo``: ``grpo`` but loss_type="dr_grpo", scale_rewards="none", max_completion_length=10 (the longest has 8).
* ``dr_grpo_scaled``: ``dr_grpo`` with TRL's default scale_rewards="group".
* ``dapo``: ``grpo`` but loss_type="dapo" (TRL's default): the mean over all tokens of the batch.
* ``rloo``: RLOOConfig(beta=0.05, epsilon=0.1, normalize_advantages=False, num_iterations=2).
* ``a_star_po``: experimental A2POConfig(beta1=0.5, beta2=0.1); V* is LME over the K given samples, not over new ones
  of the reference, and all K are fitted where TRL samples one.

Deviations of TRL from TUPLE.md, or what it leaves open:

* DPO's losses are means over pairs.  IPO's per-token means leave each log-ratio divided by its own length.
* EXO and NCA are the K = 2 forms with hard labels, EXO (1 - eps, eps).  There is no InfoNCA in TRL (its K = 2 form with
  a hard label is dpo) and no form for K > 2.
* GRPO's penalty is k3 of the policy that is fitted, per token, in the same mean as the surrogate.  By default TRL 1.16
  multiplies it by the token's ratio, not clipped, and the gradient runs through it; TUPLE.md's penalty has no ratio.
  The standard deviation is Bessel's, in float32.  A flat group has advantage 0 and still pays the penalty.
* Dr. GRPO divides by rows x max_completion_length, the limit, not by the longest completion.
* RLOO: the k1 penalty is that of the old policy, a detached part of the reward: it moves the baseline too, and a group
  of equal rewards has a signal.  Ratio and clip are of the summed log-probs.
* There is no entropy term unless entropy_coef is set.
"""

import functools
import json
import tempfile

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.a2po import A2POConfig, A2POTrainer
from trl_golden_inputs import (
    CONFIG,
    PAD,
    PROMPT_LENGTHS,
    Recorder,
    best_and_worst,
    by_row,
    flat,
    gradients,
    make_groups,
    make_tokenizer,
    make_weights,
    padded,
    save,
)

PREFERENCE = {
    "dpo": {"loss_type": "sigmoid", "beta": 0.5},
    "ipo": {"loss_type": "ipo", "beta": 0.1},
    "rdpo": {"loss_type": "robust", "beta": 0.5, "label_smoothing": 0.1},
    "exo": {"loss_type": "exo_pair", "beta": 0.5, "label_smoothing": 1e-3},
    "nca": {"loss_type": "nca_pair", "beta": 0.5},
}
GRPO = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "beta": 0.04,
    "epsilon": 0.1,
    "use_bias_correction_kl": False,
    "num_iterations": 2,
}
ONLINE = {
    "grpo": (GRPOTrainer, GRPOConfig, GRPO),
    "grpo_corrected_kl": (GRPOTrainer, GRPOConfig, GRPO | {"use_bias_correction_kl": True}),
    "dr_grpo": (GRPOTrainer, GRPOConfig, GRPO | {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dr_grpo_scaled": (GRPOTrainer, GRPOConfig, GRPO | {"loss_type": "dr_grpo"}),
    "dapo": (GRPOTrainer, GRPOConfig, GRPO | {"loss_type": "dapo"}),
    "rloo": (
        RLOOTrainer,
        RLOOConfig,
        {"beta": 0.05, "epsilon": 0.1, "normalize_advantages": False, "num_iterations": 2},
    ),
}
MAX_COMPLETION_LENGTH = 10
A_STAR_PO = {"beta1": 0.5, "beta2": 0.1}
QUIET = {"bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False, "disable_tqdm": True}


def described(trainer, batch, settings):
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return {"batch": batch, "settings": json.dumps(settings), "metrics": json.dumps(metrics), "trl": trl.__version__}


def preference_case(settings, weights, pairs, shape, folder):
    """A loss of DPOTrainer on pairs; K = 2, the preferred one first."""
    config = DPOConfig(output_dir=folder, max_length=None, **QUIET, **settings)
    models = [transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32") for _ in range(2)]
    rows = Dataset.from_list([{"prompt": "t3", "chosen": " t4", "rejected": " t5"}])
    trainer = DPOTrainer(models[0], models[1], config, train_dataset=rows, processing_class=make_tokenizer())
    policy, ref = (Recorder(m, weights[name]) for m, name in ((trainer.model, "policy"), (trainer.ref_model, "ref")))
    trainer.model.train()
    examples = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, (chosen, rejected) in zip(*pairs[:2], strict=True)
    ]
    inputs = trainer.data_collator(examples)
    loss = trainer.compute_loss(trainer.model, inputs)
    by_token, by_params = gradients(loss, policy.kept, trainer.model)

    def placed(values):  # rows are all preferred ones, then all others
        rows = by_row(values, inputs["completion_mask"][:, 1:], (2, shape[0], shape[2]))
        return rows.transpose(1, 0, 2)

    return described(trainer, "pairs", settings) | {
        "loss": loss.item(),
        "log_probs": placed(policy.kept),
        "ref_log_probs": placed(ref.kept),
        "grad_log_probs": placed(by_token),
        "grad_params": by_params,
    }


def online_case(trainer_type, config_type, settings, weights, groups, shape, folder):
    """A loss of GRPOTrainer or RLOOTrainer on groups, in the second pass over what the old policy sampled."""
    settings = settings | {"max_completion_length": MAX_COMPLETION_LENGTH, "num_generations": shape[1]}
    rows = [(p, c, r) for p, cs, rs in zip(*groups, strict=True) for c, r in zip(cs, rs, strict=True)]
    config = config_type(
        output_dir=folder,
        per_device_train_batch_size=len(rows),
        model_init_kwargs={"dtype": "float32"},
        **QUIET,
        **settings,
    )
    data = Dataset.from_list([{"prompt": "t3", "row": i} for i in range(len(rows))])
    trainer = trainer_type(
        folder,
        lambda row, **_: [rows[i][2] for i in row],
        config,
        train_dataset=data,
        processing_class=make_tokenizer(),
    )
    policy, ref = Recorder(trainer.model, weights["old"]), Recorder(trainer.ref_model, weights["ref"])
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._tokenize_prompts = lambda prompts: ([row[0] for row in rows], None, {})
    completions = [row[1] for row in rows]
    # GRPO's also returns log-probs, which it takes from vLLM only.
    single_turn = (completions, None) if trainer_type is GRPOTrainer else completions
    trainer._generate_single_turn = lambda *args, **kwargs: single_turn
    inputs = trainer._generate_and_score_completions(list(data))
    old = policy.kept
    trainer.model.load_state_dict(weights["policy"], strict=False)
    loss = trainer.compute_loss(trainer.model, inputs)
    by_token, by_params = gradients(loss, policy.kept, trainer.model)
    metrics = trainer._metrics["train"]
    assert all(0 < metrics[f"clip_ratio/{side}_mean"][-1] < 0.5 for side in ("low", "high")), metrics
    mask = torch.cat([torch.zeros_like(inputs["prompt_mask"])[:, 1:], inputs["completion_mask"]], dim=1)
    placed = functools.partial(by_row, mask=mask, shape=shape)
    return described(trainer, "groups", settings) | {
        "loss": loss.item(),
        "advantages": inputs["advantages"].double().numpy().reshape(shape[:2]),
        "log_probs": placed(policy.kept),
        "old_log_probs": placed(old),
        "ref_log_probs": placed(ref.kept),
        "grad_log_probs": placed(by_token),
        "grad_params": by_params,
    }


def a_star_po_case(settings, weights, groups, shape, folder):
    """A2POTrainer's regression on all samples of the groups."""
    config = A2POConfig(output_dir=folder, **QUIET, **settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    data = Dataset.from_list([{"prompt": "t3"}])
    trainer = A2POTrainer(model, lambda **_: [0.0], config, train_dataset=data, processing_class=make_tokenizer())
    policy = Recorder(trainer.model, weights["policy"], "logits")
    ref = Recorder(trainer.ref_model, weights["ref"], "logits")
    trainer.model.train()
    arrays, width = padded(groups), max(PROMPT_LENGTHS)
    rows = [(p, c) for p, cs in zip(*groups[:2], strict=True) for c in cs]
    ids = [[PAD] * (width - len(p)) + p + c + [PAD] * (shape[2] - len(c)) for p, c in rows]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p + c) + [0] * (shape[2] - len(c)) for p, c in rows])
    rewards = torch.tensor(arrays["rewards"]).double()
    v_star = settings["beta1"] * (torch.logsumexp(rewards / settings["beta1"], dim=1) - np.log(shape[1]))
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": mask, "logits_to_keep": shape[2]}
    with torch.no_grad():
        ref_sums = trainer._get_sequence_logps(trainer.ref_model, **inputs)
    inputs |= {"ref_logps": ref_sums, "rewards": rewards.flatten(), "v_star": v_star.repeat_interleave(shape[1])}
    sums, sequence_sums = [], trainer._get_sequence_logps
    trainer._get_sequence_logps = lambda *args: sums.append(sequence_sums(*args)) or sums[-1]
    loss = trainer.compute_loss(trainer.model, inputs)
    # TRL has sums only; a sum's gradient is that of each of its tokens.
    by_sum, by_params = gradients(loss, sums[-1], trainer.model)
    tokens = torch.tensor(arrays["completions"]).long().reshape(len(rows), -1, 1)

    def chosen(logits):
        return logits[:, :-1].log_softmax(-1).gather(-1, tokens)[..., 0]

    placed = functools.partial(by_row, mask=mask[:, -shape[2] :], shape=shape)
    return described(trainer, "groups", settings) | {
        "loss": loss.item(),
        "values": v_star.numpy(),
        "log_probs": placed(chosen(policy.kept)),
        "ref_log_probs": placed(chosen(ref.kept)),
        "grad_log_probs": placed(by_sum[:, None].expand(-1, shape[2])),
        "grad_params": by_params,
    }


def main():
    weights, groups = make_weights(), make_groups()
    batches = {"groups": groups, "pairs": best_and_worst(groups)}
    shapes = {name: padded(batch)["completions"].shape for name, batch in batches.items()}
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**CONFIG))
        model.save_pretrained(folder)
        cases = {
            name: preference_case(settings, weights, batches["pairs"], shapes["pairs"], folder)
            for name, settings in PREFERENCE.items()
        }
        for name, choice in ONLINE.items():
            cases[name] = online_case(*choice, weights, groups, shapes["groups"], folder)
        cases["a_star_po"] = a_star_po_case(A_STAR_PO, weights, groups, shapes["groups"], folder)
    tensors = {name: list(value.shape) for name, value in weights["policy"].items()}
    content = {"config": json.dumps(CONFIG), "tensors": json.dumps(tensors)}
    content |= {f"weights/{name}": flat(tensors, values) for name, values in weights.items()}
    save(content, batches, cases)


if __name__ == "__main__":
    main()
