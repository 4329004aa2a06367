"""What a device can do at most: by its maker's figures where its name is known, else as measured in the same run."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Peak(NamedTuple):
    """FLOP/s of bfloat16 matrix products, bytes/s of memory, and where the figures are from."""

    flops: float
    bandwidth: float
    source: str


MAKERS = {
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100": (989e12, 3.35e12),
    "A100-SXM4-80GB": (312e12, 2.04e12),
    "A100": (312e12, 1.56e12),
    "L40S": (362e12, 0.864e12),
    "L4": (121e12, 0.3e12),
    "RTX 4090": (165e12, 1.01e12),
    "TPU v6 lite": (918e12, 1.64e12),
    "TPU v5 lite": (197e12, 0.819e12),
    "TPU v5p": (459e12, 2.77e12),
    "TPU v4": (275e12, 1.23e12),
}
"""Dense, without sparsity; the first name that is part of the device's own."""


def peak(device: jax.Device, dtype: jnp.dtype = jnp.bfloat16, width: int = 2048) -> Peak:
    """Of a device.

    Args:
      device: on which the default backend computes.
      dtype: of the products, where they are measured.
      width: of the square matrices that are multiplied, where they are measured.
    """
    for name, figures in MAKERS.items():
        if name in device.device_kind:
            return Peak(*figures, f"maker's figures of {name}")
    square, line = jnp.ones((width, width), dtype), jnp.ones((16 * 2**20,), jnp.float32)
    flops = 2 * width**3 / _seconds(jax.jit(jnp.matmul), square, square)
    return Peak(flops, 2 * line.nbytes / _seconds(jax.jit(lambda x: x + 1), line), f"measured, {device.device_kind}")


def _seconds(function, *args) -> float:
    """The least of some calls."""
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - begin)
    return min(times[1:])
