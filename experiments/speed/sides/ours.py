"""gempi_jax, through the loop, the stages and the sources of a user's run; evaluations and checkpoints are left out."""

import dataclasses
import itertools
import pathlib
import tempfile
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import common
from experiments.speed.gate import Gate
from experiments.speed.programs import Programs
from experiments.speed.roofline import peak
from experiments.speed.work import Job
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.plan import Plan
from gempi_jax.runners.policy import load_start
from gempi_jax.runners.settings import RunSettings
from gempi_jax.runners.tasks import load_rewards, load_task
from gempi_jax.training import sharding
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.loop import Judged, Phase, train
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.progress import Progress
from gempi_jax.training.writers import Writer, claim_workdir

FOREVER = 10**9
"""Iterations: the driver says when it is enough."""

# V-MPO whose E-step keeps q close to a reference, too: both temperatures are solved for their budgets.
_VMPO = {
    "budget_ref": 0.3,
    "budget_old": 0.3,
    "coefficient_old": 0.0,
    "temperature": "solved",
    "top_k_fraction": 0.25,
    "epsilon_alpha": 0.01,
}
METHODS = {
    "vmpo": ("gempi", _VMPO),
    "vmpo-multiplier": ("gempi", _VMPO | {"enforced": "lagrangian"}),
    "grpo": ("grpo", {"beta": 0.04}),
    "dpo": ("dpo", {"beta": 0.1}),
    "sft": ("sft", {"reduction": "mean"}),
}
"""Methods of our table with their arguments, by the names that the tables here have; others are themselves."""

SETTINGS = {
    "shrink-8": {"shrink": (2, 8)},
    "shrink-16": {"shrink": (2, 4, 8, 16)},
}
"""Settings that the name of a side stands for."""


def rl(job: Job, gate: Gate) -> None:
    """Generation, rewards, scoring, the E-step and one update."""
    _run(job, gate, source="rollout", num_generations=job.work.samples)


def dpo(job: Job, gate: Gate) -> None:
    """Pairs of a dataset with a reference policy, and one update."""
    _run(job, gate, source="preferences")


def sft(job: Job, gate: Gate) -> None:
    """Demonstrations of a dataset, and one update."""
    _run(job, gate, source="demonstrations", num_generations=1)


def generation(job: Job, gate: Gate) -> None:
    """The rollout stage alone."""
    preemption = Preemption()
    job = dataclasses.replace(job, task="rl", method="reinforce", settings=SETTINGS.get(job.method, {}) | job.settings)
    # Any method and baseline that allow one sample of a prompt.
    phase = {"source": "rollout", "num_generations": job.work.samples, "baseline": "zero"}
    settings = settings_from_config(config_of(job, **phase))
    plan, (measured,) = _prepare(settings, preemption)
    state, iteration, tokens = measured.begin(plan.initial_state()), measured.iterate, 0
    for step in itertools.count():
        gate(tokens=tokens)
        prompts, _ = iteration.source.prompts(step)
        rows = iteration.resources.place((prompts.tokens, prompts.lengths))
        key = jax.random.fold_in(state.key, step)
        completions, _ = iteration.stages.rollout(iteration.resources.frozen, state, *rows, key)
        tokens = int(jax.device_get(completions).lengths.sum())


def roofline(job: Job, gate: Gate) -> None:
    """What the device can do at most."""
    gate()
    gate(**peak(jax.devices()[0])._asdict())


def config_of(job: Job, **phase: Any) -> ConfigDict:
    """The config of a run of one phase.

    ``job.settings`` are of the phase (``old_log_probs``), of its method (``method_args.epsilon_alpha``), or of the run
    (``config.keep_boundary``).
    """
    folder, work = pathlib.Path(job.folder), job.work
    method, arguments = METHODS.get(job.method, (job.method, {}))
    config = common.base()
    config.model.update({"path": str(folder / "model"), "dtype": "float32"})
    config.data.update(
        {
            "task": "jsonl",
            "train_path": str(folder / f"{job.task}.jsonl"),
            "heldout_path": str(folder / "heldout.jsonl"),
            "max_prompt_length": work.prompt_length,
        }
    )
    config.reward_functions = ("experiments.speed.work:spread",)
    config.phases = ("measured",)
    config.measured = common.phase(
        method,
        batch_prompts=work.prompts,
        max_completion_length=work.completion_length,
        updates_per_epoch=1,
        num_iterations=FOREVER,
        eval_every=FOREVER,
        optimizer={"learning_rate": 1e-6},
        **phase,
    )
    config.measured.method_args.update(arguments)
    for name, value in (SETTINGS.get(job.method, {}) | job.settings).items():
        _set(config if name.startswith("config.") else config.measured, name.removeprefix("config."), value)
    return config


def _set(section: ConfigDict, name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for each in sections:
        section = section[each]
    with section.ignore_type():
        section[last] = tuple(value) if isinstance(value, list) else value


def _run(job: Job, gate: Gate, **phase: Any) -> None:
    settings = settings_from_config(config_of(job, **phase))
    with tempfile.TemporaryDirectory() as folder:
        workdir = claim_workdir(pathlib.Path(folder) / "run", {})
        preemption = Preemption()
        plan, (measured,) = _prepare(settings, preemption)
        state = measured.begin(plan.initial_state())
        plan.forget_start()
        with Writer(workdir, resumed_at=None) as writer:
            train(
                [_gated(measured, gate)],
                state,
                host={"phase": 0, "num_tokens": 0.0, "rows": plan.rows},
                checkpointer=Checkpointer(workdir / "checkpoints", keep=1, fingerprint={}),
                writer=writer,
                preemption=preemption,
                progress=Progress(),
                checkpoint_every=FOREVER,
                keep_boundary=settings.keep_boundary,
                max_skips_in_a_row=settings.max_skips_in_a_row,
            )


def _prepare(settings: RunSettings, preemption: Preemption) -> tuple[Plan, list[Phase]]:
    task, rewards = load_task(settings), load_rewards(settings)
    mesh = sharding.make_mesh(dataclasses.asdict(settings.mesh))
    plan = Plan(settings, task, rewards, load_start(settings, task, mesh), mesh)
    return plan, plan.make_phases(preemption)


def _gated(phase: Phase, gate: Gate) -> Phase:
    """The phase, each of whose iterations waits for its turn; what the loop does between them counts."""
    row: dict[str, float] = {}
    programs = Programs()

    def iterate(state):
        known = {name: row[name] for name in row if name.startswith("timing_s/") or name in KEPT}
        gate(**known, programs=programs.take())
        row.clear()
        state, latest = phase.iterate(state)
        row.update(latest)
        return state, latest

    return phase._replace(iterate=iterate, evaluate=lambda state: Judged({}, []))


KEPT = ("step_time", "num_tokens", "loss", "completions/mean_length", "mstep/skipped_fraction")
"""Metrics that go into reports beside the stages' times."""
