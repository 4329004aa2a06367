"""Environments on the host: episodes one after another, as elsewhere; failures that say whose, when and what."""

import numpy as np
import pytest

from gempi_jax.rl import Continuous, Discrete, EnvironmentFailed, HostEnvironment, TimeStep, make, require_finite

COUNTING = "gymnasium/tests.rl.gym_cases:gempi/Counting-v0"


def three_steps(environment):
    for _ in range(3):
        environment.step(np.zeros(2, int))


def test_a_time_out_leaves_its_last_observation():
    pytest.importorskip("gymnasium")
    with make(COUNTING, num_envs=3, seed=10) as environment:
        assert environment.observation_shape == (2,)
        assert environment.actions == Discrete(2)
        assert environment.max_episode_steps == 4
        np.testing.assert_array_equal(environment.reset(), [[0, 0], [1, 0], [2, 0]])
        seen = [environment.step(np.asarray([0, 1, 1])) for _ in range(5)]
    # Gymnasium's actions are 5 and 6 there, ours 0 and 1; the reward tells which came through.
    np.testing.assert_array_equal(seen[0].reward, [5, 6, 6])
    np.testing.assert_array_equal([step.truncated[0] for step in seen], [False, False, False, True, False])
    assert not any(step.terminated.any() for step in seen)
    np.testing.assert_array_equal([step.final_observation[1, 1] for step in seen], [1, 2, 3, 4, 1])
    np.testing.assert_array_equal([step.observation[1, 1] for step in seen], [1, 2, 3, 0, 1])
    assert {array.dtype for step in seen for array in step} == {np.dtype(np.float32), np.dtype(bool)}


def test_cart_pole_is_gymnasiums_own():
    gymnasium = pytest.importorskip("gymnasium")
    actions = np.random.default_rng(0).integers(0, 2, (40, 2))
    one = gymnasium.make("CartPole-v1")
    expected = [one.reset(seed=4)[0]]
    with make("gymnasium/CartPole-v1", num_envs=2, seed=3) as environment:
        np.testing.assert_allclose(environment.reset()[1], expected[-1], rtol=1e-6)
        terminations = 0
        for action in actions:
            now = environment.step(action)
            seen, reward, terminated, _, _ = one.step(action[1])
            np.testing.assert_allclose(now.final_observation[1], seen, rtol=1e-6)
            assert (now.reward[1], now.terminated[1]) == (reward, terminated)
            following = one.reset()[0] if terminated else seen
            np.testing.assert_allclose(now.observation[1], following, rtol=1e-6)
            terminations += terminated
    assert terminations


def test_envpool_begins_the_next_episode_in_the_same_step():
    pytest.importorskip("envpool")
    with make("envpool/CartPole-v1", num_envs=3, seed=1, max_episode_steps=9) as environment:
        assert (environment.observation_shape, environment.actions) == ((4,), Discrete(2))
        previous, elapsed, ends = environment.reset(), np.zeros(3, int), np.zeros(2, int)
        for t in range(40):
            # The middle one alternates and is cut off, the others fall.
            now = environment.step(np.asarray([0, t % 2, 1]))
            elapsed += 1
            # Euler's step: x' = x + 0.02 v of the state before, of the episode that the action belongs to.
            np.testing.assert_allclose(now.final_observation[:, 0], previous[:, 0] + 0.02 * previous[:, 1], atol=1e-6)
            ended = now.terminated | now.truncated
            assert not (now.terminated & now.truncated).any()
            np.testing.assert_array_equal(now.truncated, (elapsed == 9) & ~now.terminated)
            np.testing.assert_array_equal(now.observation[~ended], now.final_observation[~ended])
            assert np.abs(now.observation[ended]).max(initial=0) <= 0.05  # as an episode begins
            np.testing.assert_array_equal(now.reward, 1.0)
            previous, elapsed = now.observation, np.where(ended, 0, elapsed)
            ends += [now.terminated.sum(), now.truncated.sum()]
    assert (ends > 0).all()


def test_half_cheetah_runs_and_repeats():
    pytest.importorskip("envpool")

    def run():
        with make("envpool/HalfCheetah-v4", num_envs=2, seed=5, max_episode_steps=3) as environment:
            assert environment.actions == Continuous((6,), (-1.0,) * 6, (1.0,) * 6)
            assert environment.max_episode_steps == 3
            first = environment.reset()
            return first, [environment.step(np.full((2, 6), 0.3 * t)) for t in range(4)]

    first, steps = run()
    again, repeated = run()
    np.testing.assert_array_equal(first, again)
    for step, other in zip(steps, repeated, strict=True):
        for ours, theirs in zip(step, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        [step.truncated for step in steps], [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    )
    assert steps[0].observation.shape == (2, 17)


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("raises", r"gempi/Counting-v0: instance 1 died at step 6: ZeroDivisionError: by a wheel\. .*last checkpoint"),
        ("reward", r"Counting-v0: instance 1 gave the reward nan at step 6; nothing was learnt from it"),
        ("observation", r"Counting-v0: instance 1 gave the observation inf at step 6"),
    ],
)
def test_a_failure_says_whose_when_and_what(fate, message):
    pytest.importorskip("gymnasium")
    # The episodes of four steps: the third step of the second one is the seventh of the run; the first is survived by
    # beginning with another number.
    with make(COUNTING, num_envs=2, fate=fate, victim=1) as environment:
        environment.reset()
        environment.driver._vector.envs[1].unwrapped.victim = None
        for _ in range(4):
            environment.step(np.zeros(2, int))
        environment.driver._vector.envs[1].unwrapped.victim = 1
        with pytest.raises(EnvironmentFailed, match=message) as failed:
            three_steps(environment)
    assert (failed.value.index, failed.value.step) == (1, 6)


