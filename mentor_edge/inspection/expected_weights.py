"""Whether the weights that a directory stores are those that its config.json describes, by names and shapes alone.

Families that we know are compared weight by weight; of others, only what their files tell about each other. Loading
makes the exact comparison; this one needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mentor_edge.weight_files import EMBEDDING, HEAD

Shape = tuple[int, ...]

_WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "_fsdp_wrapped_module.", "_forward_module.")
"""What PEFT, torch.compile, data parallelism, FSDP and DeepSpeed put in front of the names of weights."""
_INSERTED = re.compile(r"(?:^|\.)(_orig_mod|_fsdp_wrapped_module|base_layer|lora_\w+|modules_to_save)\.")
"""What they put into the names: the student was saved with its wrapper, or its adapter is not merged."""
_LAYER = re.compile(r"^(.*?)(?:^|\.)(\d{1,9})\.(.+)$", re.DOTALL)
_TIED = {
    "llama": False, "mistral": False, "qwen2": False, "qwen3": False, "smollm3": True, "gemma3_text": True,
}  # a table  # fmt: skip
"""The families whose weights we know, and whether head and embedding are tied where config.json does not say it."""
_QKV_BIASES = ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_MORE_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
_MORE: dict[str, tuple[str, ...]] = {
    "qwen2": _QKV_BIASES, "qwen3": _HEAD_NORMS, "gemma3_text": _HEAD_NORMS + _MORE_NORMS,
}  # a table  # fmt: skip
"""What the layers of a family have besides those of Llama."""
_SHOWN = 3


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether output head and embedding are tied: as config.json says, else the family's default; None if unknown."""
    stated = config.get("tie_word_embeddings")
    return stated if isinstance(stated, bool) else _TIED.get(str(config.get("model_type")))


def has_own_head(names: Iterable[str]) -> bool:
    """Whether weights with these names include an output head."""
    return any(name == HEAD or name.endswith(f".{HEAD}") for name in names)


def weight_problems(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> list[str]:
    """Why weights cannot be loaded into the model that a configuration describes.

    Args:
        shapes: The stored weights.
        config: The configuration of the language model.
    """
    if wrapped := _wrapped(shapes):
        return [wrapped]
    if config.get("quantization_config"):
        return []  # stored under other names
    problems = []
    tied, kind = is_tied(config), str(config.get("model_type"))
    has_head = has_own_head(shapes)
    if tied is False and not has_head:
        problems.append(f"config.json does not tie the output head to the embedding, but the weights lack {HEAD}")
    count = config.get("num_hidden_layers")
    if isinstance(count, int) and kind in _TIED:
        return problems + _known(shapes, config, kind, count, has_head and tied is True)
    return problems + layer_problems(shapes, count) + _embedding(shapes, config)


def _wrapped(names: Iterable[str]) -> str | None:
    for name in sorted(names):
        for wrapper in _WRAPPERS:
            if name.startswith(wrapper):
                return f"names of its weights begin with {wrapper!r} ({name}); save the model without its wrapper"
        if found := _INSERTED.search(name):
            what = "save the model without its wrapper" if found[1].startswith("_") else "merge the adapter first"
            return f"names of its weights contain {found[1]!r} ({name}); {what}"
    return None


def _known(shapes: Mapping[str, Shape], config: Mapping[str, Any], kind: str, count: int, head: bool) -> list[str]:
    # transformers also finds weights without the prefix "model.", or with two of them.
    prefix = next((each for each in ("model.model.", "model.") if any(name.startswith(each) for name in shapes)), "")
    layer = _layer_shapes(config, kind)
    expected = {f"{prefix}layers.{index}.{name}": layer[name] for index in range(count) for name in layer}
    width = config.get("hidden_size")
    expected[f"{prefix}norm.weight"] = (width,)
    if HEAD in shapes:
        expected[HEAD] = (config.get("vocab_size"), width)
    if not head:  # a stored head also serves as a tied embedding
        expected[f"{prefix}{EMBEDDING}"] = (config.get("vocab_size"), width)
    problems = _lacking(expected.keys() - shapes.keys())
    for name, shape in expected.items():
        stored = shapes.get(name)
        if stored is not None and all(isinstance(size, int) for size in shape) and stored != shape:
            problems.append(f"{name} has the shape {list(stored)}, but config.json needs {list(shape)}")
            break
    problems += _surplus_biases(shapes.keys() - expected.keys(), config)
    more = {int(found[2]) for name in shapes if (found := _LAYER.match(name)) and found[1] == f"{prefix}layers"}
    if more and max(more) >= count:  # transformers would leave them out with a warning
        problems.append(f"the weights contain {prefix}layers.{max(more)}, but config.json has {count} layers")
    return problems


def _surplus_biases(names: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Biases of layers that have none in this family, unless config.json says so. transformers would leave them out."""
    switches = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
    for name in sorted(names):
        part = name.rsplit(".", 3)[-3] if name.count(".") > 1 else ""
        if name.endswith(".bias") and not config.get(switches.get(part, "")):
            return [f"the weights contain {name}, which config.json leaves out"]
    return []


def _layer_shapes(config: Mapping[str, Any], kind: str) -> dict[str, tuple[Any, ...]]:
    """The weights of a layer. A size that config.json does not state is None."""
    width, inner, heads = (config.get(key) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head_dim, pairs = config.get("head_dim"), config.get("num_key_value_heads")
    if head_dim is None and kind in ("llama", "mistral", "qwen2") and isinstance(width, int) and isinstance(heads, int):
        head_dim = width // max(heads, 1)
    queries, keys = (
        count * head_dim if isinstance(count, int) and isinstance(head_dim, int) else None for count in (heads, pairs)
    )
    shapes: dict[str, tuple[Any, ...]] = {
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    for name in _MORE.get(kind, ()):
        shapes[name] = (width,) if "feedforward" in name else (head_dim,) if "_norm" in name else (None,)
    return shapes


def _lacking(names: Iterable[str]) -> list[str]:
    missing = sorted(names)
    if not missing:
        return []
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return [f"the weights lack {', '.join(missing[:_SHOWN])}{more}"]


def layer_problems(names: Iterable[str], count: Any) -> list[str]:
    """What the layers of any family lack, judged by the other layers. Models with several stacks of layers pass.

    Args:
        names: The stored weights.
        count: The number of layers that the model should have, if it is known.
    """
    stacks: dict[str, dict[int, set[str]]] = {}
    for name in names:
        if found := _LAYER.match(name):
            stacks.setdefault(found[1], {}).setdefault(int(found[2]), set()).add(found[3])
    if len(stacks) != 1:
        return []
    ((stack, layers),) = stacks.items()
    if isinstance(count, int) and (absent := sorted({*range(min(count, 10_000))} - layers.keys())):
        return [f"the weights lack {stack}.{absent[0]}, but there should be {count} layers"]
    kinds = Counter(frozenset(parts) for parts in layers.values())
    if len(kinds) != 2:  # layers of a hybrid model differ in more than what one of them lacks
        return []
    whole, other = sorted(kinds, key=len, reverse=True)
    if kinds[other] > 1 or not other < whole:
        return []
    index = next(index for index, parts in layers.items() if parts == other)
    return _lacking(f"{stack}.{index}.{part}" for part in whole - other)


def _embedding(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> list[str]:
    needed = (config.get("vocab_size"), config.get("hidden_size"))
    if not all(isinstance(size, int) for size in needed):
        return []
    for name, shape in shapes.items():
        if name.endswith(f"model.{EMBEDDING}") and shape != needed:
            return [f"{name} has the shape {list(shape)}, but config.json needs {list(needed)}"]
    return []
