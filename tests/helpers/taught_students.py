"""Nano students taught a few conversations in seconds: small models that really call tools and sometimes are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mentor_edge.tasks.types import Task


def teach(directory: Path, tasks: Sequence[Task], *, steps: int, learning_rate: float = 3e-3) -> Path:
    """Train a new nano student on the references of `tasks`, all of them at every step, and save it."""
    import torch

    from mentor_edge.recipes.examples import supervised_examples
    from mentor_edge.recipes.nano.student import build_model, build_tokenizer

    tokenizer = build_tokenizer(seed=0, conversations=300)
    model = build_model(tokenizer, seed=0)
    examples = supervised_examples(tokenizer, tasks)
    width = max(len(example["input_ids"]) for example in examples)
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        ids[row, :length] = torch.tensor(example["input_ids"])
        mask = torch.tensor(example["assistant_masks"], dtype=torch.bool)
        labels[row, :length][mask] = ids[row, :length][mask]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
