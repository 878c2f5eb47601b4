"""What fuzzing starts from and what it once found, without a fuzzer. `make fuzz` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.fuzz_targets import FOUND, TARGETS, target_of

ATTACKS = {f"{name} {number}": (name, data) for number, (name, data) in enumerate(FOUND)}


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_starts_from_is_valid(name: str, tmp_path: Path) -> None:
    TARGETS[name].read(TARGETS[name].seeds[0], tmp_path)


@pytest.mark.parametrize(("name", "data"), ATTACKS.values(), ids=ATTACKS)
def test_what_was_found_is_answered_by_a_result_or_an_error_of_ours(name: str, data: bytes, tmp_path: Path) -> None:
    target_of(name, tmp_path)(data)
