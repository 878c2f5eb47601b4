"""Merging: fold an adapter into its base, save a plain Hugging Face directory, and choose the base.

Two bases are possible. QLoRA trains an adapter on `dequant(quant(W))`, not on the original `W`; merged onto `W`, the
adapter meets the difference `W - dequant(quant(W))` for the first time. Usually that helps, but it ruins some models
(unsloth-zoo #810), so both merges can be made and measured. Merging into the 4-bit weights themselves would round the
adapter away and is not offered.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mentor_edge.dequantized import DEQUANTIZED, Dequantized
from mentor_edge.engines.open import identity_of
from mentor_edge.errors import ExportError
from mentor_edge.evaluation.evaluate import Evaluation
from mentor_edge.evaluation.statistics import paired_difference
from mentor_edge.files import atomic_directory, write_json
from mentor_edge.model_directory import TEMPLATE_FILE
from mentor_edge.results import BaseChoice, MergeReport, first_problem
from mentor_edge.template_record import TEMPLATE_RECORD

from .adapter_settings import HINT, WEIGHTS, check_patterns, lora_settings
from .checkpoint import tensor_shapes

BASES = ("16-bit", "4-bit")
RECORD = "merge.json"
KEPT = 0.99
"""If rounding to the base's dtype keeps less than this share of the adapter's change, the merged weights are saved in
float32."""


def merge(student: str, adapter: Path, target: Path, base: str = "16-bit", *, base_identity: str | None = None) -> Path:
    """Add an adapter's LoRA deltas to the weights of its base, in float32, and save the model.

    Weights are saved in the base's dtype if that keeps the adapter's change, else in float32: rounding to bfloat16 can
    remove a light change. Tokenizer, chat template and generation settings are copied. merge.json records
    the `MergeReport`.

    Args:
        student: directory or hub id of the base.
        adapter: directory of a LoRA adapter that PEFT saved.
        target: the directory to create.
        base: "16-bit" merges onto the student as stored; "4-bit" first replaces the weights that QLoRA training
            quantizes by their dequantized NF4 values, exactly as `load_student(four_bit=True)` quantizes them.
        base_identity: `identity_of` the student's directory at training time, if it was recorded. An adapter can fit
            a base that it was not trained on; this detects it.

    Returns:
        `target`.

    Raises:
        ExportError: when the adapter is damaged, is not plain LoRA or does not fit the base, or the base has changed.
        StudentError: when the base cannot be loaded.
        OutputError: when `target` exists or cannot be written.
    """
    if base not in BASES:
        raise ExportError(f"cannot merge onto {base!r}", f"known bases: {', '.join(BASES)}")
    settings = lora_settings(adapter)
    if base_identity is not None and (identity := identity_of(student)) != base_identity:
        raise ExportError(f"the base {student} has changed since the training: {identity}, not {base_identity}", HINT)
    from safetensors import SafetensorError

    from mentor_edge.engines.torch.loading import template_record

    model, tokenizer, dtype = _load(student, base)
    template = template_record(student)
    try:
        with warnings.catch_warnings(action="ignore"):  # `_check_names` refuses what PEFT only warns about
            merged, report = _fold(model, adapter, base, dtype, settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(" ".join(str(error).split("\n")[:2]).split()) or type(error).__name__
        raise ExportError(f"the adapter {adapter} does not fit the base {student}: {reason}", HINT) from error
    with atomic_directory(target) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        # Byte for byte: writing it as text may change its line endings.
        (temporary / TEMPLATE_FILE).write_bytes(tokenizer.chat_template.encode())
        write_json(temporary / TEMPLATE_RECORD, template.model_dump())
        write_json(temporary / RECORD, report.model_dump())
        if Path(student).is_dir() and (origin := Dequantized.of(Path(student))) is not None:
            write_json(temporary / DEQUANTIZED, origin.model_dump())
    return target


def dequantized_base(student: str, target: Path) -> Path:
    """Save the "4-bit" base without an adapter, in float32, as the baseline for a model that was merged onto it: the
    distance of such a model from the original weights comes mostly from quantization, not from the adapter.

    Raises: ExportError, StudentError, OutputError.
    """
    model, tokenizer, _ = _load(student, "4-bit")
    with atomic_directory(target) as temporary:
        model.float().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target


def _load(student: str, base: str) -> tuple[Any, Any, Any]:
    """Load a base: (model, tokenizer, dtype of the stored weights). Raises: ExportError, StudentError."""
    from transformers import AutoConfig

    from mentor_edge.engines.torch.loading import load_student

    four_bit = base == "4-bit"
    model, tokenizer = load_student(student, four_bit=four_bit, as_stored=not four_bit)
    config = AutoConfig.from_pretrained(student, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(f"the base {student} is stored quantized", "merge onto the model that it was quantized from")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        # The flag may say otherwise, and other programs believe it.
        model.config.tie_word_embeddings = False
    if four_bit:
        # Before any forward pass: on CPUs with AVX512-BF16, that makes bitsandbytes repack the weights, with a loss.
        model = model.dequantize()
    return model, tokenizer, config.dtype or model.dtype


def untuned_base(student: str, base: str, target: Path) -> Path:
    """A directory with the weights that an adapter is merged onto, without the adapter: the student's own directory if
    it contains them, else `target`, after saving them there.

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
    """The report that `merge` saved in `directory`; None if another program made the directory.

    Raises: ExportError when the record is damaged.
    """
    path = directory / RECORD
    if not path.is_file():
        return None
    try:
        return MergeReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ExportError(f"{path} is damaged: {first_problem(error)}", "merge the adapter again") from error


