"""Adds PPO to trl_golden.npz, from TRL 1.12: the last version with a PPOTrainer (TRL 1.13 and later have none).

    python -m venv trl112 && trl112/bin/pip install torch==2.13.0 trl==1.12.0 transformers==5.24.0
    trl112/bin/python tests/parity/make_trl_golden_ppo.py

Run make_trl_golden.py first.  ``PPOTrainer.train`` runs as it is up to the first backward pass, where all its variables
are read.  Replaced are: generation (given completions, with the logits of the old policy), the reward model (given
rewards), and the value model (given values, others at the time of sampling than at the time of fitting, so that clips
act); logits are cast to float64.  All that follows from them, from log-probs to the loss, is TRL's.

Cases, all with PPOConfig(kl_estimator="k1", kl_coef=0.05, cliprange=0.1, cliprange_value=0.2, vf_coef=0.1, gamma=0.97,
lam=0.95, temperature=1, stop_token="eos", missing_eos_penalty=None); one epoch, one mini-batch:

* ``ppo``: batch "groups", ragged.
* ``ppo_full``: batch "full", all completions equally long, none with EOS: the textbook's PPO.
* ``ppo_whitened_rewards``: ``ppo_full`` with whiten_rewards=True (scaled by the standard deviation, mean kept).

Deviations of TRL from TUPLE.md, or what it leaves open:

* The reward is paid not on the last token but one step after it, where the policy does nothing, unless the completion
  fills the whole width.  So GAE takes one step more in short completions: their last token has
  delta = -kl_coef k1 + gamma V(after it) - V, and V(after it) is regressed too: ``value_mask`` is one step longer.
* The k1 penalty is of the old policy against the reference, a part of the token's reward.
* loss = mean of the surrogate over all tokens of the mini-batch + vf_coef (1/2) mean of max of the squared errors of
  the value and of the clipped value, over ``value_mask``.  Policy and value have denominators of their own.
* Advantages are whitened over the real tokens of the whole batch: variance with Bessel's factor (computed in float32),
  eps 1e-8 under the root.  Returns are raw advantages + old values, before whitening.
* Logits are divided by temperature + 1e-7.  There is no entropy term and no KL stop.
"""

import functools
import inspect
import json
import tempfile
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from trl_golden_inputs import (
    CONFIG,
    FILE,
    PAD,
    Recorder,
    by_row,
    flat,
    gradients,
    make_full,
    make_groups,
    make_tokenizer,
    make_weights,
    padded,
    save,
)

SETTINGS = {
    "kl_coef": 0.05,
    "kl_estimator": "k1",
    "cliprange": 0.1,
    "cliprange_value": 0.2,
    "vf_coef": 0.1,
    "gamma": 0.97,
    "lam": 0.95,
    "temperature": 1.0,
    "stop_token": "eos",
    "whiten_rewards": False,
}
CASES = {
    "ppo": ("groups", SETTINGS),
    "ppo_full": ("full", SETTINGS),
    "ppo_whitened_rewards": ("full", SETTINGS | {"whiten_rewards": True}),
}


class GivenValues(torch.nn.Module):
    """A value model whose values do not depend on the tokens."""

    base_model_prefix = "backbone"

    def __init__(self, values):
        super().__init__()
        self.values, self.score = values, torch.nn.Identity()

    def backbone(self, **_):
        return SimpleNamespace(hidden_states=[self.values[..., None]])


class FirstBackward(Exception):
    """Ends the training with the variables of ``PPOTrainer.train``."""


def stop(loss):
    raise FirstBackward(inspect.currentframe().f_back.f_locals)


def make_trainer(settings, weights, new_values, num_rows, width, folder):
    """A PPOTrainer whose policy has the old weights, and whose models have given values or no parameters at all."""
    config = PPOConfig(
        output_dir=folder,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        num_sample_generations=0,
        per_device_train_batch_size=num_rows,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=num_rows,
        response_length=width,
        local_rollout_forward_batch_size=num_rows,
        **settings,
    )
    policy, ref = (transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**CONFIG)) for _ in range(2))
    Recorder(policy, weights["old"], "logits")
    Recorder(ref, weights["ref"], "logits")
    data = Dataset.from_list([{"input_ids": [3, 4]}] * num_rows)
    value_model, reward_model = GivenValues(new_values), torch.nn.Identity()
    trainer = PPOTrainer(config, make_tokenizer(), policy, ref, reward_model, data, value_model, eval_dataset=data)
    return trainer


