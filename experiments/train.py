"""Trains what a config describes.

    python -m experiments.train --config=FILE[:arg] --workdir=DIR [--config.key=value ...]

Started again with the same command, a run goes on where it was; with another config, its workdir is refused.
The exit status is 0 for a run that is done; 75 for one that was told to stop and goes on when it is started again, so
that ``train && next`` takes no half for a whole; 2 for a mistake in the command, the config,
the data or a reward, in one line; 1 for a run that failed.
"""

import sys

from absl import app, flags

_CONFIG = flags.DEFINE_string("config", None, "The run, e.g. configs/llm/arithmetic.py:vmpo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything of the run goes.")


def main(argv: list[str]) -> int:
    """Runs; ``argv`` are the arguments that are no flags, the settings among them."""
    # Not above: processes that a reward starts afresh import this file too, and this takes seconds.
    from experiments import launch

    return launch.launch(_CONFIG.value, _WORKDIR.value, argv[1:])


def parse(argv: list[str]) -> list[str]:
    """Reads the flags and leaves the settings; what is wrong with them is said in one line, exit status 2."""
    try:
        flags.FLAGS.set_gnu_getopt(True)
        return flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv], known_only=True)
    except (flags.Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:
        print("stopped before the run began", file=sys.stderr)
        sys.exit(130)
