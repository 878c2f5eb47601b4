"""Supervised examples: conversations as token ids, with a mask over the assistant's turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.torch.loading import template_of
from mentor_edge.errors import StudentError
from mentor_edge.tasks.types import Task


class SupervisedExample(TypedDict):
    """`assistant_masks` is 1 on tokens of assistant turns, including the end-of-turn token, and 0 elsewhere."""

    input_ids: list[int]
    assistant_masks: list[int]


def _segments(template: ChatTemplate, task: Task) -> list[tuple[str, bool]]:
    """The rendered conversation in pieces: (text, whether the assistant wrote it)."""
    assert task.reference is not None
    messages = (*task.prompt, *task.reference.messages)
    pieces: list[tuple[str, bool]] = []
    rendered = ""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = template.render(messages[:index], task.tool_schemas, add_generation_prompt=True)
        after = template.render(messages[: index + 1], task.tool_schemas)
        after = after[: after.rfind(template.eos_token) + len(template.eos_token)]
        if not (before.startswith(rendered) and after.startswith(before)):
            raise StudentError(
                "the chat template changes earlier text when a message is added, so turns cannot be masked",
                "use a prefix-preserving template (for Qwen3: the training template that comes with TRL)",
            )
        pieces += [(before[len(rendered) :], False), (after[len(before) :], True)]
        rendered = after
    return pieces


def one_task_per_reference(tasks: Sequence[Task]) -> list[Task]:
    """Turn a task with several references into several tasks with one each: SFT imitates all of them."""
    return [replace(task, reference=reference, other_references=()) for task in tasks for reference in task.references]


def supervised_examples(tokenizer: Any, tasks: Sequence[Task]) -> list[SupervisedExample]:
    """Encode each task with its reference, in the tokenizer's own chat template.

    Pieces (prompt, turns, tool results) are tokenized one by one, as in a rollout.

    Raises: StudentError when the chat template is not prefix-preserving.
    """
    template = template_of(tokenizer)
    pieces = [_segments(template, task) for task in tasks]
    texts = [text for conversation in pieces for text, _ in conversation]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    examples: list[SupervisedExample] = []
    for conversation in pieces:
        example = SupervisedExample(input_ids=[], assistant_masks=[])
        for _, by_assistant in conversation:
            ids = next(encoded)
            example["input_ids"] += ids
            example["assistant_masks"] += [int(by_assistant)] * len(ids)
        examples.append(example)
    return examples
