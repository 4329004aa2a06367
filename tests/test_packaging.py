"""What `pip install .` brings along is what the package imports, at the versions that are tested."""

import ast
import functools
import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MATHEMATICS = ("em", "losses", "methods", "numerics")


def declared(*extras: str) -> dict[str, Requirement]:
    """The ranges of pyproject.toml by canonical name: those of a run, or those of extras."""
    lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    ranges = [Requirement(line) for line in (lines if extras else PROJECT["dependencies"])]
    return {canonicalize_name(one.name): one for one in ranges if one.name != PROJECT["name"]}


def pins(file: str) -> dict[str, str]:
    """The versions of a requirements file by canonical name, the first where it names a series (0.12.*)."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    exact = [Requirement(line) for line in lines if "==" in line]
    return {canonicalize_name(one.name): next(iter(one.specifier)).version.replace("*", "0") for one in exact}


@functools.cache
def imported() -> dict[str, str]:
    """Modules of third parties that the package imports, anywhere in a file, and a file that does."""
    found = {}
    for path in sorted((ROOT / "gempi_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, PROJECT["name"]}}


def test_every_import_is_declared():
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        name: path
        for name, path in imported().items()
        # Of several distributions with one module (orbax) any will do: the module's own import says which.
        if not {canonicalize_name(each) for each in distributions.get(name, [name])} & set(declared())
    }

    assert undeclared == {}


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("requirements.txt", ()),
        ("requirements-rl.txt", ("environments",)),
        ("requirements-dev.txt", ("tests", "data", "envpool")),
    ],
    ids=["run", "control", "tests"],
)
def test_whatever_is_declared_is_pinned_within_its_range(file, extras):
    ranges, versions = declared(*extras), pins(file)

    assert ranges.keys() == versions.keys()
    assert [str(ranges[name]) for name, version in versions.items() if version not in ranges[name].specifier] == []


def test_the_newest_versions_that_are_tested_lie_within_the_ranges():
    ranges, versions = declared() | declared("tests", "data"), pins("requirements-latest.txt")

    assert {"jax", "flax", "transformers"} <= versions.keys() <= ranges.keys()
    assert [str(ranges[name]) for name, version in versions.items() if version not in ranges[name].specifier] == []


def test_the_mathematics_is_imported_without_networks_optimisers_and_tokenizers():
    light = {"jax", "jaxtyping", "numpy"}
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(imported().keys() - light - {"ml_dtypes"})}))
from gempi_jax import {", ".join(MATHEMATICS)}
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
