"""What the design promises about the code's shape."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("gempi_jax", "experiments", "configs") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def run(*command: str) -> None:
    """Runs a tool of this environment in the checkout; what it prints is the failure's text."""
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_keep_to_their_floors():
    pytest.importorskip("importlinter")
    run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-logo", "--no-cache")


@pytest.mark.parametrize("check", [("check",), ("format", "--check")], ids="-".join)
def test_ruff_is_content(check):
    pytest.importorskip("ruff")
    run("-m", "ruff", *check, "--no-cache", ".")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_fit_on_a_few_screens(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = {node.name: lines for node in functions if (lines := _lines_of_code(node)) > 50}

    assert len(text.splitlines()) <= 250, "split the file"
    assert not long, "split these functions"


@pytest.mark.parametrize("path", [path for path in SOURCES if relative(path).startswith("gempi_jax")], ids=relative)
def test_whatever_is_public_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]

    assert ast.get_docstring(tree) or not tree.body, "say in the first line what the file is for"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_collectives_are_named_in_one_file():
    collectives = {"psum", "pmean", "pmax", "pmin", "all_gather", "all_to_all", "ppermute", "psum_scatter"}
    users = {
        relative(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in collectives
    }

    assert users <= {"gempi_jax/numerics/reductions.py"}


def test_only_runners_and_experiments_compile():
    users = {
        relative(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"jit", "pmap"} and ast.unparse(node.value) == "jax"
    }

    # A state is born in its shards, which takes a compiled initialiser.
    allowed = ("gempi_jax/runners/", "experiments/", "gempi_jax/training/sharding.py")
    assert [user for user in sorted(users) if not user.startswith(allowed)] == []


def test_nothing_is_left_to_do():
    marks = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    found = [
        f"{relative(path)}: {mark}"
        for path in SOURCES + TESTS
        for mark in marks
        if mark in path.read_text(encoding="utf-8")
    ]

    assert found == []


def _lines_of_code(function: ast.FunctionDef) -> int:
    """Without the docstring."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    hidden = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - hidden
