from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from helpers.paths import DATA
from mentor_edge.errors import OutputError, TaskError
from mentor_edge.messages import Ending, Message, ToolCall
from mentor_edge.rewards import MentorReward
from mentor_edge.tasks import gsm8k
from mentor_edge.teacher.validation import RejectedTask, validate_references, write_rejected
from mentor_edge.tools.execution.executor import ToolExecutor

EXCERPT = DATA / "gsm8k_excerpt.jsonl"
ROW = json.loads(EXCERPT.read_text().splitlines()[0])


@pytest.fixture(scope="module")
def suite():
    return gsm8k.load(EXCERPT)


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def changed(path: tuple, value: object) -> str:
    """The first row as JSON with one field replaced, or removed when `value` is `...`."""
    row = json.loads(json.dumps(ROW))
    place = row
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(row)


# Loading


def test_every_row_is_a_task_with_the_twelve_tools_by_name(suite):
    assert (suite.name, len(suite.tasks)) == ("gsm8k", 20)
    for task in suite.tasks:
        names = [tool.name for tool in task.tools]
        assert names == sorted(names) and len(names) == 12
        assert (task.split, task.domain) == ("id", "gsm8k") and task.accepted_calls is None


def test_a_row_is_told_as_a_conversation(suite):
    task = suite.tasks[0]
    assert task.id == "gsm8k_train_0" and task.answer == "72"
    assert task.prompt == (Message("user", ROW["question"] + "\nPut the final answer in \\boxed{}."),)
    assert task.reference is not None and task.reference.ending is Ending.ANSWERED
    assert task.reference.answer == "72"
    assert task.reference.messages == (
        Message("assistant", "Natalia sold 48/2 =", (ToolCall("divide", {"a": 48, "b": 2}),)),
        Message("tool", "24", name="divide"),
        Message("assistant", "24 clips in May. Natalia sold 48+24 =", (ToolCall("add", {"a": 48, "b": 24}),)),
        Message("tool", "72", name="add"),
        Message("assistant", r"\boxed{72}"),
    )


def test_steps_without_calls_do_not_end_the_conversation(suite):
    for task in suite.tasks:
        assert task.reference is not None
        *turns, last = [m for m in task.reference.messages if m.role == "assistant"]
        assert all(turn.tool_calls for turn in turns) and not last.tool_calls
    by_id = {task.id: task for task in suite.tasks}
    middle = " ".join(m.content for m in by_id["gsm8k_train_67"].reference.messages if m.role == "assistant")
    assert "The total they both have to run is 12 miles a day" in middle
    assert by_id["gsm8k_train_86"].reference.messages[-1].content.endswith(r"because 1.5 / .25 = \boxed{6}")


def test_the_suite_is_known_by_its_content(suite, tmp_path):
    copy = tmp_path / "elsewhere.jsonl"
    shutil.copy(EXCERPT, copy)
    assert gsm8k.load(copy).sha256 == suite.sha256
    copy.write_text(changed(("answer",), "73"))
    assert gsm8k.load(copy).sha256 != suite.sha256


CALL = ("steps", 0, "calls", 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[1]", "expected an object, found [1]"),
        (changed(("id",), ...), "id: missing"),
        (changed(("question",), 7), "question: expected text, found 7"),
        (changed(("answer",), None), "answer: expected text, found null"),
        (changed(("steps",), {}), "steps: expected a list, found {}"),
        (changed(("steps", 1), "x"), 'steps[1]: expected an object, found "x"'),
        (changed(("steps", 1, "thought"), ...), "steps[1].thought: missing"),
        (changed((*CALL, "name"), 3), "steps[0].calls[0].name: expected text, found 3"),
        (changed((*CALL, "arguments"), [1]), "steps[0].calls[0].arguments: expected an object, found [1]"),
        (changed((*CALL, "result"), "24"), 'steps[0].calls[0].result: expected a number, found "24"'),
        (changed((*CALL, "result"), True), "steps[0].calls[0].result: expected a number, found true"),
        (changed((*CALL, "result"), float("nan")), "steps[0].calls[0].result: expected a finite number, found NaN"),
        (changed(("answer",), ["9" * 500]), "..."),
        (json.dumps(ROW), "'gsm8k_train_0' stands on an earlier line"),
    ],
)
def test_a_malformed_line_is_named_with_field_and_value(tmp_path, line, said):
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{line}\n")
    with pytest.raises(TaskError) as raised:
        gsm8k.load(path)
    assert raised.value.problem.startswith(f"{path}:3: ")
    assert said in raised.value.problem and len(raised.value.problem) < 400


