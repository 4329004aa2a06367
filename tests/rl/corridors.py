"""A corridor twice, in JAX and in numpy by hand: the same dynamics for what should not tell them apart."""

import jax.numpy as jnp
import numpy as np

from gempi_jax.rl import Discrete, Environment, HostEnvironment, TimeStep, episodic

END = 3
"""The cell that ends an episode, which begins in cell 0."""


def corridor(max_episode_steps: int = 4) -> Environment:
    """Action 1 goes on, 0 stays; the fourth cell ends the episode, and each step earns the cell's number."""

    def reset(key):
        return jnp.int32(0), jnp.zeros(2)

    def transition(key, cell, action):
        cell = cell + action
        return cell, jnp.stack([cell * 0.5, jnp.float32(1.0)]), cell * 1.0, cell >= END

    return episodic(
        "corridor",
        observation_shape=(2,),
        actions=Discrete(2),
        max_episode_steps=max_episode_steps,
        reset=reset,
        transition=transition,
    )


class HostCorridor:
    """The same, in arrays that are written anew at each step; one instance may give a NaN or raise at a step."""

    name, observation_shape, actions = "corridor on the host", (2,), Discrete(2)

    def __init__(self, num_envs: int, max_episode_steps: int = 4, failing: str = "", victim: int = 1, at: int = 0):
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.reward, self.terminated = np.zeros(num_envs, np.float32), np.zeros(num_envs, bool)
        self.failing, self.victim, self.at, self.steps, self.closed = failing, victim, at, 0, False

    def reset(self):
        self.cells, self.elapsed = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        return np.zeros((self.num_envs, 2))

    def step(self, actions):
        fails = self.steps == self.at
        if fails and self.failing == "raises":
            raise ZeroDivisionError("by a wheel")
        self.steps += 1
        self.cells += actions
        self.elapsed += 1
        self.reward[:] = self.cells
        final = np.stack([self.cells * 0.5, np.ones(self.num_envs)], axis=1)
        if fails and self.failing == "reward":
            self.reward[self.victim] = np.nan
        if fails and self.failing == "observation":
            final[self.victim, 1] = np.nan
        self.terminated[:] = self.cells >= END
        truncated = (self.elapsed >= self.max_episode_steps) & ~self.terminated
        ended = self.terminated | truncated
        self.cells[ended], self.elapsed[ended] = 0, 0
        return TimeStep(np.where(ended[:, None], 0.0, final), self.reward, self.terminated, truncated, final)

    def explain(self, error):
        return self.victim, f"{type(error).__name__}: {error}"

    def close(self):
        self.closed = True


def host_corridor(num_envs: int, **options) -> HostEnvironment:
    """Instances of it."""
    return HostEnvironment(HostCorridor(num_envs, **options))
