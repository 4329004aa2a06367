"""Tunix: its GRPO learner with its own sampler, and its DPO trainer, with the settings under which they are fastest."""

import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax
from flax import nnx
from transformers import PreTrainedTokenizerFast
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from tunix.sft.dpo import dpo_trainer

from experiments.speed.gate import Gate
from experiments.speed.programs import Programs
from experiments.speed.work import Job, spread

FOREVER = 10**9


def rl(job: Job, gate: Gate) -> None:
    """GRPO with a reference policy; no scores of pi_t, which one update for each rollout does not need."""
    work, mesh = job.work, _mesh()
    actor, reference = _model(job, mesh), _model(job, mesh)
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=actor,
        reference=reference,
        tokenizer=_tokenizer(job),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=_optimizer(), eval_every_n_steps=FOREVER, max_steps=FOREVER
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=work.completion_length,
                max_prompt_length=work.prompt_length,
                kv_cache_size=work.prompt_length + work.completion_length,
                temperature=1.0,
                top_p=1.0,
            ),
        ),
    )
    config = grpo_learner.GRPOConfig(num_generations=work.samples, num_iterations=1, beta=0.04)
    learner = grpo_learner.GRPOLearner(rl_cluster=cluster, reward_fns=spread, algo_config=config)
    prompts = np.array([row["prompt"] for row in _rows(job)])

    wait = _turns(actor, gate)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for index in _indices(len(prompts), work.prompts):
            wait()
            yield {"prompts": prompts[index]}

    with mesh:
        learner.train(batches())


def dpo(job: Job, gate: Gate) -> None:
    """DPO on pairs that are tokens already."""
    mesh = _mesh()
    actor, reference = _model(job, mesh), _model(job, mesh)
    trainer = dpo_trainer.DPOTrainer(
        model=actor,
        ref_model=reference,
        optimizer=_optimizer(),
        training_config=dpo_trainer.DPOTrainingConfig(beta=0.1, eval_every_n_steps=FOREVER, max_steps=FOREVER),
    )
    tokenizer, rows = _tokenizer(job), _rows(job)
    tokens = {name: np.array(tokenizer([row[name] for row in rows])["input_ids"]) for name in rows[0]}
    ends = np.full((len(rows), 1), tokenizer.eos_token_id)
    tokens |= {name: np.concatenate([tokens[name], ends], axis=1) for name in ("chosen", "rejected")}

    wait = _turns(actor, gate)

    def batches() -> Iterator[dpo_trainer.TrainingInput]:
        for index in _indices(len(rows), job.work.prompts):
            wait()
            taken = {name: values[index] for name, values in tokens.items()}
            yield dpo_trainer.TrainingInput(
                prompt_ids=taken["prompt"],
                prompt_mask=np.ones_like(taken["prompt"]),
                chosen_ids=taken["chosen"],
                chosen_mask=np.ones_like(taken["chosen"]),
                rejected_ids=taken["rejected"],
                rejected_mask=np.ones_like(taken["rejected"]),
            )

    with mesh:
        trainer.train(batches())


def _turns(model: nnx.Module, gate: Gate) -> Callable[[], None]:
    """The gate, which the last update has to pass before the other sides have their turns."""
    programs = Programs()

    def wait() -> None:
        jax.block_until_ready(nnx.state(model))
        gate(programs=programs.take())

    return wait


def _mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()).reshape(1, 1), ("fsdp", "tp"))


def _model(job: Job, mesh: jax.sharding.Mesh) -> nnx.Module:
    size = job.size
    config = qwen2.ModelConfig(
        num_layers=size.layers,
        vocab_size=size.vocab_size,
        embed_dim=size.width,
        hidden_dim=size.intermediate,
        num_heads=size.heads,
        head_dim=size.width // size.heads,
        num_kv_heads=size.kv_heads,
        rope_theta=10_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    return qwen2_params.create_model_from_safe_tensors(str(pathlib.Path(job.folder) / "model"), config, mesh)


def _tokenizer(job: Job):
    return PreTrainedTokenizerFast.from_pretrained(pathlib.Path(job.folder) / "model")


def _optimizer() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6, weight_decay=0.0))


def _rows(job: Job) -> list[dict[str, str]]:
    path = pathlib.Path(job.folder) / f"{job.task}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _indices(number: int, batch: int) -> Iterator[np.ndarray]:
    step = 0
    while True:
        yield (step * batch + np.arange(batch)) % number
        step += 1