@pytest.mark.filterwarnings("ignore:.*")  # gymnasium tells of its workers by warnings
@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("raises", "instance 1 died at step 2: ZeroDivisionError: by a wheel"),
        ("exits", "instance 1 died at step 2: its process ended with code 7"),
    ],
)
def test_the_failure_of_a_process_is_told_apart(fate, message):
    pytest.importorskip("gymnasium")
    with make(COUNTING, num_envs=2, processes=True, fate=fate) as environment:
        np.testing.assert_array_equal(environment.reset(), [[0, 0], [1, 0]])
        with pytest.raises(EnvironmentFailed, match=message):
            three_steps(environment)


class Slow:
    """A driver by hand: observes bytes, counts, and takes real actions."""

    name, num_envs, observation_shape, actions, max_episode_steps = "Slow", 2, (1,), Continuous((), -1.0, 1.0), None
    closed = False

    def reset(self):
        return np.zeros((2, 1), np.uint8)

    def step(self, actions):
        seen = np.full((2, 1), 51, np.uint8)
        return TimeStep(seen, np.float64(actions), np.asarray([True, False]), np.asarray([True, False]), seen)

    def explain(self, error):
        return None, str(error)

    def close(self):
        self.closed = True


def test_a_users_own_driver():
    driver = Slow()
    with HostEnvironment(driver) as environment:
        environment.reset()
        environment.send(np.asarray([-7.0, 0.5]))
        with pytest.raises(RuntimeError, match="a step is under way"):
            environment.send(np.zeros(2))
        now = environment.receive()
        with pytest.raises(RuntimeError, match="send actions first"):
            environment.receive()
    assert driver.closed
    np.testing.assert_array_equal(now.reward, [-1.0, 0.5])  # clipped
    np.testing.assert_allclose(now.observation, 0.2)
    np.testing.assert_array_equal(now.truncated, [False, False])


def test_the_first_step_that_is_no_number_is_named():
    rewards, seen = np.zeros((4, 3)), np.zeros((4, 3, 2))
    require_finite("World", 100, reward=rewards, observation=seen)
    rewards[3, 0], seen[2, 1, 1] = np.nan, -np.inf
    with pytest.raises(EnvironmentFailed, match="World: instance 1 gave the observation -inf at step 102") as failed:
        require_finite("World", 100, reward=rewards, observation=seen)
    assert (failed.value.index, failed.value.step) == (1, 102)


@pytest.mark.parametrize(
    ("package", "name", "options", "message"),
    [
        (
            "gymnasium",
            "gymnasium/CartPol-v1",
            {"num_envs": 1},
            "no environment 'CartPol-v1'; the nearest are 'CartPole-v1'",
        ),
        ("gymnasium", "gymnasium/CartPole-v1", {}, "gymnasium/CartPole-v1: give its option 'num_envs'"),
        ("gymnasium", "gymnasium/CartPole-v1", {"num_envs": 0}, "num_envs is 0; give at least one"),
        ("gymnasium", "gymnasium/CartPole-v1", {"num_envs": 1, "gravty": 1}, "cannot be made: TypeError: .*gravty"),
        (
            "gymnasium",
            "gymnasium/tests.rl.gym_cases:gempi/Picture-v0",
            {"num_envs": 1},
            "its actions are a MultiDiscrete",
        ),
        ("gymnasium", "gymnasium/ale_pi:ALE/Pong-v5", {"num_envs": 1}, "module 'ale_pi' cannot be imported: Module"),
        (
            "envpool",
            "envpool/HalfChetah-v4",
            {"num_envs": 1},
            "no environment 'HalfChetah-v4'; the nearest are 'HalfCheetah-v",
        ),
        ("envpool", "envpool/HalfCheetah-v4", {"num_envs": 0}, "num_envs is 0; give at least one"),
        ("envpool", "envpool/HalfCheetah-v4", {"num_envs": 1, "weight": 1}, "cannot be made: .*weight"),
    ],
)
def test_what_there_is_not_is_refused(package, name, options, message):
    pytest.importorskip(package)
    with pytest.raises(ValueError, match=message):
        make(name, **options)
