"""What an M-step fits beside the weighted likelihood: one file per family, each a frozen dataclass."""

from gempi_jax.methods.fits.group import Boltzmann, GroupSoftmax, PairLabels
from gempi_jax.methods.fits.preference import Preference

__all__ = ["Boltzmann", "GroupSoftmax", "PairLabels", "Preference"]
