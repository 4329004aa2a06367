"""The price of actions outside their bounds, as MPO's authors have it: an E-step of its own beside the method's."""

import jax.numpy as jnp
from jaxtyping import PyTree

from gempi_jax import em
from gempi_jax.contracts import Samples, Target
from gempi_jax.em import Anchor, GempiSpec, Scope, Solved
from gempi_jax.methods.base import Method
from gempi_jax.numerics.checks import require
from gempi_jax.types import Duals


def with_bounds(method: Method, epsilon: float = 1e-3) -> Method:
    """``method`` whose weights are the sum of its own and of those of a second target, which keeps actions in bounds.

    The second is q in proportion to pi_t(a) exp(cost(a) / eta'), with the cost -|a - clip(a)| and the eta' that spends
    epsilon; an environment takes a as clip(a), so that Q says nothing of how far outside it is.  By group, as the
    first: a state weighs as much in one as in the other.  States none of whose actions is outside, or all of them
    equally far, have the first alone.

    Args:
      method: with anchor ``"old"``, whose weights are normalised by group.
      epsilon: budget of the second target's KL to pi_t, a mean over the states that it has, nats.

    Raises:
      ValueError: another kind of method; a budget that is not positive.

    Source: Abdolmaleki et al. 2020, MO-MPO (2005.07513), and the code of MPO's authors, acme.
    """
    require(
        method.needs.by_group and "old" in method.needs.anchors,
        f"with_bounds: the method has anchors {list(method.needs.anchors)} and compares samples of "
        f"{'a group' if method.needs.by_group else 'the whole batch'}; give one by group with the anchor 'old'.",
    )
    spec = GempiSpec((Anchor("old", budget=epsilon),), temperature=Solved(), scope=Scope.GROUP)
    row = method.needs.anchors.index("old")

    def e_step(duals: Duals, samples: Samples, state: PyTree = ()) -> Target:
        target = method.e_step(duals, samples, state)
        if samples.bounds_costs is None:
            raise ValueError("Samples.bounds_costs is None: the world says what is outside, as Needs.bounds says.")
        costs = samples._replace(
            advantages=samples.bounds_costs,
            anchor_log_probs=samples.anchor_log_probs[row : row + 1],
            rewards=None,
            signal=None,
        )
        inside = em.e_step(spec, {}, costs)
        # Weights sum to 1 over the states that have some action outside; to their share of all it is then.
        share = 1.0 - inside.metrics["estep/flat_groups"].mean()
        weights = target.weights + share * inside.weights
        said = {name: inside.metrics[f"estep/{name}"] for name in ("temperature", "kl/old", "flat_groups")}
        return target._replace(
            examples=target.examples | {"weights": weights},
            signal=jnp.any(weights != 0),
            metrics=target.metrics | {f"estep/bounds/{name}": value for name, value in said.items()},
        )

    return method._replace(needs=method.needs._replace(bounds=True), e_step=e_step)
