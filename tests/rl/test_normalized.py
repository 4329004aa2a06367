"""Normalised observations: moments of all that was seen, in any order of steps; what is not finite is not hidden."""

import numpy as np
import pytest

from gempi_jax.rl import Discrete, EnvironmentFailed, HostEnvironment, TimeStep, normalized


class Told:
    """Two instances that observe what they are told, [T, 2, 1]; the first episode ends at its second step."""

    name, num_envs, observation_shape, actions, max_episode_steps = "Told", 2, (1,), Discrete(2), None

    def __init__(self, observations):
        self.observations, self.at = np.asarray(observations, float)[..., None], 0

    def reset(self):
        return self.observations[0]

    def step(self, actions):
        self.at += 1
        now = self.observations[self.at]
        over = np.asarray([self.at == 2, False])
        return TimeStep(np.where(over[:, None], 0.0, now), np.zeros(2), over, np.zeros(2, bool), now)

    def explain(self, error):
        return None, str(error)

    def close(self):
        pass


SEEN = [[1.0, 3.0], [5.0, -2.0], [1e4, 4.0], [6.0, 0.0]]
"""At reset and three steps."""


def shown(environment, steps):
    return [environment.reset(), *(environment.step(np.zeros(2, int)) for _ in range(steps))]


def test_moments_are_those_of_all_that_was_seen():
    with normalized(HostEnvironment(Told(SEEN))) as environment:
        first, *steps = shown(environment, 3)
        # Mean 2, deviation 1.
        np.testing.assert_allclose(first[:, 0], [-1.0, 1.0])
        for number, step in enumerate(steps, 2):
            seen = np.asarray(SEEN[:number])
            expected = (seen[-1] - seen.mean()) / seen.std()
            np.testing.assert_allclose(step.final_observation[:, 0], expected, rtol=1e-5)
        seen = np.asarray(SEEN[:3])
        np.testing.assert_allclose(steps[1].observation[0, 0], (0.0 - seen.mean()) / seen.std(), rtol=1e-5)
        count, mean, variance = environment.carried
        np.testing.assert_allclose((count, mean[0], variance[0]), (8, np.mean(SEEN), np.var(SEEN)), rtol=1e-6)


def test_what_is_carried_goes_on_elsewhere():
    told = [[1.0, 3.0], [5.0, -2.0]]
    with normalized(HostEnvironment(Told(told))) as first, normalized(HostEnvironment(Told(told[::-1]))) as second:
        shown(first, 1)
        second.carried = first.carried
        np.testing.assert_allclose(np.ravel(second.carried[1:]), np.ravel(first.carried[1:]), rtol=1e-6)
        again, _ = shown(second, 1)
    all_seen = np.asarray([*told, told[1]])
    np.testing.assert_allclose(again[:, 0], (np.asarray(told[1]) - all_seen.mean()) / all_seen.std(), rtol=1e-5)


def test_plain_environments_carry_nothing():
    with HostEnvironment(Told(SEEN)) as environment:
        assert environment.carried == ()
        environment.carried = (1.0,)
        assert environment.carried == ()


def test_outliers_are_cut():
    with normalized(HostEnvironment(Told([[0.0, 0.0], [1.0, 50.0]])), limit=1.5) as environment:
        _, step = shown(environment, 1)
    # Mean 12.75, variance (2 * 12.75^2 + 11.75^2 + 37.25^2) / 4 = 462.6875: the last is 1.73 deviations off.
    np.testing.assert_allclose(step.observation[:, 0], [-11.75 / 462.6875**0.5, 1.5], rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value):
    with normalized(HostEnvironment(Told([[0.0, 1.0], [1.0, value]]))) as environment:
        environment.reset()
        with pytest.raises(EnvironmentFailed, match=f"Told: instance 1 gave the observation {value} at step 0"):
            environment.step(np.zeros(2, int))
