"""Supervised examples: conversations as token ids, with a mask over the assistant's turns.

An example is put together as a rollout is: the prompt, a turn with its end-of-turn token, the suffix with the tool
results, the next turn, and so on. Each piece is tokenized on its own, so imitation and reinforcement see equal ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.torch.loading import template_of
from mentor_edge.tasks.types import Task


class SupervisedExample(TypedDict):
    """`assistant_masks` is 1 on tokens of assistant turns, including the end-of-turn token, and 0 elsewhere."""

    input_ids: list[int]
    assistant_masks: list[int]


def supervised_examples(
    tokenizer: Any, tasks: Sequence[Task], template: ChatTemplate | None = None
) -> list[SupervisedExample]:
    """Encode each task with each of its references: imitation learns from all of them.

    `template` is by default the tokenizer's, without the end tokens that only the model's generation config names.

    Raises: StudentError when the template cannot render a piece, or drops a call, an argument, an answer or a result.
    """
    template = template or template_of(tokenizer)
    conversations = [
        template.pieces(task.prompt, task.tool_schemas, reference.messages)
        for task in tasks
        for reference in task.references
    ]
    texts = [text for conversation in conversations for text, _ in conversation]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    examples: list[SupervisedExample] = []
    for conversation in conversations:
        example = SupervisedExample(input_ids=[], assistant_masks=[])
        for _, by_assistant in conversation:
            ids = next(encoded)
            example["input_ids"] += ids
            example["assistant_masks"] += [int(by_assistant)] * len(ids)
        examples.append(example)
    return examples
