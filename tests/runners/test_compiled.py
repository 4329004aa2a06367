"""Where compiled programs of earlier runs are kept."""

import os
import subprocess
import sys

import pytest

COMPILE = """
import jax
from gempi_jax.runners.compiled import keep_compiled
print(keep_compiled())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(1.0)
"""


def said(tmp_path, **environment):
    """What a fresh process says of its folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment = kept | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def test_the_users_cache_holds_what_was_compiled(tmp_path):
    folder, errors = said(tmp_path)
    assert folder.startswith(str(tmp_path / "gempi_jax"))
    assert not errors
    programs = [name for name in os.listdir(folder) if name.startswith("jit_")]
    assert programs
    assert said(tmp_path) == (folder, "")
    assert sorted(programs) == sorted(name for name in os.listdir(folder) if name in programs)


@pytest.mark.parametrize(
    "environment",
    [{"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"JAX_COMPILATION_CACHE_DIR": "/nowhere"}, {"XDG_CACHE_HOME": "/proc"}],
)
def test_one_setting_switches_it_off(environment, tmp_path):
    assert said(tmp_path, **environment)[0] == "None"
    assert not (tmp_path / "gempi_jax").exists()
