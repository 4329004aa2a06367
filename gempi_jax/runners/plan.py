"""Everything that a run is made of, checked before any compute; makes the phases."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax.llm import rewards
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.templates import choose_template
from gempi_jax.methods.base import Features, Method
from gempi_jax.models import ValueHead
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners import stages
from gempi_jax.runners.build import blame, lookup
from gempi_jax.runners.checks import check_plan
from gempi_jax.runners.critics import initial_critic
from gempi_jax.runners.data import Source
from gempi_jax.runners.ends import Ends, phase_ends, say_what_disagrees, union
from gempi_jax.runners.heldout import GreedyEvaluation
from gempi_jax.runners.modelchecks import check_dropout, check_prior
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.optimizers import build_optimizers
from gempi_jax.runners.phase import Iteration, begin, fresh_state
from gempi_jax.runners.phaseparts import FEW, check_names, phase_method, phase_source
from gempi_jax.runners.policy import Start
from gempi_jax.runners.settings import PhaseSettings, RunSettings
from gempi_jax.runners.tasks import Task
from gempi_jax.training import sharding
from gempi_jax.training.loop import Phase, TooManySkippedUpdates
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers

TOO_LONG = {policy.value: policy for policy in TooLong}


class PhasePlan(NamedTuple):
    """A phase before its functions are compiled.

    Attributes:
      name: of its section.
      settings: of the phase.
      method: made of them.
      optimizers: of parameters and duals.
      learning_rate: of an optimiser step, for the log.
      source: of its batches.
      ends: what ends its completions.
    """

    name: str
    settings: PhaseSettings
    method: Method
    optimizers: Optimizers
    learning_rate: Callable[[int], float]
    source: Source
    ends: Ends


class Plan:
    """What a run does, from its settings.

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
        if settings.data.chat_template:
            with blame("config.data.chat_template"):
                choose_template(self._tokenizer, settings.data.chat_template)
        for name, phase in settings.phases.items():
            check_names(name, phase)
        ends = self._find_ends(task)
        self._judged = union(self._tokenizer, ends.values())
        source = self._source_maker(reward_specs)
        self._plans = [self._plan(name, ends[name], task, source) for name in settings.phases]
        critic = any(plan.method.needs.critic is not None for plan in self._plans)
        self._policy = Policy(start.model, ValueHead() if critic else None)
        self._longest = max(phase.max_completion_length for phase in settings.phases.values())
        longest_prompt = f"config.data.max_prompt_length = {settings.data.max_prompt_length}"
        with blame(f"{longest_prompt} on held-out prompts"):
            options = {"batch_prompts": 1, "max_completion_length": self._longest, "seed": 0}
            self._heldout = source(task.heldout, ends=self._judged, **options)
        self._check_together()

    def _find_ends(self, task: Task) -> dict[str, Ends]:
        checkpoint = self.start.pretrained.config
        first = [
            row for rows in (task.demonstrations, task.preferences, task.train, task.heldout) for row in rows[:FEW]
        ]
        return phase_ends(self._tokenizer, self.settings, checkpoint.eos_ids if checkpoint else (), first)

    def _source_maker(self, reward_specs: list[rewards.RewardSpec]) -> Callable[..., Source]:
        data = self.settings.data
        return functools.partial(
            Source,
            tokenizer=self._tokenizer,
            rewards=reward_specs,
            max_prompt_length=data.max_prompt_length,
            long_prompts=lookup(TOO_LONG, data.long_prompts, "config.data.long_prompts"),
            long_completions=lookup(TOO_LONG, data.long_completions, "config.data.long_completions"),
        )

    def _plan(self, name: str, ends: Ends, task: Task, make: Callable[..., Source]) -> PhasePlan:
        phase = self.settings.phases[name]
        method = phase_method(name, phase)
        check_dropout(name, phase, method, self._dropout)
        check_prior(name, phase, method, self.settings.model.lora.used)
        critic = method.needs.critic is not None
        optimizers, rate = build_optimizers(phase, name, critic=critic)
        source = phase_source(name, self.settings, method, task, functools.partial(make, ends=ends))
        return PhasePlan(name, phase, method, optimizers, rate, source, ends)

    def _check_together(self) -> None:
        """What learns, what judges, and what ends a completion, against each other and the model."""
        learnt = {plan.name: plan.source.learnt(FEW) for plan in self._plans if plan.source.learns_completions}
        written = {plan.name: plan.ends for plan in self._plans if plan.name not in learnt}
        say_what_disagrees(self._tokenizer, self._judged, learnt, written)
        check_plan(
            self.settings,
            longest=self.start.model.config.max_positions,
            prompt_widths={plan.name: plan.source.prompt_width for plan in self._plans},
            heldout_width=self._heldout.prompt_width,
            mesh=self._mesh.shape,
        )

    @contextlib.contextmanager
    def failed_rewards_named(self) -> Iterator[None]:
        """Where too many updates are skipped since a reward function fails, the error says which and how."""
        try:
            yield
        except TooManySkippedUpdates as error:
            failures = [plan.source.failure for plan in self._plans if plan.source.failure]
            raise TooManySkippedUpdates(f"{error} {' '.join(failures)}".strip()) from error

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end the run's completions."""
        return self._judged.eos_ids

    def initial_state(self) -> TrainState:
        """Parameters before the first phase, in their shards; the rest is filled in by the phases."""
        key = jax.random.key(self.settings.seed)

        critics = [plan.method.needs.critic for plan in self._plans]
        own = any(critic is not None and critic.features is Features.OWN for critic in critics)
        size = self.start.model.config.hidden_size
        value = initial_critic(self._policy, self.start.params, size, named_key(key, "value"), own=own)
        params = {"policy": self.start.params, **value}
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, params, (), {}, {}, {}, key, zero, zero)
        return jax.device_put(state, self._shardings(state))

    def forget_start(self) -> None:
        """Lets go of the parameters of before the first phase; nothing is left of them but their shapes."""
        self.start = self.start.without_params()

    def template(self, index: int) -> TrainState:
        """Shapes and shards of a state of a phase, to restore into."""
        state = jax.eval_shape(self.initial_state)
        plan = self._plans[index]
        shape = jax.eval_shape(functools.partial(fresh_state, self._policy, plan.method, plan.optimizers), state)
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
            dropout=self._dropout > 0,
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
        return [self._phase(plan, resources._replace(ends=plan.ends), evaluation) for plan in self._plans]

    def _phase(self, plan: PhasePlan, resources: stages.Resources, evaluation: GreedyEvaluation) -> Phase:
        compiled = stages.build_stages(plan.settings, plan.method, plan.optimizers, resources)
        return Phase(
            plan.name,
            plan.settings.num_iterations,
            functools.partial(begin, plan.method, plan.optimizers, resources),
            Iteration(plan.name, plan.settings, compiled, resources, plan.source, plan.learning_rate),
            evaluation,
            plan.settings.eval_every,
        )

    @property
    def _dropout(self) -> float:
        """The largest rate of the model."""
        return max(self.settings.model.dropout, self.settings.model.lora.dropout)

    @property
    def _num_parts(self) -> int:
        """Into how many parts the mesh cuts a batch."""
        return self._mesh.shape["data"] * self._mesh.shape["fsdp"]

    def _shardings(self, tree):
        return sharding.state_shardings(tree, self._mesh)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
