from __future__ import annotations

import json
import shutil

import pytest

from helpers import task_rows
from helpers.paths import DATA
from mentor_edge.errors import TaskError
from mentor_edge.messages import Ending, Message, ToolCall
from mentor_edge.tasks import gsm8k

EXCERPT = DATA / "gsm8k_excerpt.jsonl"
ROW = json.loads(EXCERPT.read_text().splitlines()[0])


@pytest.fixture(scope="module")
def suite():
    return gsm8k.load(EXCERPT)


def changed(path: tuple, value: object) -> str:
    """The first row as JSON with one field replaced, or removed if `value` is `...`."""
    return json.dumps(task_rows.changed(ROW, *path, to=value))


# Loading


def test_every_row_is_a_task_with_the_twelve_tools_by_name(suite):
    assert (suite.name, len(suite.tasks)) == ("gsm8k", 20)
    for task in suite.tasks:
        names = [tool.name for tool in task.tools]
        assert names == sorted(names) and len(names) == 12
        assert (task.split, task.domain) == ("id", "gsm8k") and task.accepted_calls is None


def test_a_row_becomes_a_conversation(suite):
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


def test_the_hash_covers_the_content(suite, tmp_path):
    copy = tmp_path / "elsewhere.jsonl"
    shutil.copy(EXCERPT, copy)
    assert gsm8k.load(copy).sha256 == suite.sha256
    copy.write_text(changed(("answer",), "73"))
    assert gsm8k.load(copy).sha256 != suite.sha256


CALL = ("steps", 0, "calls", 0)


@pytest.mark.parametrize(
    ("line", "problem"),
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
        (json.dumps(ROW), "'gsm8k_train_0' is already used on an earlier line"),
    ],
)
def test_a_malformed_line_is_named_with_field_and_value(tmp_path, line, problem):
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{line}\n")
    with pytest.raises(TaskError) as raised:
        gsm8k.load(path)
    assert raised.value.problem.startswith(f"{path}:3: ")
    assert problem in raised.value.problem and len(raised.value.problem) < 400


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
