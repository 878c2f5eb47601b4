"""Supervised examples have the ids and masks of a rollout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import DATA
from helpers.scripted_engine import call_text
from helpers.tiny_models import make_student
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.torch.engine import TransformersEngine
from mentor_edge.messages import Message
from mentor_edge.recipes.examples import supervised_examples
from mentor_edge.tasks import gsm8k
from mentor_edge.tasks.nano.suites import evaluation_suite
from mentor_edge.tasks.types import Task
from mentor_edge.tools.execution.executor import ToolExecutor

EXCERPT = DATA / "gsm8k_excerpt.jsonl"


@pytest.fixture(scope="module")
def nano_engine(nano_student: Path) -> TransformersEngine:
    return TransformersEngine.load(nano_student)


class Prompter:
    """An engine with the student's tokenizer that writes the turns of a reference."""

    def __init__(self, engine: TransformersEngine, turns: list[str]) -> None:
        self.template, self.context_length, self.batch_size = engine.template, 4096, 1
        self.encode, self.decode = engine.encode, engine.decode
        self.turns = turns

    def open(self, size: int) -> Any:
        from contextlib import nullcontext

        return nullcontext(self)

    def extend(self, rows: Any, token_ids: Any, sampling: Sampling) -> list[Generation]:
        return [Generation(self.encode([self.turns.pop(0) + self.template.eos_token])[0], finished=True)]


@pytest.mark.parametrize("source", ["nano", "gsm8k"])
def test_examples_equal_what_the_agent_loop_sees(nano_engine: TransformersEngine, source: str) -> None:
    """The ids and the mask of a reference equal those of a rollout with the same turns."""
    if source == "nano":
        tasks = evaluation_suite({"id": 8, "comb": 8, "names": 8, "irrel": 4, "lookup": 8}).tasks
    else:
        # One reference records 2, but the calculator returns 2.0000000001: equal as numbers, not as tokens.
        tasks = tuple(task for task in gsm8k.load(EXCERPT).tasks if exact(task))
        assert len(tasks) == 19
    examples = supervised_examples(nano_engine.tokenizer, tasks)
    with ToolExecutor() as executor:
        for task, example in zip(tasks, examples, strict=True):
            assert task.reference is not None
            turns = [message for message in task.reference.messages if message.role == "assistant"]
            prompter = Prompter(nano_engine, [turn_text(message) for message in turns])
            limits = AgentLimits(tool_rounds=20, tokens_per_turn=500, completion_tokens=4000)
            (rollout,) = run_conversations(prompter, [task], executor, limits)
            assert rollout.messages == task.reference.messages
            assert example["input_ids"] == [*rollout.prompt_ids, *rollout.completion_ids]
            assert example["assistant_masks"] == [*[0] * len(rollout.prompt_ids), *rollout.sampled]


def exact(task: Task) -> bool:
    assert task.reference is not None
    calls = iter(task.reference.calls)
    results = [message.content for message in task.reference.messages if message.role == "tool"]
    return results == [json.dumps(task.tools_by_name[c.name].function(**c.arguments)) for c in calls]


def turn_text(message: Message) -> str:
    calls = [call_text(call.name, json.dumps(dict(call.arguments))) for call in message.tool_calls]
    return message.content + "\n".join(calls)


@pytest.mark.parametrize("family_template", ["nano", "tiny"])
def test_the_mask_covers_the_assistants_turns_and_nothing_else(
    nano_engine: TransformersEngine, tmp_path: Path, family_template: str
) -> None:
    engine = nano_engine if family_template == "nano" else TransformersEngine.load(make_student(tmp_path))
    tasks = evaluation_suite({"id": 6, "irrel": 2, "lookup": 4}).tasks
    for task, example in zip(tasks, supervised_examples(engine.tokenizer, tasks), strict=True):
        assert task.reference is not None
        spans, previous = [], 0
        for token, mask in zip(example["input_ids"], example["assistant_masks"], strict=True):
            if mask and not previous:
                spans.append([])
            if mask:
                spans[-1].append(token)
            previous = mask
        written = [message for message in task.reference.messages if message.role == "assistant"]
        assert engine.decode(spans) == [turn_text(message) + "<|im_end|>" for message in written]
        rendered = engine.template.render((*task.prompt, *task.reference.messages), task.tool_schemas)
        assert rendered.startswith(engine.decode([example["input_ids"]])[0])
