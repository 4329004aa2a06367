"""Pictures of a state for those who watch: coloured cells, uint8 [H, W, 3]."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from gempi_jax.types import Array

SCALE = 16  # pixels along the side of a cell

# Background, then colours that are told apart on a screen and by those who see few.
PALETTE = np.asarray(
    [
        (250, 250, 250),
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (213, 94, 0),
        (86, 180, 233),
        (240, 228, 66),
        (90, 90, 90),
        (160, 130, 90),
        (30, 30, 30),
    ],
    np.uint8,
)
BACKGROUND, BLUE, ORANGE, GREEN, PINK, RED, SKY, YELLOW, GREY, BROWN, BLACK = range(len(PALETTE))


def cells(colours: Int[Array, "H W"]) -> UInt8[Array, "h w 3"]:
    """A board whose cells have the colours of :data:`PALETTE` by number."""
    board = jnp.repeat(jnp.repeat(colours, SCALE, 0), SCALE, 1)
    inside = (jnp.arange(board.shape[0]) % SCALE > 0)[:, None] & (jnp.arange(board.shape[1]) % SCALE > 0)[None]
    return jnp.where(inside[..., None], jnp.asarray(PALETTE)[board], jnp.uint8(200))


def channels(observation: Float[Array, "H W C"]) -> UInt8[Array, "h w 3"]:
    """A board of features, each cell in the colour of the last feature that is on there."""
    on = observation > 0.5
    numbers = 1 + jnp.arange(observation.shape[-1]) % (len(PALETTE) - 1)
    return cells(jnp.max(jnp.where(on, numbers, BACKGROUND), axis=-1))
