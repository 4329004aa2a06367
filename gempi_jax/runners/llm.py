"""A run of a language model from settings to export: the composition of everything below."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gempi_jax.llm import rewards
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.templates import choose_template
from gempi_jax.methods.base import Method
from gempi_jax.models import ValueHead
from gempi_jax.numerics.keys import named_key, named_seed
from gempi_jax.runners import phase as stages
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.build import blame, lookup, method_from_settings
from gempi_jax.runners.checks import check_phase, check_plan, check_scored, check_whole
from gempi_jax.runners.data import Source
from gempi_jax.runners.ends import phase_ends, say_what_disagrees, union
from gempi_jax.runners.heldout import GreedyEvaluation
from gempi_jax.runners.optimizers import build_optimizers
from gempi_jax.runners.policy import Start, load_start, peek_tokenizer
from gempi_jax.runners.rowchecks import say_changed, try_rewards
from gempi_jax.runners.settings import PhaseSettings, RunSettings
from gempi_jax.runners.sources import SOURCES
from gempi_jax.runners.tasks import Task, load_rewards, load_task
from gempi_jax.runners.world import Policy
from gempi_jax.training import sharding
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.lock import check_free, locked
from gempi_jax.training.loop import Phase, TooManySkippedUpdates, train
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.progress import Progress
from gempi_jax.training.state import TrainState
from gempi_jax.training.writers import Writer, check_workdir, claim_workdir, workdir_path

_logger = logging.getLogger(__name__)
FEW = 1000
"""Rows that stand for all, where one look at them tells enough."""

TOO_LONG = {policy.value: policy for policy in TooLong}


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


def _train(plan: "Plan", workdir: pathlib.Path, preemption: Preemption) -> TrainState:
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


def _method(name: str, phase: PhaseSettings) -> Method:
    """The method of a phase, checked against its settings."""
    method = method_from_settings(name, phase)
    check_phase(name, phase, method)
    follows = phase.old_period > 1 or phase.old_ema_decay > 0
    if follows and "old" not in method.snapshots and SOURCES[phase.source].written:
        # No anchor is pi_t, and yet it writes: what it follows the policy by is set.
        return method._replace(snapshots=(*method.snapshots, "old"))
    return method


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Plan:
    """Everything that a run is made of, checked before any compute; makes the phases.

    Args:
      settings: of the run.
      task: its rows.
      reward_specs: its rewards.
      start: the policy at its start.
      mesh: where everything lies.

    Attributes:
      rows: their fingerprint.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        reward_specs: list[rewards.RewardSpec],
        start: Start,
        mesh: jax.sharding.Mesh,
    ):
        self.settings, self.start, self._mesh = settings, start, mesh
        self.rows = task.fingerprint()
        self._tokenizer = start.pretrained.tokenizer
        uses_value = any(phase.baseline == "value" for phase in settings.phases.values())
        self._policy = Policy(start.model, ValueHead() if uses_value else None)
        data = settings.data
        if data.chat_template:
            with blame("config.data.chat_template"):
                choose_template(self._tokenizer, data.chat_template)
        self._source = functools.partial(
            Source,
            tokenizer=self._tokenizer,
            rewards=reward_specs,
            max_prompt_length=data.max_prompt_length,
            long_prompts=lookup(TOO_LONG, data.long_prompts, "config.data.long_prompts"),
            long_completions=lookup(TOO_LONG, data.long_completions, "config.data.long_completions"),
        )
        self._names = list(settings.phases)
        checkpoint = start.pretrained.config
        first = [row for rows in (task.demonstrations, task.train, task.heldout) for row in rows[:FEW]]
        self._ends = phase_ends(self._tokenizer, settings, checkpoint.eos_ids if checkpoint else (), first)
        self._judged = union(self._tokenizer, self._ends.values())
        for name, phase in settings.phases.items():
            lookup(SOURCES, phase.source, f"config.{name}.source")
            lookup(BASELINES, phase.baseline, f"config.{name}.baseline")
            lookup(stages.OLD_LOG_PROBS, phase.old_log_probs, f"config.{name}.old_log_probs")
            lookup(stages.TEMPERED, phase.tempered, f"config.{name}.tempered")
            if phase.top_k or phase.top_p < 1 or phase.min_p:
                _logger.warning(
                    "config.%s: top_k, top_p or min_p cut what samples, and weights are taken against the cut "
                    "distribution: a sample's falls by the mass that was cut at each of its tokens, so the longer "
                    "completions are, the fewer carry the update; see sampler_shift (nats a sample) and estep/ess",
                    name,
                )
            lookup(stages.SAME_MASK, phase.trust_region_dropout, f"config.{name}.trust_region_dropout")
        self._methods = [_method(name, phase) for name, phase in settings.phases.items()]
        self._optimizers = [build_optimizers(phase, name) for name, phase in settings.phases.items()]
        self._sources = [self._phase_source(name, task, reward_specs) for name in self._names]
        longest = max(phase.max_completion_length for phase in settings.phases.values())
        self._longest = longest
        with blame(f"config.data.max_prompt_length = {data.max_prompt_length} on held-out prompts"):
            self._heldout = self._source(
                task.heldout, ends=self._judged, batch_prompts=1, max_completion_length=longest, seed=0
            )
        learnt = {n: s.learnt(FEW) for n, s in zip(self._names, self._sources, strict=True) if s.learns_completions}
        say_what_disagrees(
            self._tokenizer, self._judged, learnt, {n: e for n, e in self._ends.items() if n not in learnt}
        )
        widths = {name: source.prompt_width for name, source in zip(self._names, self._sources, strict=True)}
        check_plan(
            settings,
            longest=start.model.config.max_positions,
            prompt_widths=widths,
            heldout_width=self._heldout.prompt_width,
            mesh=mesh.shape,
        )

    @contextlib.contextmanager
    def failed_rewards_named(self) -> Iterator[None]:
        """Where too many updates are skipped since a reward function fails, the error says which and how."""
        try:
            yield
        except TooManySkippedUpdates as error:
            failures = [source.failure for source in self._sources if source.failure]
            raise TooManySkippedUpdates(f"{error} {' '.join(failures)}".strip()) from error

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end the run's completions."""
        return self._judged.eos_ids

    def initial_state(self) -> TrainState:
        """Parameters before the first phase, in their shards; the rest is filled in by the phases."""
        key = jax.random.key(self.settings.seed)

        def value_params():
            if self._policy.value_head is None:
                return {}
            hidden = jnp.zeros((1, self.start.model.config.hidden_size))
            return {"value": self._policy.value_head.init(named_key(key, "value"), hidden)["params"]}

        params = {"policy": self.start.params, **value_params()}
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, params, (), {}, {}, {}, key, zero, zero)
        return jax.device_put(state, self._shardings(state))

    def forget_start(self) -> None:
        """Lets go of the parameters of before the first phase; nothing is left of them but their shapes."""
        self.start = self.start.without_params()

    def template(self, index: int) -> TrainState:
        """Shapes and shards of a state of a phase, to restore into."""
        state = jax.eval_shape(self.initial_state)
        make = functools.partial(stages.fresh_state, self._policy, self._methods[index], self._optimizers[index][0])
        shape = jax.eval_shape(make, state)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shape, self._shardings(shape)
        )

    def make_phases(self, preemption: Preemption) -> list[Phase]:
        """The phases, their functions compiled at their first call."""
        resources = stages.Resources(
            policy=self._policy,
            frozen=self.start.frozen,
            ends=self._judged,
            pad_id=self._tokenizer.pad_token_id,
            place=functools.partial(sharding.put_batch, mesh=self._mesh),
            shardings=self._shardings,
            preemption=preemption,
            dropout=max(self.settings.model.dropout, self.settings.model.lora.dropout) > 0,
        )
        chunks = (phase.prefill_chunk for phase in self.settings.phases.values())
        evaluation = GreedyEvaluation(
            self._heldout,
            resources,
            max_completion_length=self._longest,
            prefill_chunk=min(filter(None, chunks), default=None),
            batch_prompts=_round_up(min(self.settings.eval.batch_prompts, len(self._heldout.rows)), self._num_parts),
            num_samples=self.settings.eval.num_samples,
        )
        return [self._phase(index, resources, evaluation) for index in range(len(self._names))]

    def _phase(self, index: int, resources: stages.Resources, evaluation: GreedyEvaluation) -> Phase:
        name, method, (optimizer, rate) = self._names[index], self._methods[index], self._optimizers[index]
        settings = self.settings.phases[name]
        resources = resources._replace(ends=self._ends[name])
        compiled = stages.build_stages(settings, method, optimizer, resources)
        iteration = stages.Iteration(name, settings, compiled, resources, self._sources[index], rate)
        return Phase(
            name,
            settings.num_iterations,
            functools.partial(stages.begin, method, optimizer, resources),
            iteration,
            evaluation,
            settings.eval_every,
        )

    @property
    def _num_parts(self) -> int:
        """Into how many parts the mesh cuts a batch."""
        return self._mesh.shape["data"] * self._mesh.shape["fsdp"]

    def _shardings(self, tree):
        return sharding.state_shardings(tree, self._mesh)

    def _phase_source(self, name: str, task: Task, reward_specs) -> Source:
        phase = self.settings.phases[name]
        writes = SOURCES[phase.source].written
        rows = task.train if writes else task.demonstrations
        if not rows and writes:
            raise ValueError(
                f"config.{name}.source = {phase.source!r}: there are no training prompts; raise data.num_train"
            )
        if not rows:
            raise ValueError(
                f"config.{name}.source = {phase.source!r}: the data have no rows with a completion; name one in "
                "data.columns, or raise data.num_demonstrations"
            )
        method = self._methods[self._names.index(name)]
        carries = phase.source == "scored" and check_scored(name, rows, method)
        data = self.settings.data
        lengths = f"data.max_prompt_length = {data.max_prompt_length} (data.long_prompts = {data.long_prompts!r})"
        if not writes:
            lengths += f", max_completion_length = {phase.max_completion_length} (data.long_completions = "
            lengths += f"{data.long_completions!r})"
        with blame(f"config.{name} with {lengths}"):
            source = self._source(
                rows,
                ends=self._ends[name],
                batch_prompts=phase.batch_prompts,
                max_completion_length=phase.max_completion_length,
                learns_completions=not writes,
                carries_log_probs=carries,
                # Two phases over the same rows take them in orders of their own.
                seed=named_seed(self.settings.seed, f"phase/{name}"),
            )
        if carries:
            check_whole(name, source)
        return source
