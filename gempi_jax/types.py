"""Aliases, and the one glossary of axis letters and names that the whole package keeps to.

Axes (upper case in jaxtyping annotations and docstrings):

======  ==========================================================================================
``*E``  any example shape: [G, K] responses to prompts, [T, B] steps of an unroll, [N] a flat batch
``m``   anchors of the E-step
``G``   groups: prompts, or states
``K``   samples of a group
``P``   prompt positions (right-padded)
``C``   completion positions (right-padded)
``L``   likelihood terms of one example: the tokens of a completion, 1 for an action
``V``   vocabulary, or discrete actions
``D``   width of the hidden state
``T``   time steps of an unroll;  ``B``  parallel environments
======  ==========================================================================================

One quantity, one name: ``log_probs`` (natural logarithm), ``advantages``, ``weights``, ``coefficients`` (lambda),
``temperature`` (their sum, Lambda), ``budgets`` (epsilon), ``discounts``, ``key``.
"""

from typing import Any

import jax

Array = jax.Array
Params = Any
"""A pytree of arrays: the parameters of a Flax module."""

Duals = dict[str, Array]
"""Lagrange multipliers by name; ``{}`` when nothing adapts."""
