"""Refuses the settings of a model that llama.cpp would run differently from transformers.

The list is of what the supported families read from config.json. A new family may read more: add a check for each.

Read from llama.cpp's `src/models/*.cpp` and `src/llama-context.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from mentor_edge.errors import ExportError

from .families import FAMILIES
from .model_config import ModelConfig
from .rope import FULL, SLIDING

_REQUIRED = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "rms_norm_eps",
)  # a table  # fmt: skip
_GEMMA3_27B_LAYERS = 62  # llama.cpp scales attention differently in a Gemma 3 with this many layers


def supported_config(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a config.json describes.

    Raises: ExportError naming the first entry that llama.cpp would run differently, with its value.
    """
    try:
        return _checked(config)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ExportError(f"config.json has settings of the wrong type ({error})", "copy the model again") from error


def _checked(config: Mapping[str, Any]) -> ModelConfig:
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in FAMILIES:
        hint = f"supported: {', '.join(FAMILIES)}; others through --converter PATH/convert_hf_to_gguf.py"
        raise ExportError(f"cannot convert the architecture {architecture}", hint)
    if missing := [key for key in _REQUIRED if key not in config]:
        raise ExportError(f"config.json lacks {', '.join(missing)}")
    for key in _REQUIRED:
        if not isinstance(config[key], int | float) or config[key] <= 0:
            raise ExportError(f"config.json has {key} = {config[key]!r}", "it must be a positive number")
    family = FAMILIES[architecture]
    model = ModelConfig(family, {**family.defaults, **config})
    _check_weights_and_activation(model)
    _check_heads(model)
    if family.sliding_interval is not None:
        _check_sliding_layers(model, family.sliding_interval)
    else:
        _check_full_layers(model)
    if family.unrotated_interval is not None:
        _check_unrotated_layers(model, family.unrotated_interval)
    for kind in model.layer_kinds:
        _check_rope(model, kind)
    return model


def _check_weights_and_activation(model: ModelConfig) -> None:
    values, family = model.values, model.family
    if values.get("quantization_config"):
        raise ExportError("the weights are quantized already", "merge the adapter into the base in 16 or 32 bits first")
    # Gemma's configurations call their activation `hidden_activation`.
    activation = values.get("hidden_activation") or values.get("hidden_act", family.activation)
    if activation != family.activation:
        raise ExportError(f"cannot convert the activation {activation!r}", f"only {family.activation} is supported")
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if values.get(key):
            raise ExportError(f"cannot convert {key} = {values[key]}", "only models without it are supported")


def _check_heads(model: ModelConfig) -> None:
    values, family = model.values, model.family
    heads = values["num_attention_heads"]
    if family.heads_fill_width and model.head_dim * heads != values["hidden_size"]:
        raise ExportError(
            f"cannot convert {heads} heads of size {model.head_dim} in a model of width {values['hidden_size']}",
            "in this architecture llama.cpp requires their product to equal the width",
        )
    if family.sliding_interval is None or "query_pre_attn_scalar" not in values:
        return
    expected = model.head_dim
    if values["num_hidden_layers"] == _GEMMA3_27B_LAYERS:
        expected = values["hidden_size"] // heads
    if values["query_pre_attn_scalar"] != expected:
        raise ExportError(
            f"cannot convert query_pre_attn_scalar = {values['query_pre_attn_scalar']}",
            f"llama.cpp scales attention for {expected} in this model",
        )


def _check_sliding_layers(model: ModelConfig, interval: int) -> None:
    """Refuse full attention in layers other than those that llama.cpp expects."""
    values, count = model.values, model.values["num_hidden_layers"]
    configured = values.get("sliding_window_pattern", interval)
    kinds = values.get("layer_types") or _pattern(count, configured, SLIDING, FULL)
    if list(kinds) != _pattern(count, interval, SLIDING, FULL):
        hint = f"in llama.cpp every {interval}th layer attends to all positions, and the others to a sliding window"
        raise ExportError(f"cannot convert the layers {', '.join(kinds)}", hint)
    if not values.get("sliding_window"):
        raise ExportError(f"cannot convert sliding_window = {values.get('sliding_window')}", "it must be a number")


def _check_full_layers(model: ModelConfig) -> None:
    """Refuse sliding windows, which llama.cpp would ignore."""
    values = model.values
    sliding = sum(layer != FULL for layer in values.get("layer_types") or ())
    if not values.get("layer_types") and values.get("use_sliding_window") and values.get("sliding_window"):
        sliding = max(0, values["num_hidden_layers"] - values.get("max_window_layers", 0))
    if sliding:
        raise ExportError(f"{sliding} layers use sliding-window attention", "only full attention is supported")


def _check_unrotated_layers(model: ModelConfig, interval: int) -> None:
    """Refuse layers without rotary embedding other than those that llama.cpp expects."""
    values, count = model.values, model.values["num_hidden_layers"]
    configured = values.get("no_rope_layer_interval", interval)
    rotates = values.get("no_rope_layers") or _pattern(count, configured, 1, 0)
    if list(rotates) != _pattern(count, interval, 1, 0):
        hint = f"in llama.cpp every {interval}th layer has no rotary embedding"
        raise ExportError(f"cannot convert no_rope_layers = {list(rotates)}", hint)


def _pattern(count: int, interval: int, usual: Any, last: Any) -> list[Any]:
    """`count` layers: every `interval`th is `last`, the others are `usual`."""
    return [usual if (layer + 1) % interval else last for layer in range(count)]


def _check_rope(model: ModelConfig, layer_kind: str) -> None:
    rope = model.rope(layer_kind)
    parameters, scaling = rope.parameters, rope.scaling
    supported: Container[str] = model.family.scalings if layer_kind == FULL else ("default",)
    if scaling not in supported:
        listed = ", ".join(model.family.scalings)
        raise ExportError(f"cannot convert rope scaling {scaling!r}", f"supported in this architecture: {listed}")
    if parameters.get("partial_rotary_factor", model.values.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ExportError("cannot convert partly rotated heads", "only fully rotated heads are supported")
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}.get(scaling, ())
    if missing := [key for key in needed if key not in parameters]:
        raise ExportError(f"the {scaling} rope scaling of config.json lacks {', '.join(missing)}")
    if scaling == "yarn":
        # Only in other architectures does llama.cpp read these from the file.
        for key, fixed in (("beta_fast", 32), ("beta_slow", 1), ("truncate", True)):
            if (value := parameters.get(key)) is not None and value != fixed:
                raise ExportError(f"cannot convert yarn rope scaling with {key} = {value}", f"llama.cpp uses {fixed}")
