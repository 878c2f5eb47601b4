"""The lists of supported families agree with each other and with the families that the tests run on."""

from __future__ import annotations

from helpers import tiny_models
from mentor_edge.export.gguf import families as gguf_families
from mentor_edge.export.onnx import families as onnx_families


def test_every_supported_family_is_tested_and_every_tested_one_is_supported() -> None:
    tested = {family.model for family in tiny_models.FAMILIES.values()}
    assert set(gguf_families.FAMILIES) == set(onnx_families.FAMILIES) == tested


def test_a_family_has_one_name() -> None:
    assert {key: family.name for key, family in gguf_families.FAMILIES.items()} == onnx_families.FAMILIES
