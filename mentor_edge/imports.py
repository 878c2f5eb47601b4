"""Importing what a user names in a configuration or on the command line: a tool, a reward function."""

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
    """Import what `spec` names: "package.module:name", "package.module.name" or "file.py:name".

    Modules are also looked up in the working directory, those that a file imports in the file's directory.

    Raises: ValueError that says why when the spec is malformed, the module cannot be imported, or it has no such name.
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
    # Under its path, not its stem: a file named like a module of the standard library must not take its place.
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look themselves up
    try:
        with _searched(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextmanager
def _searched(directory: Path) -> Iterator[None]:
    """`directory` on the import path, as it is for `python script.py`."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(directory))
