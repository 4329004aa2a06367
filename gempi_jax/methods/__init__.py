"""Named algorithms: each a few lines over the tuple."""

from gempi_jax.methods.awr import awr
from gempi_jax.methods.base import Critic, Method, Needs, TrustRegion
from gempi_jax.methods.critic import with_critic, with_entropy
from gempi_jax.methods.dar import at_dar, dar, dar_tr, top_k_dar
from gempi_jax.methods.gempi import Fit, from_spec
from gempi_jax.methods.policy_gradient import dr_grpo, grpo, reinforce, rloo
from gempi_jax.methods.ppo import ppo, ppo_sequence
from gempi_jax.methods.regression import a_star_po, gvpo, oapl, opmd, qrpo, rebel, tba
from gempi_jax.methods.rl_em import rl_em
from gempi_jax.methods.sft import sft
from gempi_jax.methods.table import METHODS
from gempi_jax.methods.vmpo import vmpo

__all__ = [
    "METHODS",
    "Critic",
    "Fit",
    "Method",
    "Needs",
    "TrustRegion",
    "a_star_po",
    "at_dar",
    "awr",
    "dar",
    "dar_tr",
    "dr_grpo",
    "from_spec",
    "grpo",
    "gvpo",
    "oapl",
    "opmd",
    "ppo",
    "ppo_sequence",
    "qrpo",
    "rebel",
    "reinforce",
    "rl_em",
    "rloo",
    "sft",
    "tba",
    "top_k_dar",
    "vmpo",
    "with_critic",
    "with_entropy",
]
