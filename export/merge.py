"""Merging: the adapter folded into its base as a plain Hugging Face directory, and the choice of the base.

Two bases are legal. QLoRA trains an adapter on `dequant(quant(W))`, not on the original `W`: merged onto `W` it meets
`W - dequant(quant(W))` for the first time. Mostly that helps, for some models it ruins them (unsloth-zoo #810), so both
can be made and measured. Merging into the 4-bit weights themselves rounds the adapter away and is not offered.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mentor_edge.engines.open import identity_of
from mentor_edge.errors import ExportError
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.statistics import paired_difference
from mentor_edge.files import atomic_directory, write_json

BASES = ("16-bit", "4-bit")
RECORD = "merge.json"
KEPT = 0.99
"""The base's dtype must keep this share of the adapter's change, else the merged weights are saved in float32."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MORE_THAN_LORA = (
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
)
"""Settings of PEFT's LoRA with which an adapter is more than low-rank changes of the base's own layers."""

_HINT = "give the LoRA adapter that was trained on this base, and the very base"


@dataclass(frozen=True)
class MergeReport:
    """What `merge` did, as it stands in merge.json. All figures are over the weights that the adapter changes.

    `base` is one of `BASES`, `rank` the adapter's, `trained_on` the base that the adapter says it was trained on.
    `delta` is |D| / |W| for the adapter's change D of the weights W (Frobenius norms). `kept` is the share of D that
    rounding W + D to `base_dtype` leaves, <rounded - W, D> / <D, D>, and `rounding` the norm of what it adds / |D|;
    both are None when the adapter changes nothing. `dtype` is that of the saved weights.
    """

    base: str
    modules: int
    rank: int
    trained_on: str | None
    delta: float
    base_dtype: str
    kept: float | None
    rounding: float | None
    dtype: str


def merge(student: str, adapter: Path, target: Path, base: str = "16-bit", *, base_identity: str | None = None) -> Path:
    """Add the adapter's LoRA deltas to the weights of its base, in float32, and save the model to `target`.

    `base` "16-bit" is the student as it is stored; "4-bit" replaces what QLoRA training quantizes by its dequantized
    NF4 values, exactly as `load_student(four_bit=True)` quantizes them. Weights are saved in the base's dtype where
    that keeps the adapter's change, else in float32 (see `KEPT`): weights on bfloat16's grid round a light change away.
    Tokenizer, chat template and generation settings come along; merge.json has the `MergeReport`.

    An adapter can fit a base that it was not trained on. `base_identity`, where it was kept, is `identity_of` the
    student's directory at the time of training.

    Raises: ExportError when the adapter is damaged, is more than LoRA, or does not fit the base, or the base is another
    one; StudentError when the base cannot be loaded; OutputError.
    """
    if base not in BASES:
        raise ExportError(f"cannot merge onto {base!r}", f"known bases: {', '.join(BASES)}")
    settings = _lora_settings(adapter)
    if base_identity is not None and (found := identity_of(student)) != base_identity:
        raise ExportError(f"the base {student} has changed since the training: {found}, not {base_identity}", _HINT)
    from safetensors import SafetensorError

    model, tokenizer, dtype = _load(student, base)
    try:
        with warnings.catch_warnings(action="ignore"):  # PEFT only warns about weights that found no place: see below
            merged, report = _fold(model, adapter, base, dtype, settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(" ".join(str(error).split("\n")[:2]).split()) or type(error).__name__
        raise ExportError(f"the adapter {adapter} does not fit the base {student}: {reason}", _HINT) from error
    with atomic_directory(target) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / RECORD, asdict(report))
    return target


def dequantized_base(student: str, target: Path) -> Path:
    """Save the "4-bit" base without any adapter, in float32: what a model that was merged onto it is to be compared
    with, since its distance from the original weights is mostly not the adapter's.

    Raises: ExportError, StudentError, OutputError.
    """
    model, tokenizer, _ = _load(student, "4-bit")
    with atomic_directory(target) as temporary:
        model.float().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target


def _load(student: str, base: str) -> tuple[Any, Any, Any]:
    """(model, tokenizer, dtype of the stored weights) of a base. Raises: ExportError, StudentError."""
    from transformers import AutoConfig

    from mentor_edge.engines.torch.loading import load_student

    four_bit = base == "4-bit"
    model, tokenizer = load_student(student, four_bit=four_bit, as_stored=not four_bit)
    config = AutoConfig.from_pretrained(student)
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(f"the base {student} is stored quantized", "merge onto the model that it was made from")
    if four_bit:
        # Before any forward: on CPUs with AVX512-BF16, bitsandbytes repacks the weights for inference, at a loss.
        model = model.dequantize()
    return model, tokenizer, config.dtype or model.dtype


def untuned(student: str, base: str, target: Path) -> Path:
    """The weights that an adapter is merged onto, without it, as a directory: the student's own where those are they,
    else `target`, where they are saved.

    Raises: ExportError, StudentError, OutputError.
    """
    if base == "4-bit":
        return dequantized_base(student, target)
    if Path(student).is_dir():
        return Path(student)
    model, tokenizer, _ = _load(student, base)
    with atomic_directory(target) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target