def variables(settings, weights, batch, folder):
    """What PPOTrainer.train holds at its first backward pass, and the policy in it."""
    prompts, completions, rewards = batch
    rows = [(p, c) for p, cs in zip(prompts, completions, strict=True) for c in cs]
    context, width = max(map(len, prompts)), max(len(c) for _, c in rows)
    # Prompts are padded on the left.
    tokens = torch.tensor([[PAD] * (context - len(p)) + p + c + [PAD] * (width - len(c)) for p, c in rows])
    generator = torch.Generator().manual_seed(1)
    old_values = torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
    new_values = old_values + 0.2 * torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
    trainer = make_trainer(settings, weights, new_values.requires_grad_(), len(rows), width, folder)
    trainer.dataloader = [{"input_ids": tokens[:, :context]}]
    trainer.accelerator.backward = stop

    def generate(policy, *_):
        logits = ppo_trainer.forward(policy, tokens, PAD).logits[:, context - 1 : -1]
        policy.load_state_dict(weights["policy"], strict=False)
        return tokens, logits / (settings["temperature"] + 1e-7)

    def judge(model, *_):
        scores = torch.tensor(rewards, dtype=torch.float64).flatten()
        return old_values[..., None], scores if model is trainer.reward_model else None, None

    module = "trl.experimental.ppo.ppo_trainer"
    with (
        mock.patch(f"{module}.batch_generation", generate),
        mock.patch(f"{module}.get_reward", judge),
        mock.patch("numpy.random.permutation", np.arange),  # rows stay in order
    ):
        try:
            trainer.train()
        except FirstBackward as end:
            return end.args[0], trainer.policy_model
    raise RuntimeError("PPOTrainer.train ended without a backward pass")


def ppo_case(batch_name, settings, weights, batch, folder):
    """One case of the golden file."""
    shape = padded(batch)["completions"].shape
    local, policy = variables(settings, weights, batch, folder)
    new_log_probs, new_values = local["new_logprobs"], local["vpred"]
    (grad_values,) = torch.autograd.grad(local["loss"], [new_values], retain_graph=True)
    by_token, by_params = gradients(local["loss"], new_log_probs, policy)
    ratio, advantages = local["ratio"], local["advantages"]
    assert ((ratio > 1 + settings["cliprange"]) & (advantages > 0)).any()
    assert ((ratio < 1 - settings["cliprange"]) & (advantages < 0)).any()
    assert (local["vf_losses2"] > local["vf_losses1"]).any()
    token = functools.partial(by_row, mask=~local["padding_mask"], shape=shape)
    state = functools.partial(by_row, mask=~local["padding_mask_p1"], shape=shape)
    return {
        "batch": batch_name,
        "settings": json.dumps(settings),
        "metrics": "{}",
        "trl": trl.__version__,
        "loss": local["loss"].item(),
        "policy_loss": local["pg_loss"].item(),
        "value_loss": local["vf_loss"].item(),
        "log_probs": token(new_log_probs),
        "old_log_probs": token(local["logprobs"]),
        "ref_log_probs": token(local["ref_logprobs"]),
        "advantages": token(advantages),
        "token_rewards": state(local["rewards"]),
        "values": state(new_values),
        "old_values": state(local["values"]),
        "returns": state(local["returns"]),
        "value_mask": (~local["padding_mask_p1"]).numpy().reshape(shape),
        "grad_log_probs": token(by_token),
        "grad_values": state(grad_values),
        "grad_params": by_params,
    }


def main():
    weights, batches = make_weights(), {"groups": make_groups(), "full": make_full()}
    with np.load(FILE) as stored:
        content = {name: stored[name] for name in stored.files if not name.startswith("cases/ppo")}
    tensors = json.loads(str(content["tensors"]))
    np.testing.assert_array_equal(flat(tensors, weights["policy"]), content["weights/policy"])
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: ppo_case(b, s, weights, batches[b], folder) for name, (b, s) in CASES.items()}
    save(content, {"full": batches["full"]}, cases)


if __name__ == "__main__":
    main()
