"""EM policy iteration, document section 2, exact: the E-step knows Q of pi_k, and the M-step fits its target perfectly.

A tabular policy can be any distribution in each state, so that the weighted likelihood is greatest at the target
itself, pi_{k+1} = q_{k+1}.  Then, for anchors with divergences D_j and prices lambda_j,

* with the anchor pi_k alone, V of pi_k rises in every state and tends to V*: a step gains at least lambda D(q || pi_k)
  in expectation, since pi_k itself is a candidate of the E-step;
* with an anchor pi_ref beside it, what rises is V less lambda_ref D(pi_k || pi_ref) of each state that is met, and the
  limit is the regularised optimum; under KL, pi* = pi_ref exp((Q* - V*) / lambda_ref).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.em import (
    Anchor,
    Fixed,
    GempiSpec,
    Given,
    Identity,
    Solved,
    Tilted,
    Unconstrained,
    solve_target,
    solve_temperature,
)
from gempi_jax.numerics.checks import require, same_shape
from gempi_jax.rl.tabular import TabularMDP, action_values, policy_values
from gempi_jax.types import Array

SMALLEST = 1e-8
"""The least price of an E-step whose budget does not bind."""


class Iterates(NamedTuple):
    """pi_0 ... pi_K and what they are worth; axis 0 is k.

    Attributes:
      log_policies: log pi_k.
      values: V of pi_k, units of return.
      objectives: V of pi_k less what its divergence from pi_ref costs on the way, which never falls.
      coefficients: lambda_j of the E-step from pi_k, units of return per nat; one entry fewer.  Of a budget they mean
        nothing once pi_k is deterministic, where no price moves it.
      divergences: D_j(pi_{k+1} || pi_j), a mean over the states, nats; one entry fewer.
    """

    log_policies: Float[Array, "K S V"]
    values: Float[Array, "K S"]
    objectives: Float[Array, "K S"]
    coefficients: Float[Array, "k m"]
    divergences: Float[Array, "k m"]


def em_policy_iteration(
    mdp: TabularMDP,
    spec: GempiSpec,
    log_policy: Float[Array, "S V"],
    num_iterations: int,
    *,
    reference: Float[Array, "S V"] | None = None,
) -> Iterates:
    """q_{k+1} = argmax_q E_q[A_k] - sum_j lambda_j D_j(q || pi_j) in each state, then pi_{k+1} = q_{k+1}.

    A_k is of the process whose reward is less the price of being away from pi_ref.  The scope of the spec makes no
    difference: a factor common to the weights of a state moves no tabular policy.

    Args:
      mdp: the process.
      spec: its anchors ``"old"`` (pi_k) and ``"ref"``, and its temperature: fixed prices, or budgets of ``"old"`` that
        a mean over all states meets.
      log_policy: pi_0; an action that it never takes is never taken.
      num_iterations: K.
      reference: pi_ref; pi_0 if ``None``.

    Raises:
      ValueError: for parts of a spec that an exact iteration does not have, and shapes that disagree.
    """
    _check(spec)
    same_shape("em_policy_iteration", rewards=mdp.rewards, log_policy=log_policy, reference=reference)
    reference = log_policy if reference is None else reference
    anchors = spec.anchors
    divergences = tuple(anchor.divergence for anchor in anchors)

    def iterate(log_policy, _):
        away = [anchor.coefficient * anchor.divergence(log_policy, reference) for anchor in anchors if _fixed(anchor)]
        objective = policy_values(mdp, log_policy, sum(away, jnp.zeros(len(mdp.rewards))))
        advantages = action_values(mdp, objective) - objective[:, None]
        towards = jnp.stack([reference if _fixed(anchor) else log_policy for anchor in anchors])
        coefficients = _coefficients(spec, advantages, towards)
        target = solve_target(advantages, towards, coefficients, divergences)
        moved = jnp.stack([d(target, anchor).mean() for d, anchor in zip(divergences, towards, strict=True)])
        return target, Iterates(log_policy, policy_values(mdp, log_policy), objective, coefficients, moved)

    # The last one's E-step goes nowhere, which costs less than to compile what it is worth by itself.
    _, found = jax.lax.scan(iterate, log_policy, length=num_iterations + 1)
    return found._replace(coefficients=found.coefficients[:-1], divergences=found.divergences[:-1])


def _fixed(anchor: Anchor) -> bool:
    """Whether it is pi_ref, which stays, and not pi_k."""
    return anchor.policy == "ref"


def _coefficients(spec: GempiSpec, advantages: Array, towards: Array) -> Float[Array, "m"]:
    """The prices of the anchors: as given, or those at which a mean over the states meets the budgets."""
    anchors = spec.anchors
    if isinstance(spec.temperature, Fixed):
        return jnp.array([anchor.coefficient for anchor in anchors])
    # Every action once is a sample of the uniform policy, under which means of samples are exact.
    ratios = towards + jnp.log(float(advantages.shape[-1]))
    solution = solve_temperature(
        jnp.array([1.0 if anchor.budget is None else anchor.budget for anchor in anchors]),
        advantages,
        ratios,
        divergences=tuple(anchor.divergence for anchor in anchors),
        prices=tuple(anchor.coefficient for anchor in anchors),
        axis=-1,
    )
    return jnp.maximum(solution.coefficients, SMALLEST)


def _check(spec: GempiSpec) -> None:
    where = "em_policy_iteration"
    require(
        bool(spec.anchors), f"{where}: the spec has no anchors; give Anchor('old', ...), Anchor('ref', ...) or both."
    )
    for anchor in spec.anchors:
        require(
            anchor.policy in ("old", "ref"),
            f"{where}: the spec has an anchor {anchor.policy!r}; a table knows 'old', pi_k, and 'ref'.",
        )
        require(
            anchor.policy == "old" or anchor.coefficient is not None,
            f"{where}: 'ref' has a budget of {anchor.budget}: its price would be another in every iteration, and with "
            "it what is optimised; give it a coefficient.",
        )
    for name, kinds in (
        ("temperature", (Fixed, Solved)),
        ("filter", (Identity,)),
        ("projection", (Unconstrained,)),
        ("transform", (Given,)),
        ("weighting", (Tilted,)),
    ):
        value = getattr(spec, name)
        require(
            isinstance(value, kinds),
            f"{where}: the spec's {name} is {value}; an exact iteration has {' or '.join(k.__name__ for k in kinds)}.",
        )


__all__ = ["Iterates", "em_policy_iteration"]
