"""One strict session for all tests: checked shapes, no silent rank promotion, warnings are errors."""

import os
import pathlib
import tempfile

# Before jax starts: eight CPU devices, so that every test may build a mesh, and one thread each, so that files run in
# parallel without fighting for cores.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("gempi_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# Whole runs in this process compile the same stages again and again; each worker does it once, in a folder of its own,
# since one that writes an entry while another reads it would be a warning.
_compiled = tempfile.TemporaryDirectory(prefix="gempi_jax-compiled-")
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Compiling inside an example takes longer than any useful deadline; the same examples run every time.
settings.register_profile("repository", deadline=None, max_examples=25, derandomize=True, database=None)
# For what only asks whether everything still runs: the newest versions of what we depend on.
settings.register_profile("few", settings.get_profile("repository"), max_examples=6)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repository"))


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real inputs beside the checkout."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def random_params():
    """Makes parameters of a decoder without compiling its initialiser; norms and biases are random too."""

    def make(model, scale=0.3, seed=0):
        generator = np.random.default_rng(seed)

        def draw(path, leaf):
            centre = 1.0 if path[-1].key == "scale" else 0.0
            width = scale if len(leaf.shape) > 1 else 0.1
            return jnp.asarray(centre + width * generator.normal(size=leaf.shape), leaf.dtype)

        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
        return jax.tree_util.tree_map_with_path(draw, shapes)

    return make
