"""What engines/torch relies on in transformers 5.23.

Upstream files: `cache_utils.py` (Cache, CacheLayerMixin), `masking_utils.py` (a 4-D mask is used as it is),
`models/*/modeling_*.py` (attention layers call `past_key_values.update`; `logits_to_keep`), `modeling_utils.py` (the
loading info of `from_pretrained`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from helpers.tiny_models import make_student
from mentor_edge.engines.torch.ragged_cache import RaggedCache

IDS = torch.tensor([[11, 45, 300, 7, 7, 201]])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


class RecordingCache(DynamicCache):
    """Records the layer and the shape of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[tuple[int, tuple[int, ...]]] = []

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.updates.append((layer_idx, tuple(key_states.shape)))
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def test_every_layer_updates_the_cache_once_with_rows_heads_columns_and_head_size(model: Any) -> None:
    cache, config = RecordingCache(), model.config
    with torch.inference_mode():
        model(input_ids=IDS, past_key_values=cache, use_cache=True)
    shape = (1, config.num_key_value_heads, IDS.shape[1], config.head_dim)
    assert cache.updates == [(layer, shape) for layer in range(config.num_hidden_layers)]


def test_a_cache_is_made_of_the_layers_that_it_is_given() -> None:
    cache = RaggedCache(3)
    assert isinstance(cache, Cache) and len(cache.layers) == 3
    assert all(isinstance(layer, CacheLayerMixin) and not layer.__abstractmethods__ for layer in cache.layers)


def test_a_mask_with_four_dimensions_is_used_as_it_is(model: Any) -> None:
    """Hide the first token by the mask: the rest must compute what it computes without that token."""
    length = IDS.shape[1]
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    visible[1:, 0] = False
    mask = torch.zeros(1, 1, length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
    positions = torch.arange(length)[None]
    with torch.inference_mode():
        masked = model(input_ids=IDS, attention_mask=mask, position_ids=positions).logits[:, 1:]
        alone = model(input_ids=IDS[:, 1:], position_ids=positions[:, 1:]).logits
        unmasked = model(input_ids=IDS, position_ids=positions).logits[:, 1:]
    assert torch.allclose(masked, alone, atol=1e-5) and not torch.allclose(masked, unmasked, atol=1e-2)


def test_kinds_of_layers_take_masks_by_the_names_in_layer_types(tmp_path: Path) -> None:
    gemma = AutoModelForCausalLM.from_pretrained(make_student(tmp_path, "gemma3"), dtype=torch.float32).eval()
    assert set(gemma.config.get_text_config().layer_types) == {"full_attention", "sliding_attention"}
    causal = torch.zeros(6, 6).masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), torch.finfo(torch.float32).min)
    first_hidden = causal.clone()
    first_hidden[1:, 0] = torch.finfo(torch.float32).min
    outputs = []
    for sliding in (causal, first_hidden):
        masks = {"full_attention": causal[None, None], "sliding_attention": sliding[None, None]}
        with torch.inference_mode():
            outputs.append(gemma(input_ids=IDS, attention_mask=masks).logits)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)


def test_logits_to_keep_scores_the_last_column(model: Any) -> None:
    with torch.inference_mode():
        last, every = model(input_ids=IDS, logits_to_keep=1).logits, model(input_ids=IDS).logits
    assert last.shape[1] == 1 and torch.allclose(last[:, 0], every[:, -1], atol=1e-5)


def test_loading_reports_missing_and_misshapen_weights_instead_of_raising(directory: Path, tmp_path: Path) -> None:
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    weights = load_file(directory / "model.safetensors")
    missing, misshapen = "model.norm.weight", "model.layers.0.mlp.down_proj.weight"
    del weights[missing]
    weights[misshapen] = weights[misshapen][:-1].contiguous()
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, ignore_mismatched_sizes=True)
    assert missing in info["missing_keys"]
    ((name, stored, expected),) = info["mismatched_keys"]
    assert name == misshapen and stored[0] == expected[0] - 1


def test_templates_are_rendered_by_one_function_of_this_name() -> None:
    """`limited_rendering` replaces it."""
    from transformers import tokenization_utils_base
    from transformers.utils import chat_template_utils

    assert tokenization_utils_base.render_jinja_template is chat_template_utils.render_jinja_template
    assert "render_jinja_template(" in inspect.getsource(
        tokenization_utils_base.PreTrainedTokenizerBase.apply_chat_template
    )
