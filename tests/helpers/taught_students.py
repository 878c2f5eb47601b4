"""Nano students taught a few conversations in seconds: small models that really call tools and sometimes are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mentor_edge.tasks.types import Task

_TOGETHER = 4
"""Examples that are padded to the same length. One of them is twice as long as most."""


def teach(directory: Path, tasks: Sequence[Task], *, steps: int, learning_rate: float = 3e-3) -> Path:
    """Train a new nano student on the references of `tasks`, all of them at every step, and save it."""
    import torch

    from mentor_edge.recipes.examples import supervised_examples
    from mentor_edge.recipes.nano.student import build_model, build_tokenizer

    tokenizer = build_tokenizer(seed=0, conversations=300)
    model = build_model(tokenizer, seed=0)
    examples = sorted(supervised_examples(tokenizer, tasks), key=lambda example: len(example["input_ids"]))
    groups = [_padded(examples[start : start + _TOGETHER], tokenizer) for start in range(0, len(examples), _TOGETHER)]
    taught = sum(int((labels >= 0).sum()) for _, labels in groups)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for _ in range(steps):
        for ids, labels in groups:
            share = int((labels >= 0).sum()) / taught  # the loss is a mean over the tokens that are taught
            (share * model(input_ids=ids, labels=labels).loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _padded(examples: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[Any, Any]:
    """The ids of some examples, and the labels of what the assistant writes in them."""
    import torch

    width = max(len(example["input_ids"]) for example in examples)
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        ids[row, :length] = torch.tensor(example["input_ids"])
        mask = torch.tensor(example["assistant_masks"], dtype=torch.bool)
        labels[row, :length][mask] = ids[row, :length][mask]
    return ids, labels
