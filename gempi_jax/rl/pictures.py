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
    return _framed(jnp.asarray(PALETTE)[colours])


def channels(observation: Float[Array, "H W C"]) -> UInt8[Array, "h w 3"]:
    """A board of features, each cell in the colour of the last feature that is on there."""
    on = observation > 0.5
    numbers = 1 + jnp.arange(observation.shape[-1]) % (len(PALETTE) - 1)
    return cells(jnp.max(jnp.where(on, numbers, BACKGROUND), axis=-1))


def values(numbers: Float[Array, "H W"]) -> UInt8[Array, "h w 3"]:
    """A board of numbers: the more they are the bluer, the less than 0 the redder."""
    strength = jnp.tanh(jnp.abs(numbers))[..., None]
    full = jnp.asarray(PALETTE)[jnp.where(numbers > 0, BLUE, RED)]
    empty = jnp.asarray(PALETTE)[jnp.full_like(numbers, BACKGROUND, jnp.int32)]
    return _framed(jnp.uint8((1 - strength) * empty + strength * full))


def rods(ends: Float[Array, "N 4"], colours: tuple[int, ...]) -> UInt8[Array, "160 240 3"]:
    """Thick lines from (x, y) to (x, y), in a field of x from -1.5 to 1.5 and y, upwards, from -1 to 1."""
    x, y = jnp.meshgrid(jnp.linspace(-1.5, 1.5, 240), jnp.linspace(1.0, -1.0, 160))
    picture = jnp.full((160, 240, 3), PALETTE[BACKGROUND])
    for (x0, y0, x1, y1), colour in zip(ends, colours, strict=True):
        along = jnp.square(x1 - x0) + jnp.square(y1 - y0)
        part = jnp.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / along, 0.0, 1.0)
        distance = jnp.hypot(x - x0 - part * (x1 - x0), y - y0 - part * (y1 - y0))
        picture = jnp.where((distance < 0.05)[..., None], jnp.asarray(PALETTE[colour]), picture)
    return picture


def _framed(board: UInt8[Array, "H W 3"]) -> UInt8[Array, "h w 3"]:
    """Cells of one colour each, with lines between them."""
    board = jnp.repeat(jnp.repeat(board, SCALE, 0), SCALE, 1)
    inside = (jnp.arange(board.shape[0]) % SCALE > 0)[:, None] & (jnp.arange(board.shape[1]) % SCALE > 0)[None]
    return jnp.where(inside[..., None], board, jnp.uint8(200))
