"""What differs between the model families: which configurations llama.cpp runs as transformers does, and how it names,
describes and arranges their weights.

Read from llama.cpp's `src/models/*.cpp` and `src/llama-context.cpp` as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.errors import ExportError

_QKV = ("q_proj.bias", "k_proj.bias", "v_proj.bias")
_MLP = ("gate_proj.bias", "up_proj.bias", "down_proj.bias")


@dataclass(frozen=True)
class Family:
    """One architecture of transformers in llama.cpp's terms."""

    architecture: gguf.MODEL_ARCH
    biases: tuple[str, ...] = _QKV
    """The biases that llama.cpp has a place for."""
    rotates_pairs: bool = False
    """llama.cpp rotates adjacent pairs of a head in this architecture; transformers rotates halves in all of them."""
    norms_add_one: bool = False
    """transformers multiplies by 1 + weight, llama.cpp by the weight."""
    scalings: tuple[str, ...] = ("default", "linear", "yarn")
    activation: str = "silu"
    slides: bool = False
    """Whether llama.cpp knows sliding windows in this architecture."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that transformers takes where config.json is silent and that are not those of the other families."""


_GEMMA3_DEFAULTS = {
    "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "hidden_act": "gelu_pytorch_tanh",
}  # a table  # fmt: skip
FAMILIES = {
    "Qwen3ForCausalLM": Family(gguf.MODEL_ARCH.QWEN3, defaults={"head_dim": 128}),
    "Qwen2ForCausalLM": Family(gguf.MODEL_ARCH.QWEN2),
    "LlamaForCausalLM": Family(
        gguf.MODEL_ARCH.LLAMA,
        biases=(*_QKV, "o_proj.bias", *_MLP),
        rotates_pairs=True,
        scalings=("default", "linear", "yarn", "llama3"),
    ),
    "SmolLM3ForCausalLM": Family(gguf.MODEL_ARCH.SMOLLM3, rotates_pairs=True, defaults={"rope_theta": 2e6}),
    "Gemma3ForCausalLM": Family(
        gguf.MODEL_ARCH.GEMMA3,
        norms_add_one=True,
        scalings=("default", "linear"),
        activation="gelu_pytorch_tanh",
        slides=True,
        defaults=_GEMMA3_DEFAULTS,
    ),
}
_REQUIRED = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "rms_norm_eps",
)  # a table  # fmt: skip
_NOPE_INTERVAL = 4  # llama.cpp: every fourth layer of SmolLM3 has no rotary embedding
_SLIDING_INTERVAL = 6  # llama.cpp: every sixth layer of Gemma 3 looks at everything
_GEMMA3_27B_LAYERS = 62  # llama.cpp scales attention differently in a model of so many layers


