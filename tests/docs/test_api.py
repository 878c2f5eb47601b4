"""docs/api.md is up to date with the docstrings, and every parameter of the public surface is described."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from helpers.paths import ROOT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_api", ROOT / "docs" / "generate_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "update it with `make api`"


def test_the_page_covers_what_the_packages_export(generator: ModuleType) -> None:
    import mentor_edge.export
    import mentor_edge.recipes

    exported = {
        f"{package.__name__}.{name}"
        for package in (mentor_edge, mentor_edge.recipes, mentor_edge.export)
        for name in package.__all__
        if not name.startswith("__")
    }
    assert {f"{package}.{item.name}" for package, items in generator.surface().items() for item in items} == exported


def test_everything_public_is_described(generator: ModuleType) -> None:
    assert generator.undocumented() == []
