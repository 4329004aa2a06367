"""The language world as the training step sees it: a policy evaluated on completions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.contracts import Counts, Evaluation, Metric, Metrics
from gempi_jax.em import Level
from gempi_jax.llm.scoring import TokenTerms, hidden_states, token_terms
from gempi_jax.methods.base import Features, Needs
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.batch import Batch, Scored
from gempi_jax.runners.critics import critic_states, read_values
from gempi_jax.runners.networks import Policy
from gempi_jax.training.step import World
from gempi_jax.types import Array, Params


class LanguageWorld(NamedTuple):
    """How pi_theta is evaluated on completions.

    Attributes:
      policy: the networks.
      needs: of the method.
      dropout: whether the likelihood pass drops.
      same_mask: the snapshot of the trust region drops the units that pi_theta drops, which makes D_M exactly 0 before
        the first update; otherwise D_M comes from a deterministic pass of both.
      prefill_chunk: tokens of each prompt that are read at a time; ``None`` for all of them.
    """

    policy: Policy
    needs: Needs
    dropout: bool = False
    same_mask: bool = True
    prefill_chunk: int | None = None

    def world(self) -> World:
        """As the training step takes it."""
        return World(self.evaluate, self.count, self.divergence)

    def count(self, scored: Scored) -> tuple[Array, Array]:
        """Real tokens, and examples that have one."""
        mask = scored.batch.mask
        examples = mask if self.needs.level is Level.TOKEN else mask.any(-1)
        return mask.sum().astype(jnp.float32), examples.sum().astype(jnp.float32)

    def evaluate(
        self, params: Params, snapshots: dict[str, Params], scored: Scored, key: Array, counts: Counts
    ) -> Evaluation:
        """pi_theta on a part of an update."""
        batch = scored.batch
        keys = jax.vmap(lambda i: named_key(key, "group", i))(batch.index) if self.dropout else None
        hidden = self._states(params["policy"], batch, keys)
        output, divergence = self._terms(params["policy"], snapshots, scored, hidden, keys)
        evaluation = Evaluation(
            output.log_probs,
            batch.mask,
            divergence,
            counts,
            scored.old_log_probs if self.needs.ratio else None,
            output.entropy if self.needs.entropy else None,
            None if self.needs.critic is None else self._values(params, scored, hidden),
            _distance(params["policy"], snapshots["ref"]) if self.needs.prior else None,
        )
        return _by_token(evaluation) if self.needs.level is Level.TOKEN else evaluation

    def divergence(self, params: Params, snapshots: dict[str, Params], scored: Scored) -> Metrics:
        """D_M of pi_theta, without dropout."""
        batch, hidden = scored.batch, self._states(params["policy"], scored.batch, None)
        frozen = self._frozen(snapshots, scored, None)
        values = self._head(params["policy"], hidden, batch, frozen).divergence
        return {"kl": Metric(values.sum(), batch.mask.sum().astype(jnp.float32))}

    def _states(self, params: Params, batch: Batch, keys: Array | None) -> Float[Array, "G K C D"]:
        """The states that predict each token."""
        options = {"prefill_chunk": self.prefill_chunk}
        if keys is None:
            rows = batch.prompts, batch.prompt_lengths, batch.completions
            return hidden_states(self.policy.model, params, *rows, **options)[0]

        def one(prompt, length, completions, key):
            rows = prompt[None], length[None], completions[None]
            hidden, _ = hidden_states(self.policy.model, params, *rows, dropout_key=key, **options)
            return hidden[0]

        # A key of its own for each group: its masks do not depend on devices or micro-batches.
        return jax.vmap(one)(batch.prompts, batch.prompt_lengths, batch.completions, keys)

    def _head(self, params: Params, hidden: Array, batch: Batch, frozen: tuple | None) -> TokenTerms:
        divergence = None if frozen is None else self.needs.trust_region.divergence
        return token_terms(
            self.policy.model, params, hidden, batch.completions, batch.mask, frozen=frozen, divergence=divergence
        )

    def _frozen(
        self, snapshots: dict[str, Params], scored: Scored, keys: Array | None
    ) -> tuple[Params, Float[Array, "G K C D"]]:
        """The trust region's snapshot, and its states: those that scoring left, where nothing is dropped."""
        frozen = jax.lax.stop_gradient(snapshots[self.needs.trust_region.towards])
        if keys is None and scored.frozen_states is not None:
            return frozen, scored.frozen_states
        return frozen, self._states(frozen, scored.batch, keys)

    def _terms(
        self, params: Params, snapshots: dict[str, Params], scored: Scored, hidden: Array, keys: Array | None
    ) -> tuple[TokenTerms, dict[str, Float[Array, "G K C"]]]:
        """What the head says of each token, and D_M towards the trust region's snapshot."""
        region, batch = self.needs.trust_region, scored.batch
        if region is None or region.at_end:
            return self._head(params, hidden, batch, None), {}
        frozen = self._frozen(snapshots, scored, keys if self.same_mask else None)
        if self.dropout and not self.same_mask:
            calm = self._states(params, batch, None)
            return self._head(params, hidden, batch, None), {"kl": self._head(params, calm, batch, frozen).divergence}
        output = self._head(params, hidden, batch, frozen)
        return output, {"kl": output.divergence}

    def _values(self, params: Params, scored: Scored, hidden: Float[Array, "G K C D"]) -> Float[Array, "..."]:
        """V of the states that predict each token [G, K, C], or V(x), the same for all completions of a prompt."""
        critic, value = self.needs.critic, params["value"]
        # The prompt's last state predicts the first token of all of its completions.
        prompt = scored.features if critic.features is Features.DETACHED else hidden[:, 0, 0]
        states = critic_states(self.policy, critic, value, scored.batch, (hidden, prompt), self.prefill_chunk)
        if self.needs.level is Level.TOKEN:
            return read_values(self.policy, value, states[0])
        values = read_values(self.policy, value, states[1])[:, None]
        return jnp.broadcast_to(values, scored.batch.rewards.shape)


def _by_token(evaluation: Evaluation) -> Evaluation:
    """An example of one term is a token."""
    fields = {name: getattr(evaluation, name) for name in ("log_probs", "mask", "old_log_probs", "entropy")}
    fields = {name: None if value is None else value[..., None] for name, value in fields.items()}
    divergence = {part: values[..., None] for part, values in evaluation.divergence.items()}
    return evaluation._replace(divergence=divergence, **fields)


def _distance(params: Params, start: Params) -> Float[Array, ""]:
    """1/2 |theta - theta_0|^2."""
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - jax.lax.stop_gradient(b))), params, start)
    return 0.5 * sum(jax.tree.leaves(squares))