@dataclass(frozen=True)
class ModelConfig:
    """A config.json that llama.cpp runs as transformers does. Make it with `ModelConfig.of`."""

    family: Family
    values: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Raises: ExportError naming the first entry that llama.cpp would run differently, with the value seen."""
        seen = (config.get("architectures") or ["none"])[0]
        if seen not in FAMILIES:
            hint = f"supported: {', '.join(FAMILIES)}; others through --converter PATH/convert_hf_to_gguf.py"
            raise ExportError(f"cannot convert the architecture {seen}", hint)
        if missing := [key for key in _REQUIRED if key not in config]:
            raise ExportError(f"config.json lacks {', '.join(missing)}")
        for key in _REQUIRED:
            if not isinstance(config[key], int | float) or config[key] <= 0:
                raise ExportError(f"config.json has {key} = {config[key]!r}", "it must be a positive number")
        family = FAMILIES[seen]
        model = cls(family, {**family.defaults, **config})
        _check_numbers(model)
        _check_attention(model)
        _check_layers(model)
        for kind in model.layer_kinds:
            _check_rope(model, kind)
        return model

    @property
    def head_dim(self) -> int:
        return int(self.values.get("head_dim") or self.values["hidden_size"] // self.values["num_attention_heads"])

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        return ("full_attention", "sliding_attention") if self.family.slides else ("full_attention",)

    def rope(self, kind: str = "full_attention") -> dict[str, Any]:
        """The rotary embedding's parameters in one kind of layer.

        transformers 5 writes `rope_parameters`, one set per kind where they differ; before, `rope_scaling` stood beside
        `rope_theta` and held for the layers that look at everything.
        """
        values = self.values
        given = values.get("rope_parameters") or {}
        if self.family.slides:
            given = given.get(kind) or {}
        base = values.get("rope_theta", 10_000.0)
        if kind == "sliding_attention":
            base = values["rope_local_base_freq"]
        elif values.get("rope_scaling"):
            given = {**(given if self.family.slides else {}), **values["rope_scaling"]}
        scaling = given.get("rope_type") or given.get("type") or "default"
        return {"rope_theta": base, **given, "rope_type": scaling}

    def add_hyper_parameters(self, writer: gguf.GGUFWriter) -> None:
        values, head_dim, rope = self.values, self.head_dim, self.rope()
        writer.add_context_length(values["max_position_embeddings"])
        writer.add_embedding_length(values["hidden_size"])
        writer.add_block_count(values["num_hidden_layers"])
        writer.add_feed_forward_length(values["intermediate_size"])
        writer.add_head_count(values["num_attention_heads"])
        writer.add_head_count_kv(values.get("num_key_value_heads") or values["num_attention_heads"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        writer.add_layer_norm_rms_eps(values["rms_norm_eps"])
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        if self.family.slides:
            writer.add_sliding_window(values["sliding_window"])
            writer.add_rope_freq_base_swa(float(self.rope("sliding_attention")["rope_theta"]))
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif rope["rope_type"] == "yarn":
            factor = _yarn_factor(self)
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(factor)
            writer.add_rope_scaling_orig_ctx_len(_original_context(self))
            # llama.cpp multiplies the paper's own attention factor by this one.
            writer.add_rope_scaling_attn_factors(_yarn_attention_factor(rope, factor) / _yarn_scale(factor))

    def tensor_names(self, weights: Iterable[str]) -> dict[str, str]:
        """The GGUF name of every tensor to be stored, by its name in transformers. A tied head is not stored.

        Raises: ExportError when llama.cpp has no place for a tensor, or one that it needs is missing.
        """
        weights = list(weights)
        known = gguf.get_tensor_name_map(self.family.architecture, self.values["num_hidden_layers"])
        # Whether the head is tied by default differs between families and releases; the weights tell.
        tied = self.values.get("tie_word_embeddings", "lm_head.weight" not in weights)
        names: dict[str, str] = {}
        for name in weights:
            # Old Llama checkpoints store the rotation frequencies, which follow from the config.
            if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and tied):
                continue
            stored = known.get_name(name, try_suffixes=(".weight", ".bias"))
            if stored is None or (name.endswith(".bias") and not name.endswith(self.family.biases)):
                hint = "llama.cpp has no place for it in this architecture"
                raise ExportError(f"cannot convert the tensor {name!r}: {hint}")
            names[name] = stored
        expected = {"token_embd.weight", "output_norm.weight", *(() if tied else ("output.weight",))}
        if missing := sorted(expected - set(names.values())):
            raise ExportError(f"the weights lack {', '.join(missing)}", "save the whole model with save_pretrained")
        return names

    def computed_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Tensors that llama.cpp wants in the file and transformers computes, by GGUF name."""
        return {"rope_freqs.weight": _llama3_factors(self)} if self.rope()["rope_type"] == "llama3" else {}

    def row_unit(self, name: str) -> int:
        """How many rows of a tensor `arrange` must get at once."""
        return self.head_dim if self._is_rotated(name) else 1

    def arrange(self, name: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows of a tensor of transformers as llama.cpp wants them."""
        if self._is_rotated(name):
            return pair_halves(rows, self.head_dim)
        if self.family.norms_add_one and name.endswith("norm.weight"):
            return rows + np.float32(1)
        return rows

    def _is_rotated(self, name: str) -> bool:
        rotated = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")
        return self.family.rotates_pairs and name.endswith(rotated)


def pair_halves(rows: npt.NDArray[np.float32], head_dim: int) -> npt.NDArray[np.float32]:
    """Reorder the rows of each head from (first halves, second halves) to pairs."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _check_numbers(model: ModelConfig) -> None:
    values, family = model.values, model.family
    if values.get("quantization_config"):
        raise ExportError("the weights are quantized already", "merge the adapter into the base in 16 or 32 bits first")
    # Gemma configurations name their activation `hidden_activation`.
    seen = values.get("hidden_activation") or values.get("hidden_act", family.activation)
    if seen != family.activation:
        raise ExportError(f"cannot convert the activation {seen!r}", f"only {family.activation} is supported")
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if values.get(key):
            raise ExportError(f"cannot convert {key} = {values[key]}", "only models without it are supported")
    heads = values["num_attention_heads"]
    if family.architecture == gguf.MODEL_ARCH.QWEN2 and model.head_dim * heads != values["hidden_size"]:
        seen = f"{heads} heads of size {model.head_dim} in a model of width {values['hidden_size']}"
        raise ExportError(
            f"cannot convert {seen}", "llama.cpp wants their product to be the width in this architecture"
        )


def _check_attention(model: ModelConfig) -> None:
    values = model.values
    if "query_pre_attn_scalar" not in values or not model.family.slides:
        return
    expected = model.head_dim
    if values["num_hidden_layers"] == _GEMMA3_27B_LAYERS:
        expected = values["hidden_size"] // values["num_attention_heads"]
    if values["query_pre_attn_scalar"] != expected:
        seen = f"query_pre_attn_scalar = {values['query_pre_attn_scalar']}"
        raise ExportError(f"cannot convert {seen}", f"llama.cpp scales attention for {expected} in this model")


def _check_layers(model: ModelConfig) -> None:
    """Layers that differ from each other must do so in llama.cpp's own pattern."""
    values, count = model.values, model.values["num_hidden_layers"]
    if model.family.slides:
        interval = values.get("sliding_window_pattern", _SLIDING_INTERVAL)
        kinds = values.get("layer_types") or _pattern(count, interval, "sliding_attention", "full_attention")
        if list(kinds) != _pattern(count, _SLIDING_INTERVAL, "sliding_attention", "full_attention"):
            hint = f"llama.cpp lets every {_SLIDING_INTERVAL}th layer look at everything and the others at a window"
            raise ExportError(f"cannot convert the layers {', '.join(kinds)}", hint)
        if not values.get("sliding_window"):
            raise ExportError(f"cannot convert sliding_window = {values.get('sliding_window')}", "it must be a number")
        return
    sliding = sum(layer != "full_attention" for layer in values.get("layer_types") or ())
    if not values.get("layer_types") and values.get("use_sliding_window") and values.get("sliding_window"):
        sliding = max(0, count - values.get("max_window_layers", 0))
    if sliding:
        raise ExportError(f"{sliding} layers use sliding-window attention", "only full attention is supported")
    if model.family.architecture == gguf.MODEL_ARCH.SMOLLM3:
        interval = values.get("no_rope_layer_interval", _NOPE_INTERVAL)
        rotates = values.get("no_rope_layers") or _pattern(count, interval, 1, 0)
        if list(rotates) != _pattern(count, _NOPE_INTERVAL, 1, 0):
            hint = f"llama.cpp leaves the rotary embedding out of every {_NOPE_INTERVAL}th layer"
            raise ExportError(f"cannot convert no_rope_layers = {list(rotates)}", hint)


def _pattern(count: int, interval: int, usual: Any, last: Any) -> list[Any]:
    """`count` layers, of which every `interval`th is `last`."""
    return [usual if (layer + 1) % interval else last for layer in range(count)]


def _check_rope(model: ModelConfig, kind: str) -> None:
    rope = model.rope(kind)
    scaling = rope["rope_type"]
    supported: Container[str] = model.family.scalings if kind == "full_attention" else ("default",)
    if scaling not in supported:
        listed = ", ".join(model.family.scalings)
        raise ExportError(f"cannot convert rope scaling {scaling!r}", f"supported in this architecture: {listed}")
    if rope.get("partial_rotary_factor", model.values.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ExportError("cannot convert partly rotated heads", "only fully rotated heads are supported")
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}.get(scaling, ())
    if missing := [key for key in needed if key not in rope]:
        raise ExportError(f"the {scaling} rope scaling of config.json lacks {', '.join(missing)}")
    if scaling == "yarn":
        # llama.cpp reads these from the file in other architectures only.
        for key, only in (("beta_fast", 32), ("beta_slow", 1), ("truncate", True)):
            if (seen := rope.get(key)) is not None and seen != only:
                raise ExportError(f"cannot convert yarn rope scaling with {key} = {seen}", f"llama.cpp has {only}")


def _original_context(model: ModelConfig) -> int:
    """The positions that the model was made for before its rotary embedding was scaled."""
    places = (model.rope(), model.values)
    given = (place.get("original_max_position_embeddings") for place in places)
    return int(next((value for value in given if value), model.values["max_position_embeddings"]))


def _yarn_factor(model: ModelConfig) -> float:
    factor = model.rope().get("factor")
    return float(factor or model.values["max_position_embeddings"] / _original_context(model))


def _yarn_scale(factor: float, weight: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What transformers multiplies sines and cosines with (YaRN, arXiv 2309.00071, section 3.4)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _yarn_scale(factor, rope["mscale"]) / _yarn_scale(factor, rope["mscale_all_dim"])
    return _yarn_scale(factor)


def _llama3_factors(model: ModelConfig) -> npt.NDArray[np.float32]:
    """By how much Llama 3's scaling slows each of a head's `head_dim / 2` rotations.

    Rotations that turn less than `low_freq_factor` times over the original context are slowed by `factor`, those that
    turn more than `high_freq_factor` times not at all, those between by a mixture.
    """
    rope, dims = model.rope(), model.head_dim
    frequencies = float(rope["rope_theta"]) ** -(np.arange(0, dims, 2) / dims)
    turns = _original_context(model) * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    unscaled = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - unscaled) / rope["factor"] + unscaled)).astype(np.float32)