def _fold(model: Any, adapter: Path, base: str, dtype: Any, settings: Mapping[str, Any]) -> tuple[Any, MergeReport]:
    """The model with the adapter's deltas in its weights; `dtype` is the base's.

    Raises: ValueError with the reason why the adapter does not fit, ExportError when its file is damaged, and any error
    of PEFT.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shapes = tensor_shapes(adapter / WEIGHTS)
    _check_vocabulary(shapes, tuple(embedding.weight.shape))
    check_patterns(settings, (name for name, _ in model.named_modules()))
    tuned = PeftModel.from_pretrained(model, str(adapter))
    # An adapter on embedding or head includes the base's weights for them; loading has checked their shapes.
    names = [name for name in shapes if not name.endswith(".base_layer.weight")]
    _check_names(names, get_peft_model_state_dict(tuned, save_embedding_layers=False))
    layers = [layer for layer in tuned.modules() if isinstance(layer, LoraLayer)]
    if embedding.weight is head.weight and any(layer.get_base_layer() in (embedding, head) for layer in layers):
        raise ValueError("it changes the embedding or the head, which the base ties to each other")
    weights = change = kept_change = noise = 0.0
    with torch.no_grad():
        for layer in layers:
            parameter = layer.get_base_layer().weight
            parameter.data = before = parameter.data.float()
            layer.merge(safe_merge=True)  # raises for values that are not finite
            delta, rounded = parameter.data - before, parameter.data.to(dtype).float()
            weights += _dot(before, before)
            change += _dot(delta, delta)
            kept_change += _dot(rounded - before, delta)
            noise += _dot(rounded - parameter.data, rounded - parameter.data)
    base_dtype_suffices = not change or kept_change / change >= KEPT
    saved_dtype = dtype if base_dtype_suffices else torch.float32
    report = MergeReport(
        base=base,
        modules=len(layers),
        rank=settings["r"],
        trained_on=settings.get("base_model_name_or_path"),
        delta=math.sqrt(change / weights),
        base_dtype=_name(dtype),
        kept=kept_change / change if change else None,
        rounding=math.sqrt(noise / change) if change else None,
        dtype=_name(saved_dtype),
    )
    return tuned.unload().to(saved_dtype), report


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _dot(left: Any, right: Any) -> float:
    return float((left.double() * right.double()).sum())


def _check_vocabulary(shapes: Mapping[str, tuple[int, ...]], embedding: tuple[int, ...]) -> None:
    """Refuse resized embeddings, which PEFT saves with an adapter that adds tokens.

    Raises: ValueError.
    """
    for name, shape in shapes.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            raise ValueError(f"it has its own {name} of shape {list(shape)}, where the base has {list(embedding)}")


def _check_names(stored: Collection[str], expected: Collection[str]) -> None:
    """Refuse weights without a layer in the base, which PEFT ignores, and missing weights, which it initializes.

    Raises: ValueError.
    """
    for names, problem in (
        (sorted(set(stored) - set(expected)), "the base has no layer for {}"),
        (sorted(set(expected) - set(stored)), "it lacks {}"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(problem.format(f"{names[0]}{more}"))


def bases_to_try(merge_base: str, trained_in_4_bit: bool) -> tuple[str, ...]:
    """The bases that the setting `merge_base` stands for.

    Args:
        merge_base: "16-bit", "4-bit" or "auto". "auto" is both for an adapter that was trained on 4-bit weights, else
            "16-bit", the only base that the adapter was trained on.
        trained_in_4_bit: whether the adapter was trained on 4-bit weights.

    Returns:
        One base, or two to choose from.

    Raises:
        ExportError: when the setting is unknown.
    """
    if merge_base == "auto":
        return BASES if trained_in_4_bit else BASES[:1]
    if merge_base not in BASES:
        raise ExportError(f"unknown merge base {merge_base!r}", f"known: auto, {', '.join(BASES)}")
    return (merge_base,)


def choose_base(evaluations: Mapping[str, Evaluation]) -> BaseChoice:
    """The base whose merged model solves more of the gate's tasks, the first one on a tie.

    `evaluations` are those of the merged models on the same tasks, in the order of `BASES`. The difference need not be
    significant: one base must be chosen.

    Raises: ValueError when there are no evaluations, or they are of different tasks.
    """
    if not evaluations:
        raise ValueError("there are no evaluations to choose from")
    solved = {base: [outcome.correct for outcome in evaluation.outcomes] for base, evaluation in evaluations.items()}
    if len({tuple(outcome.task_id for outcome in evaluation.outcomes) for evaluation in evaluations.values()}) > 1:
        raise ValueError("the candidates ran different tasks")
    base = max(solved, key=lambda name: sum(solved[name]))  # the first of equals
    sides = list(solved.values())
    return BaseChoice(
        base=base,
        n=len(solved[base]),
        correct={name: sum(bits) for name, bits in solved.items()},
        difference=paired_difference(sides[0], sides[1]) if len(sides) == 2 else None,
    )
