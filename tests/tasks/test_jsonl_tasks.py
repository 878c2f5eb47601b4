"""Tasks files: reading, refusing malformed rows, and writing tasks that can be read back."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import DATA
from helpers.task_rows import CALCULATORS, CALL, CALLS_ROW, FORECAST, ROW, accepting, changed, loaded, written
from mentor_edge.errors import MentorEdgeWarning, TaskError
from mentor_edge.files import write_jsonl
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks import bfcl, gsm8k, jsonl
from mentor_edge.tasks.accepted_calls import read_accepted_calls
from mentor_edge.tasks.call_matching import match_calls
from mentor_edge.tasks.nano.suites import evaluation_suite, training_suite
from mentor_edge.tasks.types import Suite, Task, never_executed
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool

PARAMETERS = ("tools", 0, "function", "parameters")

# Reading


def test_a_row_is_a_task(tmp_path: Path) -> None:
    suite = loaded(tmp_path, ROW, CALLS_ROW | {"split": "ood", "domain": "weather"})
    assert (suite.name, suite.version) == ("mine", "1")
    first, second = suite.tasks
    assert (first.id, first.split, first.domain, first.answers, first.accepted_calls) == (
        "sum",
        "id",
        "mine",
        ("5",),
        None,
    )
    assert first.prompt == (Message("system", "Box it."), Message("user", "2 + 3?"))
    assert first.tools == (CALCULATORS["add"],)
    assert first.reference == Trajectory(
        (
            Message("assistant", "", (ToolCall("add", {"a": 2, "b": 3}),)),
            Message("tool", "5", name="add"),
            Message("assistant", r"\boxed{5}"),
        ),
        "5",
        Ending.ANSWERED,
    )
    assert (second.split, second.domain, second.answers) == ("ood", "weather", ())
    assert second.accepted_calls == ({"forecast": {"city": ["Paris"]}},)
    assert second.reference is not None and second.reference.ending is Ending.OUT_OF_TURNS


def test_without_a_tools_field_all_implementations_are_offered_by_name(tmp_path: Path) -> None:
    (task,) = loaded(tmp_path, changed(ROW, "tools")).tasks
    assert [tool.name for tool in task.tools] == sorted(CALCULATORS)
    with pytest.raises(TaskError, match="tools: missing, and there are no implementations to offer"):
        jsonl.load(tmp_path / "mine.jsonl")


def test_a_schema_is_executed_by_the_implementation_of_its_name(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    schema = {"type": "function", "function": {"name": "add", "description": "plus", "parameters": parameters}}
    (task,) = loaded(tmp_path, changed(ROW, "tools", to=[schema])).tasks
    assert task.tool_schemas == (schema,)
    with ToolExecutor() as executor:
        assert executor.run(ToolCall("add", {"a": 2, "b": 3}), task.tools_by_name).content == "5"


def test_schemas_of_other_dialects_are_read_and_warned_of_once(tmp_path: Path) -> None:
    parameters = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"city": {"$ref": "#/definitions/City"}, "days": {"type": "int", "minimum": "one"}},
        "definitions": {"City": {"type": "string", "pattern": "^\\p{Lu}"}},
    }
    row = changed(accepting({"name": "forecast", "arguments": {"city": "Éze"}}), *PARAMETERS, to=parameters)
    with pytest.warns(MentorEdgeWarning) as caught:
        suite = loaded(tmp_path, row, row | {"id": "again"})
    (note,) = caught
    assert str(note.message) == "tool 'forecast': parameter 'days': minimum is \"one\", and is not checked"
    assert suite.tasks[0].tool_schemas[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "^\\p{Lu}"}, "days": {"type": "integer"}},
    }


def test_several_answers_and_references(tmp_path: Path) -> None:
    row = changed(changed(ROW, "answer"), "reference") | {
        "answers": ["five", "5"],
        "references": [ROW["reference"][2:], ROW["reference"]],
    }
    (task,) = loaded(tmp_path, row).tasks
    assert (task.answer, task.other_answers) == ("five", ("5",))
    assert [len(reference.messages) for reference in task.references] == [1, 3]


REFERENCE = ("reference", 0, "tool_calls", 0, "function")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1], "expected an object, found [1]"),
        (changed(ROW, "id"), "id: missing"),
        (changed(ROW, "id", to=7), "id: expected text, found 7"),
        (changed(ROW, "id", to=" "), "id: is empty"),
        (changed(ROW, "messages"), "messages: missing"),
        (changed(ROW, "messages", to="2 + 3?"), 'messages: expected a list, found "2 + 3?" (a plain string skips'),
        (changed(ROW, "messages", to=[]), "messages: is empty"),
        (changed(ROW, "messages", 1, to="2 + 3?"), 'messages[1]: expected an object, found "2 + 3?"'),
        (changed(ROW, "messages", 1, "role", to="human"), 'messages[1].role: expected "system" or "user" or'),
        (changed(ROW, "messages", 1, "content", to=["2"]), 'messages[1].content: expected text or null, found ["2"]'),
        (changed(ROW, "messages", 1, "content", to=None), "messages[1]: a user message needs content and must not"),
        (changed(ROW, "messages", 1, "tool_calls", to=[CALL]), "[1]: a user message needs content and must not"),
        (changed(ROW, "messages", 1, "contents", to=""), "[1]: unknown field 'contents' (did you mean 'content'?)"),
        (changed(ROW, "messages", 1), "messages: no user message"),
        (changed(ROW, "messages", to=[*ROW["messages"], {"role": "assistant", "content": "5"}]), "the last one is the"),
        (changed(ROW, "messages", 1, "content", to="\ud800"), "contains half of a surrogate pair"),
        (ROW | {"anwser": "5"}, "unknown field 'anwser' (did you mean 'answer'?)"),
        (ROW | {"id": 7, "split": "test"}, 'id: expected text, found 7; split: expected "id" or "ood", found "test"'),
        (changed(ROW, "answer"), "give one of answer, answers and accepted_calls (found none of them)"),
        (ROW | {"accepted_calls": []}, "answers and accepted_calls (found answer and accepted_calls)"),
        (changed(ROW, "answer", to=5), "answer: expected text, found 5"),
        (changed(ROW, "answer") | {"answers": []}, "answers: is empty"),
        (changed(ROW, "answer") | {"answers": "5"}, 'answers: expected a list, found "5"'),
        (ROW | {"references": [ROW["reference"]]}, "give reference or references, not both"),
        (ROW | {"domain": ""}, "domain: is empty"),
        # Tools
        (changed(ROW, "tools", to=["ad"]), "tools[0]: tool 'ad' has no implementation (did you mean 'add'?)"),
        (changed(ROW, "tools", to=["add", "add"]), "tools[1]: 'add' is offered twice"),
        (changed(ROW, "tools", to=[7]), "tools[0]: expected text or an object, found 7"),
        (changed(ROW, "tools", to=[{"name": "add"}]), "tools[0].function: missing"),
        (changed(CALLS_ROW, "tools", 0, "function", "parameters", "type", to="array"), "its type is 'array'"),
        (
            changed(CALLS_ROW, "tools", 0, "function", "parameters", "properties", to={"x": {"$ref": "http://0.0.0.0/"}}),
            "tools[0].function: tool 'forecast': its parameters are not a JSON Schema of arguments: the "
            "reference 'http://0.0.0.0/' cannot be resolved",
        ),
        # References
        (changed(ROW, "reference", to=[]), "reference: is empty"),
        (changed(ROW, "reference", 0), "reference: must start with an assistant message"),
        (changed(ROW, "reference", 1, to=ROW["messages"][1]), "contain only assistant and tool messages"),
        (changed(ROW, *REFERENCE, "arguments", to="{a: 2}"), 'function.arguments: not a JSON object: "{a: 2}"'),
        (changed(ROW, *REFERENCE, "arguments", to='{"a": NaN}'), "arguments: not a JSON object"),
        (changed(ROW, *REFERENCE, "arguments", to='{"a": "\\ud800"}'), "arguments: not a JSON object"),
        (changed(ROW, *REFERENCE, "arguments", to="[2]"), 'arguments: not a JSON object: "[2]"'),
        (changed(ROW, *REFERENCE, "arguments", to=[2]), "arguments: expected an object or text, found [2]"),
        (changed(ROW, *REFERENCE, "name"), "reference[0].tool_calls[0].function.name: missing"),
        (changed(ROW, "reference", 1, "tool_call_id", to="d"), 'reference[1].tool_call_id: expected "c", found "d"'),
        (
            changed(CALLS_ROW, "accepted_calls") | {"answer": "yes"},
            "the reference calls 'forecast', which has a schema and no implementation: give one with --tools import:",
        ),
        # Accepted calls
        (accepting({"forcast": {"city": ["Paris"]}}), "[0]: tool 'forcast' is not offered (did you mean 'forecast'?)"),
        (accepting({"forecast": {"days": [1]}}), "accepted_calls[0]: forecast requires 'city'"),
        (accepting({"forecast": {"city": ["P"], "day": [1]}}), "has no parameter 'day' (did you mean 'days'?)"),
        (accepting({"forecast": {"city": "Paris"}}), 'accepted_calls[0].forecast.city: expected a list, found "Paris"'),
        (accepting({"forecast": {"city": []}}), "accepted_calls[0].forecast.city: is empty"),
        (accepting({"forecast": {"city": ["P"], "spans": [1]}}), "expected a list among the accepted values, found 1"),
        (accepting({"forecast": {"city": ["P"], "where": [{"a": 1}]}}), "where.a: expected a list of accepted values"),
        (accepting({"forecast": {"city": ["P"], "spans": [[{"a": 1}]]}}), "spans.a: expected a list of accepted"),
        (accepting({"name": "forecast", "arguments": {"days": 1}}), "[0].arguments: 'city' is a required property"),
        (accepting({"name": "forecast", "arguments": {"city": ""}}), 'arguments.city: "" cannot be required'),
        (accepting({"name": "forecast", "arguments": {"city": "P", "spans": [{"a": ""}]}}), '"" cannot be required'),
        (accepting({"name": "forecast", "argument": {}}), "[0].arguments: missing; accepted_calls[0]: unknown field"),
        (accepting({"nmae": "forecast", "arguments": {}}), 'accepted_calls[0]: expected {"name": ..., "arguments":'),
        (CALLS_ROW | {"domain": "irrelevance"}, "domain: in BFCL's irrelevance no call is right"),
        (accepting({"forecast": {"city": [float("nan")]}}), "Out of range float"),
        # Many mistakes
        (changed(ROW, "messages", to=[1] * 100_000), "; messages[9]: expected an object, found 1"),
        (ROW | {f"k{number}": 1 for number in range(100_000)}, "unknown field 'k0'"),
    ],
)  # a table  # fmt: skip
def test_a_bad_row_is_refused_with_line_field_and_value(tmp_path: Path, row: Any, problem: str) -> None:
    with pytest.raises(TaskError) as refused:
        loaded(tmp_path, ROW | {"id": "other"}, row)
    assert refused.value.problem.startswith(f"{tmp_path / 'mine.jsonl'}:2: ")
    assert problem in refused.value.problem
    assert len(refused.value.problem.replace(str(tmp_path), "")) < 500


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "zeros.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TaskError, match=":1: the line has more than 16 MiB"):
        jsonl.load(path)


def test_all_bad_lines_are_reported_together_and_the_first_five_in_full(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.jsonl", ROW, ROW, *[{}] * 3)
    path.write_text(path.read_text() + "{\n\n" + json.dumps(ROW | {"split": "x"}))
    with pytest.raises(TaskError) as refused:
        jsonl.load(path, CALCULATORS)
    *listed, rest = refused.value.problem.split("\n")
    assert [line.split(": ")[0].rpartition(":")[2] for line in listed] == ["2", "3", "4", "5", "6"]
    assert "id: 'sum' is already used on an earlier line" in listed[0] and "id: missing; messages: missing" in listed[1]
    assert "not JSON" in listed[4] and rest == "and 1 more"


def test_the_schema_of_a_row_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(jsonl.ROW_SCHEMA)


# Writing and reading back


def suites() -> list[Suite]:
    excerpts = [bfcl.load(DATA / "bfcl"), gsm8k.load(DATA / "gsm8k_excerpt.jsonl")]
    executable = ("id", "para", "comb", "names", "irrel")  # only a lookup's own tools know its table
    return [*excerpts, training_suite(8, references=3), evaluation_suite(dict.fromkeys(executable, 3))]


@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.name)
def test_every_suite_can_be_written_and_read(tmp_path: Path, suite: Suite) -> None:
    path = tmp_path / "copy.jsonl"
    write_jsonl(path, map(jsonl.to_row, suite.tasks))
    named = {tool.name: tool for task in suite.tasks for tool in task.tools}
    copy = jsonl.load(path, named)
    assert copy.sha256 == Suite("copy", "1", suite.tasks).sha256
    assert [task.references for task in copy.tasks] == [task.references for task in suite.tasks]


def test_a_task_that_accepts_nothing_cannot_be_written() -> None:
    with pytest.raises(TaskError, match="task t accepts neither answers nor calls"):
        jsonl.to_row(Task("t", (Message("user", "?"),), (), "id", "d"))


text = st.text(st.characters(codec="utf-8"), max_size=20)
plain_characters = st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])
names = st.text(plain_characters, min_size=1, max_size=20).filter(str.strip)
words = text.filter(lambda value: bool(value.strip()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(ToolCall, text, st.dictionaries(text, values, max_size=3))
turns = st.builds(Message, st.just("assistant"), text, st.lists(calls, max_size=2).map(tuple))
other_messages = st.builds(Message, st.sampled_from(["user", "system"]), text)
teachers = st.lists(turns, min_size=1, max_size=3).map(
    # Every call is followed by its result.
    lambda turns: tuple(m for t in turns for m in (t, *(Message("tool", "r", name=c.name) for c in t.tool_calls)))
).map(lambda messages: Trajectory(messages, None, Ending.ANSWERED))  # a table  # fmt: skip


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    kinds = st.sampled_from(["string", "integer", "number", "boolean", "array", "object"])
    parameters = st.dictionaries(names, kinds.map(lambda kind: {"type": kind}), max_size=2)
    drawn = draw(st.dictionaries(names, st.tuples(text, parameters), min_size=1, max_size=3))
    tools = tuple(
        Tool(name, description, {"type": "object", "properties": properties}, never_executed)
        for name, (description, properties) in drawn.items()
    )
    accepted = None
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(tools), max_size=2))
        accepted = tuple({tool.name: {key: [""] for key in tool.parameters["properties"]}} for tool in chosen)
    answers = draw(st.lists(words, min_size=1, max_size=3)) if accepted is None else [None]
    references = draw(st.lists(teachers, max_size=2)) if accepted is not None else []
    return Task(
        "",
        (*draw(st.lists(other_messages | turns, max_size=2)), Message("user", draw(text))),
        tools,
        draw(st.sampled_from(["id", "ood"])),
        draw(words),
        answer=answers[0],
        other_answers=tuple(answers[1:]),
        accepted_calls=accepted,
        reference=references[0] if references else None,
        other_references=tuple(references[1:]),
        gold_passages=tuple(draw(st.lists(words, max_size=2))),
    )


@settings(max_examples=60)
@given(st.dictionaries(words, tasks(), min_size=1, max_size=3))
def test_any_task_can_be_written_and_read_back(drawn: dict[str, Task]) -> None:
    suite = Suite("file", "1", tuple(replace(task, id=name) for name, task in drawn.items()))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file.jsonl"
        write_jsonl(path, map(jsonl.to_row, suite.tasks))
        back = jsonl.load(path)
    assert back.sha256 == suite.sha256
    for read, task in zip(back.tasks, suite.tasks, strict=True):
        assert [r.messages for r in read.references] == [r.messages for r in task.references]


plain = st.integers(-9, 9) | words
exact_arguments = st.fixed_dictionaries(
    {"city": words},
    optional={
        "days": st.integers(), "where": st.dictionaries(words, plain | st.lists(plain, max_size=2), max_size=2),
        "spans": st.lists(st.dictionaries(words, plain, max_size=2), max_size=2),
    },
)  # a table  # fmt: skip


@given(exact_arguments, st.integers())
def test_exact_arguments_are_accepted_and_others_are_not(arguments: dict[str, Any], days: int) -> None:
    tool = Tool("forecast", "", FORECAST, never_executed)
    accepted = read_accepted_calls([{"name": "forecast", "arguments": arguments}], {"forecast": tool})

    def right(given: dict[str, Any]) -> bool:
        functions = [tool.to_openai()["function"]]
        return match_calls("d", functions, accepted, [{"name": "forecast", "arguments": given}]).valid

    assert right(arguments)
    assert right({**arguments, "days": days}) == (arguments.get("days") == days)
    assert all(not right({k: v for k, v in arguments.items() if k != left_out}) for left_out in arguments)