def merge_report(directory: Path) -> MergeReport | None:
    """What `merge` wrote about a directory; None for one that it did not make.

    Raises: ExportError when the record is damaged.
    """
    path = directory / RECORD
    if not path.is_file():
        return None
    try:
        return MergeReport(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ExportError(f"{path} is damaged: {error}", "merge the adapter again") from error


def _lora_settings(adapter: Path) -> dict[str, Any]:
    """The adapter's configuration, when it is plain LoRA in files that can be read safely.

    Raises: ExportError.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (adapter / name).is_file():
            raise ExportError(f"{adapter} holds no adapter ({name} is missing)", "give the directory that PEFT saved")
    try:
        settings = json.loads((adapter / _CONFIG).read_text(encoding="utf-8"))
        kind, task = settings["peft_type"], settings.get("task_type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{adapter / _CONFIG} is damaged: {error!r}") from error
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise ExportError(f"the adapter {adapter} is {kind} for {task}, not LORA for CAUSAL_LM", _HINT)
    if beyond := [name for name in _MORE_THAN_LORA if settings.get(name)]:
        said = ", ".join(f"{name}: {settings[name]}" for name in beyond)
        raise ExportError(f"the adapter {adapter} changes more than LoRA can ({said})", "merge it with PEFT yourself")
    return dict(settings)


def _fold(model: Any, adapter: Path, base: str, dtype: Any, settings: Mapping[str, Any]) -> tuple[Any, MergeReport]:
    """The model with the adapter's deltas in its weights; `dtype` is the base's.

    Raises: ValueError saying why the adapter does not fit, and whatever PEFT raises.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from safetensors import safe_open

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    with safe_open(adapter / _WEIGHTS, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    _check_vocabulary(shapes, tuple(embedding.weight.shape))
    tuned = PeftModel.from_pretrained(model, str(adapter))
    # An adapter on embedding or head comes with the base's own weights of it; loading them has checked their shapes.
    names = [name for name in shapes if not name.endswith(".base_layer.weight")]
    _check_names(names, get_peft_model_state_dict(tuned, save_embedding_layers=False))
    layers = [layer for layer in tuned.modules() if isinstance(layer, LoraLayer)]
    if embedding.weight is head.weight and any(layer.get_base_layer() in (embedding, head) for layer in layers):
        raise ValueError("it changes one of embedding and head, which the base ties to each other")
    weights = change = kept = noise = 0.0
    with torch.no_grad():
        for layer in layers:
            parameter = layer.get_base_layer().weight
            parameter.data = before = parameter.data.float()
            layer.merge(safe_merge=True)  # refuses what is not finite
            delta, rounded = parameter.data - before, parameter.data.to(dtype).float()
            weights += _dot(before, before)
            change += _dot(delta, delta)
            kept += _dot(rounded - before, delta)
            noise += _dot(rounded - parameter.data, rounded - parameter.data)
    enough = not change or kept / change >= KEPT
    report = MergeReport(
        base,
        len(layers),
        settings["r"],
        settings.get("base_model_name_or_path"),
        math.sqrt(change / weights),
        _name(dtype),
        kept / change if change else None,
        math.sqrt(noise / change) if change else None,
        _name(dtype if enough else torch.float32),
    )
    return tuned.unload().to(dtype if enough else torch.float32), report


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _dot(left: Any, right: Any) -> float:
    return float((left.double() * right.double()).sum())


def _check_vocabulary(shapes: Mapping[str, tuple[int, ...]], embedding: tuple[int, ...]) -> None:
    """PEFT saves embeddings along that were resized for new tokens.

    Raises: ValueError.
    """
    for name, shape in shapes.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            raise ValueError(f"it has its own {name} of shape {list(shape)}, where the base has {list(embedding)}")


def _check_names(found: Collection[str], expected: Collection[str]) -> None:
    """PEFT leaves out weights that the base has no place for, and starts places afresh that got none.

    Raises: ValueError.
    """
    for names, problem in (
        (sorted(set(found) - set(expected)), "the base has no place for {}"),
        (sorted(set(expected) - set(found)), "it lacks {}"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(problem.format(f"{names[0]}{more}"))


def bases_to_try(merge_base: str, trained_in_4_bit: bool) -> tuple[str, ...]:
    """The bases that `merge_base` ("16-bit", "4-bit" or "auto") asks for. "auto" is both when the adapter was trained
    on 4-bit weights, else the only base that it knows.

    Raises: ExportError for anything else.
    """
    if merge_base == "auto":
        return BASES if trained_in_4_bit else BASES[:1]
    if merge_base not in BASES:
        raise ExportError(f"unknown merge base {merge_base!r}", f"known: auto, {', '.join(BASES)}")
    return (merge_base,)


def choose_base(candidates: Mapping[str, Evaluation]) -> tuple[str, dict[str, Any]]:
    """The base whose merged model solves more of the gate's tasks, the first one on a tie, and what that rests on.

    `candidates` has the evaluations on the same tasks in the order of `BASES`. The record has "base", "n" and "correct"
    by base; of two candidates also "difference", the paired difference second minus first with its 95 % interval
    (`PairedDifference`). A choice needs no significance: some base must be taken.

    Raises: ValueError for no candidates, or such as ran different tasks.
    """
    if not candidates:
        raise ValueError("there is nothing to choose from")
    solved = {base: [outcome.correct for outcome in candidate.outcomes] for base, candidate in candidates.items()}
    if len({tuple(outcome.task_id for outcome in candidate.outcomes) for candidate in candidates.values()}) > 1:
        raise ValueError("the candidates ran different tasks")
    base = max(solved, key=lambda name: sum(solved[name]))  # the first of equals
    record: dict[str, Any] = {
        "base": base,
        "n": len(solved[base]),
        "correct": {name: sum(bits) for name, bits in solved.items()},
    }
    if len(solved) == 2:
        first, second = solved.values()
        record["difference"] = paired_difference(first, second).model_dump()
    return base, record
