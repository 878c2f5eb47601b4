"""Warm start: train the nano student from scratch on broad generated practice. It stands in for pretraining.

`torch.optim.Muon` optimizes the matrices, AdamW the rest. With AdamW alone, the student learns almost nothing in
the same number of steps.
"""

from __future__ import annotations

import itertools
import math
import random
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mentor_edge.progress import Progress, no_progress
from mentor_edge.tasks.nano.suites import PRACTICE, warm_start_stream

from ..examples import SupervisedExample, supervised_examples
from .student import build_model, build_tokenizer

STEPS = {"nano": 140, "nano-broad": 180}
"""Steps of each embedded student's warm start."""
_BATCH = 64
_WARMUP = 30
_LEARNING_RATE = 4e-3
_CONSTANT_PART = 0.6


def bfloat16_products() -> AbstractContextManager[Any]:
    """In this context, products of bfloat16 matrices take about as long as those of float32 matrices, on any CPU.

    Muon computes in bfloat16. On a processor without AVX-512, torch multiplies such matrices 10 to 40 times slower than
    float32 ones. There, they are multiplied in float32 and the result is rounded, as bfloat16 instructions do, too.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return nullcontext()

    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)

    class Float32Products(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = kwargs or {}
            if operator not in products or args[0].dtype != torch.bfloat16:
                return operator(*args, **options)
            return operator(*(matrix.float() for matrix in args), **options).bfloat16()

    return Float32Products()


def _rate(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up, constant, then linear decay to zero."""
    decay_from = _CONSTANT_PART * steps
    decayed = 1.0 if step < decay_from else (steps - step) / (steps - decay_from)
    return min((step + 1) / min(_WARMUP, max(1, steps // 4)), decayed)


def _batch(examples: list[SupervisedExample], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(example["input_ids"]) for example in examples)
    ids = torch.full((len(examples), width), pad, dtype=torch.long)
    labels = torch.full((len(examples), width), -100, dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        ids[row, :length] = torch.tensor(example["input_ids"])
        taught = torch.tensor(example["assistant_masks"], dtype=torch.bool)
        labels[row, :length] = torch.where(taught, ids[row, :length], -100)
    return ids, labels


def warm_start(
    directory: Path,
    *,
    student: str = "nano",
    seed: int = 0,
    steps: int | None = None,
    progress: Progress = no_progress,
) -> list[float]:
    """Train an embedded student ("nano" or "nano-broad"), save it as a Hugging Face directory, and return the loss of
    every step.

    The same seed yields the same student on one machine with the same number of threads.
    """
    import torch

    steps = STEPS[student] if steps is None else steps
    random.seed(seed)
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer, seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    other_parameters = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    optimizers = [
        torch.optim.Muon(
            matrices, lr=5 * _LEARNING_RATE, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(other_parameters, lr=1.5 * _LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, steps)) for o in optimizers]
    practice = warm_start_stream(seed, PRACTICE[student])
    model.train()
    losses: list[float] = []
    progress("warm start", 0, steps)
    for step in range(steps):
        ids, labels = _batch(
            supervised_examples(tokenizer, list(itertools.islice(practice, _BATCH))), tokenizer.pad_token_id
        )
        # Padding is on the right and has no labels, so causal attention needs no mask.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        taught = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[taught]), labels[:, 1:][taught])
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the warm start diverged at step {step} (loss {loss.item()})")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            with bfloat16_products():
                optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        progress("warm start", step + 1, steps)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return losses
