"""Streams of random numbers by name never meet each other, nor what their parent draws by number."""

import ast
import itertools
import pathlib

import jax
import numpy as np

import gempi_jax
from gempi_jax.numerics import named_key, named_seed

KEY = jax.random.key(0)


def bits(keys):
    return {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}


def test_numbers_alone_collide_and_names_do_not():
    # The fault that the names mend: fold_in(key, n) is split(key)[n].
    assert bits([jax.random.fold_in(KEY, 0)]) <= bits(jax.random.split(KEY))
    by_number = [*jax.random.split(KEY, 64), *(jax.random.fold_in(KEY, n) for n in range(64))]
    names = "rollout", "order", "dropout", "token", "chunk", "group", "prompt", "completions"
    by_name = [named_key(KEY, name) for name in names]
    below = [named_key(KEY, name, *numbers) for name in names for numbers in itertools.product(range(4), range(4))]
    assert not bits(by_number) & bits(by_name + below)
    assert len(bits(by_name + below)) == len(by_name) + len(below)


def test_a_stream_is_the_same_in_every_process():
    # blake2b(b"rollout", digest_size=4) and blake2b(b"7/phase/sft", digest_size=8), little-endian.
    expected = jax.random.fold_in(jax.random.fold_in(KEY, 1276925279), 3)
    assert bits([named_key(KEY, "rollout", 3)]) == bits([expected])
    assert named_seed(7, "phase/sft") == 2090936057480665695
    assert len({named_seed(seed, f"phase/{name}") for seed in range(-2, 3) for name in ("sft", "rl")}) == 10


def test_the_package_numbers_no_stream_by_itself():
    """Outside ``named_key`` nothing folds a number into a key, or splits one."""
    root = pathlib.Path(gempi_jax.__file__).parent
    uses = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("fold_in", "split") and "random" in ast.unparse(node):
                uses.append(path.relative_to(root).as_posix())
    assert set(uses) == {"numerics/keys.py"}
