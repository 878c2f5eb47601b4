"""Merging: the adapter folded into the base it was trained on, as a plain Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from mentor_edge.errors import ExportError
from mentor_edge.files import atomic_directory


def merge(student: str, adapter: Path, target: Path) -> Path:
    """Add the LoRA deltas to the base weights in float32 and save model, tokenizer and chat template to `target`.

    Always onto the unquantized base: merging into 4-bit weights loses the adapter.

    Raises: ExportError when the adapter does not fit the base; StudentError; OutputError.
    """
    import torch
    from peft import PeftModel

    from mentor_edge.engines.transformers import load_student

    model, tokenizer = load_student(student)
    try:
        merged = PeftModel.from_pretrained(model.to(torch.float32), str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"the adapter {adapter} does not fit the base {student}: {reason}") from error
    with atomic_directory(target) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target
