"""docs/api.md and docs/settings.md equal what the code says, and everything public is described."""

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


def test_the_settings_are_up_to_date(generator: ModuleType) -> None:
    text = generator.settings_page()
    assert generator.SETTINGS.read_text(encoding="utf-8") == text, "update it with `make api`"
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 60 and all(len(row) == 3 and row[2].strip(" |") for row in rows), "every setting has a meaning"


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
