"""Environments for gymnasium that fail, each in its own way; importing this registers them."""

import os

import gymnasium
import numpy as np


class Counting(gymnasium.Env):
    """Observes [its seed's remainder by ten, steps taken]; what happens at the third step is up to ``fate``."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def __init__(self, fate=None, victim=1):
        self.fate, self.victim = fate, victim

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.number = seed % 10
        self.steps = 0
        return np.asarray([self.number, 0], np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = float(action)
        seen = np.asarray([self.number, self.steps], np.float32)
        if self.steps == 3 and self.number == self.victim:
            if self.fate == "raises":
                raise ZeroDivisionError("by a wheel")
            if self.fate == "exits":
                os._exit(7)
            if self.fate == "reward":
                reward = float("nan")
            if self.fate == "observation":
                seen[1] = np.inf
        return seen, reward, False, False, {}


class Picture(gymnasium.Env):
    """Sees bytes, and acts in ways that are not served."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 2, 1), np.uint8)
    action_space = gymnasium.spaces.MultiDiscrete([2, 2])


gymnasium.register("gempi/Counting-v0", entry_point=Counting, max_episode_steps=4)
gymnasium.register("gempi/Picture-v0", entry_point=Picture)
