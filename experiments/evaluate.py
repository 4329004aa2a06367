"""Plays episodes of the policies that a run in environments has learnt, and draws one.

    python -m experiments.evaluate runs/cartpole [--episodes=100] [--gif=cartpole.gif --run-seed=0]

The latest checkpoint is read; actions are the policy's most likely ones.  Prints a table, one row for each seed.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from experiments.make_report import folder
from gempi_jax.report.tables import Table, number, to_markdown
from gempi_jax.rl import HostEnvironment
from gempi_jax.rl.play import film, play
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.controlbuild import build_run
from gempi_jax.runners.controlparts import Control
from gempi_jax.runners.controlrun import ControlRun, open_checkpoints
from gempi_jax.runners.settings import ControlSettings, MeshSettings
from gempi_jax.training import sharding
from gempi_jax.training.state import TrainState

SECONDS_PER_FRAME = 0.08
SECONDS_AT_THE_END = 1.0
SMALLEST = 160  # pixels along the shorter side, as long as
LONGEST = 1200  # pixels are enough for the longer one


def load(workdir: pathlib.Path) -> tuple[ControlSettings, Control, TrainState]:
    """A run's settings, what it is made of, and its latest state; axis 0 is the seed.

    Raises:
      ValueError: it is no run in environments, or has no checkpoint.
    """
    file = workdir / "config.json"
    if not file.is_file():
        raise ValueError(f"{workdir} holds no config.json: give the workdir of a run")
    settings = settings_from_config(json.loads(file.read_text()))
    if not isinstance(settings, ControlSettings):
        raise ValueError(f"{workdir} is the run of a language model: its report has what it was judged by")
    # On one device, however many it was trained on.
    settings = dataclasses.replace(settings, mesh=MeshSettings())
    parts = build_run(settings)
    if isinstance(parts.control.environment, HostEnvironment):
        raise ValueError(f"{workdir} is a run on the host, whose episodes its report shows")
    made = ControlRun(settings, parts, sharding.make_mesh(dataclasses.asdict(settings.mesh)))
    restored = open_checkpoints(settings, workdir).restore_latest(made.template())
    if restored is None:
        raise ValueError(f"{workdir} has no checkpoint yet: let the run go on to its first")
    return settings, parts.control, restored.state


def results(control: Control, state: TrainState, episodes: int, key_seed: int) -> Table:
    """Mean return with its standard error, and mean length, of each seed."""
    key = jax.random.key(key_seed)
    run = jax.jit(jax.vmap(lambda params: play(control.agent, control.environment, params, key, episodes)))
    played = jax.device_get(run(state.params))
    rows = []
    for seed, (returns, lengths) in enumerate(zip(played.returns, played.lengths, strict=True)):
        error = np.std(returns, ddof=1) / np.sqrt(episodes) if episodes > 1 else float("nan")
        rows.append(
            (str(seed), f"{number(float(returns.mean()))} ± {number(float(error), 2)}", number(float(lengths.mean())))
        )
    return Table(("seed", f"return, mean of {episodes} episodes ± standard error", "steps"), rows)


def draw(control: Control, params: Any, key_seed: int, path: pathlib.Path) -> int:
    """Writes one episode as a GIF; returns its number of steps.

    Raises:
      ValueError: the environment has no pictures.
    """
    render = control.environment.render
    if render is None:
        raise ValueError(f"--gif: {control.environment.name} has no pictures")
    states, length = jax.jit(lambda params, key: film(control.agent, control.environment, params, key))(
        params, jax.random.key(key_seed)
    )
    shown = max(1, int(length))  # the state after the last step is the next episode's first
    frames = [Image.fromarray(np.asarray(render(jax.tree.map(lambda x, i=i: x[i], states)))) for i in range(shown)]
    scale = max(1, min(SMALLEST // min(frames[0].size), LONGEST // max(frames[0].size)))
    frames = [frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.NEAREST) for frame in frames]
    times = [int(1000 * SECONDS_PER_FRAME)] * (shown - 1) + [int(1000 * SECONDS_AT_THE_END)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
    return int(length)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the picture; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=folder, help="of a run")
    parser.add_argument("--episodes", type=int, default=100, help="of each seed")
    parser.add_argument("--gif", type=folder, metavar="FILE", help="draws one episode")
    parser.add_argument("--run-seed", type=int, default=0, help="which of the run's seeds is drawn, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    options = parser.parse_args(arguments)
    try:
        if options.episodes < 1:
            raise ValueError(f"--episodes={options.episodes}: give at least 1")
        settings, control, state = load(options.workdir)
        if not 0 <= options.run_seed < settings.num_seeds:
            raise ValueError(f"--run-seed={options.run_seed}: the run has seeds 0 to {settings.num_seeds - 1}")
        print(to_markdown(results(control, state, options.episodes, options.seed)))
        if options.gif is not None:
            params = jax.tree.map(lambda x: x[options.run_seed], state.params)
            length = draw(control, params, options.seed, options.gif)
            print(f"{options.gif}: an episode of {length} steps")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
