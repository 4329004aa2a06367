"""TRL: its GRPO and DPO trainers on transformers' PyTorch models, with the settings under which they are fastest."""

import json
import pathlib
import tempfile

import datasets
import torch
import transformers
import trl

from experiments.speed.gate import Gate
from experiments.speed.work import Job, spread

FOREVER = 10**9

COMMON = {
    "max_steps": FOREVER,
    "learning_rate": 1e-6,
    "use_cpu": True,
    # Off by default they are not: both cost time here.
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_grad_norm": 1.0,
}


def rl(job: Job, gate: Gate) -> None:
    """GRPO with a reference policy; no scores of pi_t, which one update for each rollout does not need."""
    work = job.work
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            folder,
            per_device_train_batch_size=work.prompts * work.samples,
            num_generations=work.samples,
            max_completion_length=work.completion_length,
            beta=0.04,
            temperature=1.0,
            loss_type="grpo",
            **COMMON,
        )
        trainer = trl.GRPOTrainer(
            _model(job),
            reward_funcs=spread,
            args=config,
            train_dataset=_rows(job),
            processing_class=_tokenizer(job),
            callbacks=[Turns(gate)],
        )
        trainer.train()


def dpo(job: Job, gate: Gate) -> None:
    """DPO with a live reference policy."""
    work = job.work
    with tempfile.TemporaryDirectory() as folder:
        config = trl.DPOConfig(
            folder,
            per_device_train_batch_size=work.prompts,
            max_length=work.prompt_length + work.completion_length,
            beta=0.1,
            **COMMON,
        )
        trainer = trl.DPOTrainer(
            _model(job),
            ref_model=_model(job),
            args=config,
            train_dataset=_rows(job),
            processing_class=_tokenizer(job),
            callbacks=[Turns(gate)],
        )
        trainer.train()


class Turns(transformers.TrainerCallback):
    """Waits before each step."""

    def __init__(self, gate: Gate):
        self._gate = gate

    def on_step_begin(self, args, state, control, **kwargs):
        """The trainer's."""
        self._gate()


def _model(job: Job) -> torch.nn.Module:
    torch.set_num_threads(1)
    path = pathlib.Path(job.folder) / "model"
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def _tokenizer(job: Job):
    return transformers.PreTrainedTokenizerFast.from_pretrained(pathlib.Path(job.folder) / "model")


def _rows(job: Job) -> datasets.Dataset:
    path = pathlib.Path(job.folder) / f"{job.task}.jsonl"
    return datasets.Dataset.from_list([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
