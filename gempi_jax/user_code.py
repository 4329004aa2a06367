"""What users bring as code: their files as modules, and what becomes of anything that these raise."""

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import os
import pathlib
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_PREFIX = "gempi_jax_file_"
_loaded: dict[pathlib.Path, tuple[bytes, ModuleType]] = {}


def load_function(path: str, caller: str, error: type[Exception]) -> Callable[..., Any]:
    """The function that ``"package.module:function"`` or ``"folder/file.py:function"`` names.

    Args:
      path: module or file, and the function's name.
      caller: what errors start with.
      error: what is raised; it names what is missing, module, file or function, and the nearest that exists.
    """
    place, colon, name = path.rpartition(":")
    if not (colon and place and name):
        raise error(f"{caller}: {path!r} names no function; write 'package.module:function' or 'file.py:function'.")
    module = _from_file(place, caller, error) if place.endswith(".py") else _from_package(place, caller, error)
    function = getattr(module, name, None)
    if function is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        nearest = difflib.get_close_matches(name, public, n=1, cutoff=0.0)
        hint = f" (the nearest is {nearest[0]!r})" if nearest else ""
        raise error(f"{caller}: {place} has no function {name!r}{hint}; define it there or correct the name.")
    if not callable(function):
        raise error(f"{caller}: {path} is a {type(function).__name__}, no function; name a callable.")
    return function


def _from_file(place: str, caller: str, failure: type[Exception]) -> ModuleType:
    file = pathlib.Path(os.path.expanduser(place)).resolve()
    if not file.is_file():
        raise failure(f"{caller}: there is no file {file}; give the path from the current folder or a full one.")
    try:
        return import_file(file)
    except BaseException as error:
        let_through(error)
        raise failure(
            f"{caller}: {file} cannot be imported: {describe(error, file)}. It is imported, not run: "
            "what only a program of its own does belongs under if __name__ == '__main__'."
        ) from error


def _from_package(place: str, caller: str, failure: type[Exception]) -> ModuleType:
    try:
        with alone(place):
            return importlib.import_module(place)
    except BaseException as error:
        let_through(error)
        raise failure(
            f"{caller}: the module {place!r} cannot be imported: {describe(error)}. Start Python "
            "where it can be found, or give the path of its file."
        ) from error


def import_file(file: pathlib.Path) -> ModuleType:
    """A Python file as a module that processes started afresh (multiprocessing's ``spawn``) can import, too.

    Its folder joins the end of ``sys.path``, as if Python had been started there, and the module has the file's name.
    Where something else has that name already, the module has one of its own, under which a short file elsewhere on the
    path leads other processes here.  A file that has not changed since it was imported is the same module again.

    Args:
      file: its full path.

    Raises:
      BaseException: whatever the file raises, ``SystemExit`` included.
    """
    content = file.read_bytes()
    if file in _loaded and _loaded[file][0] == content:
        return _loaded[file][1]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    name = _name(file)
    before = sys.modules.get(name)
    if before is not None and file not in _loaded:
        return before  # imported by another of the user's files
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a module up by its name
    try:
        with alone(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[file] = content, module
    return module


def _name(file: pathlib.Path) -> str:
    """The file's own name, or where that is another module's, a new one that leads to the file."""
    try:
        found = importlib.util.find_spec(file.stem) if "." not in file.stem else file
    except ValueError:  # __main__
        found = file
    origin = getattr(found, "origin", "")
    if found is None or (origin and pathlib.Path(origin).resolve() == file):
        return file.stem
    name = f"{_PREFIX}{hashlib.sha1(str(file).encode()).hexdigest()[:12]}"
    (pathlib.Path(_signposts().name) / f"{name}.py").write_text(_SIGNPOST.format(file=str(file)), encoding="utf-8")
    return name


_SIGNPOST = """import importlib.util, sys
spec = importlib.util.spec_from_file_location(__name__, {file!r})
sys.modules[__name__] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


@functools.cache
def _signposts() -> tempfile.TemporaryDirectory:
    """A folder on ``sys.path``, which processes started afresh get from this one, for as long as this one lives."""
    folder = tempfile.TemporaryDirectory(prefix="gempi_jax-files-")
    sys.path.append(folder.name)
    return folder


@contextlib.contextmanager
def alone(file: pathlib.Path | str) -> Iterator[None]:
    """``sys.argv`` holds a user's file alone: code that reads options, here or in a new process, finds none of ours."""
    before, sys.argv = sys.argv, [str(file)]
    try:
        yield
    finally:
        sys.argv = before


def let_through(error: BaseException) -> None:
    """Raises a user's own Ctrl-C again; anything else that code raises is a failure of that code, exits included."""
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        raise error


def describe(error: BaseException, file: pathlib.Path | str = "") -> str:
    """One line: what was raised and, where it passed through ``file``, at which line of that."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines, text = [error.lineno], error.msg
    return f"{type(error).__name__}: {text}" + (f" (line {lines[-1]})" if lines else "")


def source_of(function: object) -> str:
    """The file of a function, or ``""`` where it has none."""
    return getattr(getattr(function, "__code__", None), "co_filename", "")


def module_of(function: object) -> str:
    """The module of a function, as a user would write it: the file, where the module's name is of our making."""
    name = getattr(function, "__module__", None) or "?"
    return pathlib.Path(source_of(function)).name if name.startswith(_PREFIX) else name
