"""What engines/llama_cpp relies on in llama-cpp-python 0.3.36.

Upstream files: `llama_cpp/llama_cpp.py` (the ctypes binding of `include/llama.h`), `ggml/include/ggml.h` (its enums
ggml_type and ggml_log_level), `ggml/include/gguf.h` (its functions have no binding; the library itself has them).
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from mentor_edge.engines.llama_cpp.quantizer import LOG_WARNING
from mentor_edge.engines.llama_cpp.sequences import KV_TYPES

SCRIPT = """
import json
import llama_cpp as lib
from mentor_edge.engines.llama_cpp import quantizer
structs = ("llama_batch", "llama_model_params", "llama_context_params", "llama_model_quantize_params",
           "llama_model_tensor_override", "llama_model_imatrix_data")
functions = {name: len(value.argtypes) for name, value in vars(lib.llama_cpp).items()
             if isinstance(getattr(value, "argtypes", None), (list, tuple))}
print(json.dumps({
    "fields": {name: [field for field, _ in getattr(lib, name)._fields_] for name in structs},
    "functions": functions,
    "types": {name: getattr(lib, f"GGML_TYPE_{name.upper()}") for name in ("f32", "f16")},
    "gguf": hasattr(quantizer._ggml(lib), "gguf_init_from_file"),
    "system": lib.llama_print_system_info().decode(),
}))
"""
FUNCTIONS = {
    "llama_model_load_from_file": 2, "llama_init_from_model": 2, "llama_free": 1, "llama_decode": 2,
    "llama_get_logits_ith": 2, "llama_get_memory": 1, "llama_memory_clear": 2, "llama_memory_seq_cp": 5,
    "llama_model_get_vocab": 1, "llama_vocab_n_tokens": 1, "llama_vocab_is_eog": 2, "llama_model_n_ctx_train": 1,
    "llama_model_n_embd": 1, "llama_model_n_head": 1, "llama_model_n_head_kv": 1, "llama_model_n_layer": 1,
    "llama_model_meta_val_str": 4, "llama_tokenize": 7, "llama_token_to_piece": 6, "llama_log_set": 2,
    "llama_model_quantize": 3,
}  # a table  # fmt: skip
FIELDS = {
    "llama_batch": ["n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"],
    "llama_model_params": ["n_gpu_layers", "check_tensors", "use_extra_bufts"],
    "llama_context_params": [
        "kv_unified", "swa_full", "n_seq_max", "n_ctx", "n_batch", "n_ubatch", "n_outputs_max",
        "n_outputs_max_per_seq", "n_threads", "n_threads_batch", "type_k", "type_v", "flash_attn_type",
    ],
    "llama_model_quantize_params": ["ftype", "nthread", "max_buf_size", "tt_overrides", "imatrix"],
    "llama_model_tensor_override": ["pattern", "type"],
    "llama_model_imatrix_data": ["name", "data", "size"],
}  # a table  # fmt: skip


@pytest.fixture(scope="module")
def binding() -> Any:
    """Facts about the installed binding, gathered in a child process: llama.cpp is never loaded into this one."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_version_is_the_one_that_the_child_was_written_for() -> None:
    assert version("llama-cpp-python") == "0.3.36"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_as_many_arguments_as_we_pass(binding: Any, name: str) -> None:
    assert binding["functions"][name] == FUNCTIONS[name]


@pytest.mark.parametrize("name", FIELDS)
def test_structs_have_the_fields_that_we_set(binding: Any, name: str) -> None:
    assert set(FIELDS[name]) <= set(binding["fields"][name])


def test_a_batch_has_no_field_that_we_leave_unset(binding: Any) -> None:
    assert binding["fields"]["llama_batch"] == FIELDS["llama_batch"]  # `embd` is null by default


def test_numbers_of_types_and_log_levels_are_those_of_ggml(binding: Any) -> None:
    assert binding["types"] == {name: number for name, (number, _) in KV_TYPES.items()}
    assert LOG_WARNING == 3  # the binding has no names for enum ggml_log_level


def test_the_gguf_reader_is_reached_through_the_library(binding: Any) -> None:
    assert binding["gguf"]


def test_the_system_info_lists_instructions_as_name_equals_one(binding: Any) -> None:
    assert " = 1 |" in binding["system"]
