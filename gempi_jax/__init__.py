"""gempi_jax: language models adapted by expectation-maximisation.

SFT, AWR, V-MPO, MPO, DAR, RL-EM and their combinations are settings of one tuple (:class:`gempi_jax.em.GempiSpec`), so
there is one E-step, one M-step and one training step; a method is a value of a few lines (:mod:`gempi_jax.methods`).
"""

__version__ = "0.1.0"
