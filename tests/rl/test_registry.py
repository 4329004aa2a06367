"""Environments by name: a user's own, and names and options that there are not."""

import pytest

from gempi_jax.rl import make, registry

MINE = """
import jax.numpy as jnp
from gempi_jax.rl import Discrete, episodic

def environment(goal=3):
    return episodic("Mine", observation_shape=(1,), actions=Discrete(2), max_episode_steps=goal,
                    reset=lambda key: (0, jnp.zeros(1)),
                    transition=lambda key, n, action: (n + action, jnp.zeros(1), 0.0, False))

def number():
    return 3
"""


def test_a_users_own_environment(tmp_path):
    (tmp_path / "world_of_mine.py").write_text(MINE)
    path = str(tmp_path / "world_of_mine.py")
    assert make(f"{path}:environment").name == "Mine"
    assert make("world_of_mine:environment", goal=7).max_episode_steps == 7
    with pytest.raises(ValueError, match=r"has no function 'enviroment' \(the nearest is 'environment'\)"):
        make(f"{path}:enviroment")
    with pytest.raises(ValueError, match=r"number returned a int; return an Environment"):
        make(f"{path}:number")
    with pytest.raises(ValueError, match=r"with options {'gaol': 3} raised TypeError: .*'gaol'"):
        make(f"{path}:environment", gaol=3)


def test_names_that_there_are_not():
    pytest.importorskip("gymnax")
    with pytest.raises(ValueError, match="no environment 'cartpol-v1'; the nearest are 'CartPole-v1'"):
        make("cartpol-v1")
    with pytest.raises(ValueError, match="CartPole-v1: there is no option 'gravty'; there are force_mag, gravity, "):
        make("CartPole-v1", gravty=3.0)


def test_no_time_is_refused_everywhere():
    for name in ("TMaze", "Numpad", "ProofofMemory"):
        with pytest.raises(ValueError, match="max_episode_steps is 0; an episode has at least one step"):
            make(name, max_episode_steps=0)
    pytest.importorskip("gymnax")
    with pytest.raises(ValueError, match="max_episode_steps is 0"):
        make("CartPole-v1", max_episode_steps=0)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def absent():
        raise ImportError

    monkeypatch.setattr(registry, "_PACKAGES", {"gymnax": (absent, None)})
    with pytest.raises(ValueError, match=r"may have it: gymnax: pip install 'gempi_jax\[environments\]'"):
        make("CartPole-v1")
