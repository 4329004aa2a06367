"""EQUATIONS.md cannot rot: its numbers are complete, its functions exist, its tests exist."""

import functools
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "EQUATIONS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "---" not in line
]
ROWS = [row for row in ROWS if row[-1] not in ("test", "experiment")]


def exists(name: str) -> bool:
    """Whether ``gempi_jax.<name>`` can be imported."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["gempi_jax", *parts[:split]]))
        except ModuleNotFoundError:
            continue
        try:
            functools.reduce(getattr, parts[split:], module)
        except AttributeError:
            return False
        return True
    return False


def test_every_number_has_a_row():
    numbers = {int(n) for row in ROWS for n in re.findall(r"^\((\d+)\)", row[0])}
    assert numbers == set(range(1, 30))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_row(row):
    _, where, test = row
    if test:
        path, name = re.fullmatch(r"`(.+)::(\w+)`", test).groups()
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"tests/{path} has no {name}"
    else:
        assert where.startswith("*"), f"{row[0]} names no test"
    if where.startswith("`"):
        assert exists(where.strip("`")), f"gempi_jax.{where} cannot be imported"
