"""Importing the objects that a user names in a configuration or on the command line: tools, reward functions."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from mentor_edge.errors import did_you_mean


def import_object(spec: str) -> Any:
    """Import the object `spec`: "package.module:name", "package.module.name" or "file.py:name".

    The working directory is searched for modules, too, and the file's own directory for a file's imports.

    Raises: ValueError with the reason: a malformed spec, a module that cannot be imported, a missing name.
    """
    module_name, _, name = spec.rpartition(":") if ":" in spec else spec.rpartition(".")
    if not module_name or not name:
        raise ValueError(f"{spec!r} does not name an object: write package.module:name or file.py:name")
    try:
        module = _module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it loads
        raise ValueError(f"cannot import {module_name}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        own = [key for key in vars(module) if not key.startswith("_")]
        raise ValueError(f"{module_name} has no {name!r}{did_you_mean(name, own)}")
    return getattr(module, name)


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        with _searched(Path.cwd()):
            return importlib.import_module(name)
    path = Path(name).resolve()
    # Named by its path: named by its stem, the file could replace a module of the standard library.
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        with _searched(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextmanager
def _searched(directory: Path) -> Iterator[None]:
    """Put `directory` on the import path, as `python script.py` does."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(directory))
