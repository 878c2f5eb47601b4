"""Conversion of a Hugging Face model directory to GGUF, for llama.cpp.

Covers what llama.cpp's own converter does for dense Qwen3, Qwen2 and Llama models with a byte-level BPE tokenizer.
Whatever llama.cpp would run differently from transformers is refused here, and `parity.check` verifies the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_file

DTYPES: dict[str, tuple[np.dtype[Any], Any]] = {
    "f32": (np.dtype(np.float32), gguf.LlamaFileType.ALL_F32),
    "f16": (np.dtype(np.float16), gguf.LlamaFileType.MOSTLY_F16),
}


@dataclass(frozen=True)
class _Family:
    """What differs between architectures in llama.cpp."""

    architecture: gguf.MODEL_ARCH
    # llama.cpp rotates adjacent pairs of a head in this architecture; transformers rotates halves in all of them.
    rotates_pairs: bool = False
    biases: tuple[str, ...] = ()


FAMILIES = {
    "Qwen3ForCausalLM": _Family(gguf.MODEL_ARCH.QWEN3),
    "Qwen2ForCausalLM": _Family(gguf.MODEL_ARCH.QWEN2, biases=("q_proj.bias", "k_proj.bias", "v_proj.bias")),
    "LlamaForCausalLM": _Family(gguf.MODEL_ARCH.LLAMA, rotates_pairs=True),
}

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The split regexes that llama.cpp implements under a name, and whether that name also skips merges for whole words.
PRE_TOKENIZERS = {
    _WORDS + r"\p{N}" + _REST: ("qwen2", False),
    _WORDS + r"\p{N}{1,3}" + _REST: ("llama-bpe", True),
}


def convert(model_dir: Path, out: Path, dtype: str = "f32") -> None:
    """Write the model of `model_dir` as a GGUF file, atomically.

    Matrices get `dtype` ("f32" or "f16"), vectors stay F32. Weights are streamed, one tensor in memory at a time.
    Embedding rows beyond the tokenizer become unused tokens; a tied output head is not stored, as llama.cpp expects.
    The chat template is stored byte for byte, a missing one is left out. llama.cpp applies no Unicode normalization:
    with an NFC tokenizer, composed text is the caller's duty.

    Raises: ExportError when the directory is incomplete, when llama.cpp would run the model differently (the message
    says what was seen and what is supported), or when the file cannot be written.
    """
    if dtype not in DTYPES:
        raise ExportError(f"cannot convert to {dtype!r}", f"supported: {', '.join(DTYPES)}; quantize afterwards")
    matrix_type, file_type = DTYPES[dtype]
    config = _read_json(model_dir / "config.json")
    family = _family(config)
    weights = _Weights(model_dir)
    names = _tensor_names(config, family, weights)
    embedding = next(name for name, stored in names.items() if stored == "token_embd.weight")

    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[family.architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_type)
    _add_hyper_parameters(writer, config)
    _add_tokenizer(writer, model_dir, rows=weights.shape(embedding)[0])
    kinds: dict[str, np.dtype[Any]] = {}
    for name, stored in names.items():
        shape = weights.shape(name)
        kind = kinds[name] = matrix_type if len(shape) > 1 else np.dtype(np.float32)
        writer.add_tensor_info(stored, shape, kind, int(np.prod(shape)) * kind.itemsize)
    with atomic_file(out) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in names:
                values = weights.read(name)
                if family.rotates_pairs and name.endswith(("q_proj.weight", "k_proj.weight")):
                    values = _pair_halves(values, _head_dim(config))
                with np.errstate(over="ignore"):
                    values = np.ascontiguousarray(values, dtype=kinds[name])
                if not np.isfinite(values).all():
                    raise ExportError(f"{name} holds values that are not finite as {kinds[name]}", "convert to f32")
                writer.write_tensor_data(values)
        finally:
            writer.close()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "give a model directory saved by transformers; an adapter must be merged into its base first"
        raise ExportError(f"{path} does not exist", hint) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    return value


def _family(config: Mapping[str, Any]) -> _Family:
    """The family of a config, after checking that llama.cpp runs everything in it as transformers does."""
    seen = (config.get("architectures") or ["none"])[0]
    if seen not in FAMILIES:
        raise ExportError(f"cannot convert the architecture {seen}", f"supported: {', '.join(FAMILIES)}")
    if missing := [key for key in _REQUIRED if key not in config]:
        raise ExportError(f"config.json lacks {', '.join(missing)}")
    if config.get("quantization_config"):
        raise ExportError("the weights are quantized already", "merge the adapter into the base in 16 or 32 bits first")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ExportError(f"cannot convert rope scaling {kind!r}", "only unscaled rotary embeddings are supported")
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ExportError("cannot convert partly rotated heads", "only fully rotated heads are supported")
    sliding = sum(layer != "full_attention" for layer in config.get("layer_types") or ())
    if not config.get("layer_types") and config.get("use_sliding_window") and config.get("sliding_window"):
        sliding = max(0, config["num_hidden_layers"] - config.get("max_window_layers", 0))
    if sliding:
        raise ExportError(f"{sliding} layers use sliding-window attention", "only full attention is supported")
    if config.get("hidden_act", "silu") != "silu":
        raise ExportError(f"cannot convert the activation {config['hidden_act']!r}", "only silu is supported")
    return FAMILIES[seen]


_REQUIRED = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "rms_norm_eps",
)  # fmt: skip


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_hyper_parameters(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    # transformers 5 writes `rope_parameters`; older versions wrote `rope_theta` beside everything else.
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _pair_halves(weight: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Reorder the rows of each head from (first halves, second halves) to pairs."""
    rows, columns = weight.shape
    return weight.reshape(rows // head_dim, 2, head_dim // 2, columns).swapaxes(1, 2).reshape(rows, columns)


class _Weights:
    """The tensors of a directory's safetensors files, read one by one as float32."""

    def __init__(self, model_dir: Path) -> None:
        index = model_dir / "model.safetensors.index.json"
        files = {"model.safetensors"}
        if index.exists():
            files = {Path(name).name for name in _read_json(index).get("weight_map", {}).values()}
        self._handles: dict[str, Any] = {}  # safetensors has no types
        for file in sorted(files):
            try:
                # Through torch, because numpy has no bfloat16.
                handle: Any = safe_open(model_dir / file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ExportError(f"cannot read {model_dir / file}: {error}") from error
            self._handles.update(dict.fromkeys(handle.keys(), handle))

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def shape(self, name: str) -> list[int]:
        return list(self._handles[name].get_slice(name).get_shape())

    def read(self, name: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = self._handles[name].get_tensor(name).float().numpy()
        return values


def _tensor_names(config: Mapping[str, Any], family: _Family, weights: _Weights) -> dict[str, str]:
    """The GGUF name of every tensor to be stored, by its name in transformers."""
    known = gguf.get_tensor_name_map(family.architecture, config["num_hidden_layers"])
    names: dict[str, str] = {}
    for name in weights:
        # Old Llama checkpoints store the rotation frequencies, which follow from the config.
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        stored = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None or (name.endswith(".bias") and not name.endswith(family.biases)):
            raise ExportError(f"cannot convert the tensor {name!r}: llama.cpp has no place for it in this architecture")
        names[name] = stored
    expected = {"token_embd.weight", "output_norm.weight"}
    if not config.get("tie_word_embeddings"):
        expected.add("output.weight")
    if missing := sorted(expected - set(names.values())):
        raise ExportError(f"the weights lack {', '.join(missing)}", "save the whole model with save_pretrained")
    return names


def _pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for a tokenizer.json's way of splitting text, or a refusal."""
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ExportError(f"cannot convert the normalizer {normalizer.get('type')}", "supported: none, NFC")
    model = tokenizer["model"]
    byte_level = (tokenizer.get("decoder") or {}).get("type") == "ByteLevel"
    variants = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model.get("type") != "BPE" or not byte_level or any(model.get(variant) for variant in variants):
        raise ExportError(f"cannot convert this {model.get('type')} tokenizer", "supported: plain byte-level BPE")
    spec = tokenizer.get("pre_tokenizer") or {}
    steps = spec["pretokenizers"] if spec.get("type") == "Sequence" else [spec]
    shape = [step.get("type") for step in steps]
    ignore_merges = bool(model.get("ignore_merges"))
    found: tuple[str, bool] | None = None
    seen = json.dumps(spec)
    if shape == ["ByteLevel"] and steps[0].get("use_regex", True):
        found = ("gpt-2", False)
    elif shape == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        found = ("smollm", False)
    elif shape == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        seen = (steps[0].get("pattern") or {}).get("Regex", seen)
        if steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
            found = PRE_TOKENIZERS.get(seen)
    if found is None or steps[-1].get("add_prefix_space") or found[1] != ignore_merges:
        raise ExportError(
            f"llama.cpp has no name for the pre-tokenizer {seen} with ignore_merges={ignore_merges}",
            "supported: the splits of Qwen2 and Qwen3, Llama 3, SmolLM and GPT-2",
        )
    return found[0]


def _add_tokenizer(writer: gguf.GGUFWriter, model_dir: Path, rows: int) -> None:
    """Write vocabulary, merges, special ids and template. `rows` is the number of embedding rows."""
    tokenizer = _read_json(model_dir / "tokenizer.json")
    settings = _read_json(model_dir / "tokenizer_config.json")
    pre_tokenizer = _pre_tokenizer(tokenizer)
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [int(gguf.TokenType.UNUSED)] * rows
    added = tokenizer.get("added_tokens", [])
    entries = [(token, i, gguf.TokenType.NORMAL) for token, i in tokenizer["model"]["vocab"].items()]
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise ExportError(f"cannot convert the added token {token['content']!r}", "it must match as plain text")
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        entries.append((token["content"], token["id"], kind))
    ids: dict[str, int] = {}
    for content, i, kind in entries:
        if i >= rows:
            raise ExportError(f"token {content!r} has id {i}; the embedding has {rows} rows", "resize the embedding")
        tokens[i], types[i], ids[content] = content, int(kind), i

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    special: dict[str, int] = {}
    for name in ("bos", "eos", "pad"):
        token = settings.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            if content not in ids:
                raise ExportError(f"tokenizer_config.json names {content!r} as {name}_token, which is no token")
            special[name] = ids[content]
    for name, add in (
        ("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id)
    ):  # fmt: skip
        if name in special:
            add(special[name])
    writer.add_add_bos_token(_adds_bos(model_dir / "tokenizer.json", special.get("bos")))
    if template := _chat_template(model_dir, settings):
        writer.add_chat_template(template)


def _adds_bos(tokenizer_json: Path, bos: int | None) -> bool:
    """Whether the post-processor puts the start token before a text; refuses any that adds something else."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    plain = tokenizer.encode("x", add_special_tokens=False).ids
    full = tokenizer.encode("x").ids
    if full not in (plain, [bos, *plain]):
        raise ExportError(f"the post-processor turns {plain} into {full}", "supported: none, or a leading start token")
    return full != plain


def _chat_template(model_dir: Path, settings: Mapping[str, Any]) -> str | None:
    # The file comes first, as in transformers.
    file = model_dir / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.exists() else settings.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise ExportError("the tokenizer holds several chat templates", "keep the one that the model was trained with")
    return template
