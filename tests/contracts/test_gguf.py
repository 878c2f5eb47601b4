"""What export/gguf relies on in gguf 0.19: the writer's parts of a file, and its names of tensors.

Upstream files: `gguf/gguf_writer.py`, `gguf/tensor_mapping.py`, `gguf/constants.py`.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import pytest

from mentor_edge.export.gguf.families import FAMILIES

ARCHITECTURES = [family.architecture for family in FAMILIES.values()]


def test_values_appended_after_the_tensor_list_make_the_file_that_the_writer_makes(tmp_path: Path) -> None:
    """`convert` writes the values itself, because the writer accepts whole tensors only."""
    tensors = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.weight": np.arange(70, dtype=np.float16).reshape(7, 10),
        "c.weight": np.ones(5, np.float32),
    }
    whole, appended = tmp_path / "whole.gguf", tmp_path / "appended.gguf"
    writer = gguf.GGUFWriter(whole, "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    writer = gguf.GGUFWriter(None, "llama")
    for name, values in tensors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file(appended)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with appended.open("ab") as file:
        file.write(bytes(-file.tell() % writer.data_alignment))
        for values in tensors.values():
            file.write(values.data)
            file.write(bytes(-file.tell() % writer.data_alignment))
    assert appended.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_names_keep_their_suffix_and_unknown_ones_have_none(architecture: gguf.MODEL_ARCH) -> None:
    names = gguf.get_tensor_name_map(architecture, 2)
    suffixes = (".weight", ".bias")
    assert names.get_name("model.layers.1.self_attn.q_proj.weight", suffixes) == "blk.1.attn_q.weight"
    assert names.get_name("model.layers.1.self_attn.q_proj.bias", suffixes) == "blk.1.attn_q.bias"
    assert names.get_name("model.layers.2.self_attn.q_proj.weight", suffixes) is None
    assert names.get_name("model.layers.1.self_attn.x_proj.weight", suffixes) is None


def test_gguf_still_names_biases_that_llama_cpp_does_not_load() -> None:
    """Therefore `Family.biases` lists the ones that it loads."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 1)
    assert names.get_name("model.layers.0.self_attn.o_proj.bias", (".weight", ".bias")) == "blk.0.attn_output.bias"


def test_versions_are_those_that_the_families_were_read_from() -> None:
    assert version("gguf").startswith("0.19.") and version("llama-cpp-python") == "0.3.36"
