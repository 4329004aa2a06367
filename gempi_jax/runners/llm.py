"""A run of a language model from settings to export: the composition of everything below."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from gempi_jax.runners.build import blame
from gempi_jax.runners.plan import Plan
from gempi_jax.runners.policy import load_start, peek_tokenizer
from gempi_jax.runners.rowchecks import say_changed, try_rewards
from gempi_jax.runners.settings import RunSettings
from gempi_jax.runners.sources import SOURCES
from gempi_jax.runners.tasks import load_rewards, load_task
from gempi_jax.training import sharding
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.lock import check_free, locked
from gempi_jax.training.loop import train
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.progress import Progress
from gempi_jax.training.state import TrainState
from gempi_jax.training.writers import Writer, check_workdir, claim_workdir, workdir_path


def run(
    settings: RunSettings,
    workdir: pathlib.Path,
    config: dict[str, Any],
    report: Callable[[pathlib.Path], object] | None = None,
) -> pathlib.Path:
    """Trains, or goes on with, the run of a workdir, exports the policy and writes the report.

    Args:
      settings: of the run.
      workdir: its folder, ``~`` is the home folder; one that holds another run, or is in use, is refused.
      config: what ``config.json`` is to hold.
      report: writes the report of a workdir, while signals are still answered; ``None`` for no report.

    Returns:
      The exported folder.

    Raises:
      ValueError, FileNotFoundError: a mistake in settings or data; raised before anything is computed.
      Preempted: the run was asked to end and has saved.
    """
    with Preemption(grace_seconds=settings.preemption_grace_seconds) as preemption:
        workdir = workdir_path(workdir)
        check_workdir(workdir, config)
        check_free(workdir)
        task, reward_specs = load_task(settings), load_rewards(settings)
        if not task.heldout:
            raise ValueError("config.data.num_heldout = 0: nothing would judge the run; give at least 1")
        tokenizer = peek_tokenizer(settings)
        try_rewards(reward_specs, task.heldout, task.surveys["heldout"], tokenizer)
        if any(SOURCES[phase.source].written for phase in settings.phases.values() if phase.source in SOURCES):
            try_rewards(reward_specs, task.train, task.surveys["train"], tokenizer)
        with blame("config.mesh"):
            mesh = sharding.make_mesh(dataclasses.asdict(settings.mesh))
        plan = Plan(settings, task, reward_specs, load_start(settings, task, mesh), mesh)
        with locked(workdir):
            workdir = claim_workdir(workdir, config)
            state = _train(plan, workdir, preemption)
            export = workdir / "export"
            plan.start.export(export, state.params["policy"], settings.model.path, plan.eos_ids)
            if report is not None:
                report(workdir)
    return export


def _train(plan: Plan, workdir: pathlib.Path, preemption: Preemption) -> TrainState:
    """The state after the last iteration, from wherever the workdir's run stands."""
    settings = plan.settings
    checkpointer = Checkpointer(
        workdir / "checkpoints", keep=settings.checkpoint.keep, fingerprint={"model": plan.start.fingerprint()}
    )
    restored = checkpointer.restore_latest(lambda host: plan.template(host["phase"]))
    phases = plan.make_phases(preemption)
    if restored is None:
        host = {"phase": 0, "num_tokens": 0.0, "rows": plan.rows}
        state, resumed_at = phases[0].begin(plan.initial_state()), None
    else:
        state, host, resumed_at = restored
        say_changed(host.get("rows"), plan.rows)
    # What trains is in the state; its start would be one more copy of it.
    plan.forget_start()
    with Writer(workdir, resumed_at=resumed_at) as writer, plan.failed_rewards_named():
        return train(
            phases,
            state,
            host=host,
            checkpointer=checkpointer,
            writer=writer,
            preemption=preemption,
            progress=Progress(),
            checkpoint_every=settings.checkpoint.every,
            keep_boundary=settings.keep_boundary,
            max_skips_in_a_row=settings.max_skips_in_a_row,
        )