def test_five_malformed_lines_are_shown_and_the_rest_counted(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\n".join([json.dumps(ROW).encode(), *[b"{"] * 3, b'"\xff"', *[b"[]"] * 8]))
    with pytest.raises(TaskError) as raised:
        gsm8k.load(path)
    *shown, rest = raised.value.problem.split("\n")
    assert [line.split(": ")[0] for line in shown] == [f"{path}:{number}" for number in (2, 3, 4, 5, 6)]
    assert "not UTF-8" in shown[3] and rest == "and 7 more"


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_a_file_that_is_missing_or_empty_is_named(tmp_path, content):
    path = tmp_path / "tasks.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TaskError, match=r"tasks\.jsonl"):
        gsm8k.load(path)
    with pytest.raises(TaskError, match="cannot read"):
        gsm8k.load(tmp_path)


# References


def test_references_of_the_excerpt_hold_but_one_whose_last_step_was_not_computed(suite, executor):
    done: list[tuple[str, int, int]] = []
    kept, rejected = validate_references(suite.tasks, executor, progress=lambda *seen: done.append(seen))
    assert kept == [task for task in suite.tasks if task.id != "gsm8k_train_86"]
    assert rejected == [RejectedTask("gsm8k_train_86", "no call returns the answer 6")]
    assert done == [("validate references", count, 20) for count in range(21)]


def edited(task, *messages: Message, answer: str | None = None):
    return replace(task, reference=replace(task.reference, messages=messages, answer=answer or task.reference.answer))


def test_a_wrong_reference_is_rejected_with_its_reason(suite, executor):
    task = suite.tasks[0]
    first, result, *rest = task.reference.messages
    bad_call = replace(first, tool_calls=(ToolCall("divide", {"a": 48, "b": 0}),))
    unknown = replace(first, tool_calls=(ToolCall("halve", {"a": 48}),))
    cases = [
        (replace(task, reference=None), "no reference"),
        (edited(task, first, replace(result, content="25"), *rest), "returns 24, recorded is 25"),
        (edited(task, bad_call, result, *rest), "ZeroDivisionError"),
        (edited(task, unknown, replace(result, name="halve"), *rest), "no tool named"),
        (edited(task, first, *rest), "no recorded result"),
        (edited(task, first, result, result, *rest), "or a result no call"),
        (edited(task, first, result, *rest[:-1]), "the last message boxes None"),
        (edited(task, first, result, *rest[:-1], Message("assistant", r"\boxed{73}")), "boxes '73'"),
        (
            replace(
                edited(task, first, result, *rest[:-1], Message("assistant", r"\boxed{73}"), answer="73"), answer="73"
            ),
            "no call returns the answer 73",
        ),
        (replace(task, answer="73"), "reward 0.16 of 1.1: wrong answer ('72', '73')"),
        (replace(task, reference=replace(task.reference, ending=Ending.TRUNCATED)), "reward 0 of 1.1: truncated"),
    ]
    kept, rejected = validate_references([case for case, _ in cases] + [task], executor)
    assert kept == [task]
    for (_, said), found in zip(cases, rejected, strict=True):
        assert found.id == task.id and said in found.reason


def test_results_are_compared_as_numbers(suite, executor):
    task = suite.tasks[0]
    first, result, *rest = task.reference.messages
    kept, _ = validate_references([edited(task, first, replace(result, content="24.0"), *rest)], executor)
    assert len(kept) == 1


def test_another_reward_can_be_asked_for(suite, executor):
    class Never(MentorReward):
        @property
        def maximum(self) -> float:
            return 9.0

    assert len(validate_references(suite.tasks[:2], executor, Never())[1]) == 2


def test_rejected_tasks_are_written_as_rows(tmp_path):
    path = tmp_path / "rejected.jsonl"
    write_rejected(path, [RejectedTask("a", "because"), RejectedTask("b", "ü\ud800")])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    with pytest.raises(OutputError, match="cannot write"):
        write_rejected(path / "below-a-file.jsonl", [])
