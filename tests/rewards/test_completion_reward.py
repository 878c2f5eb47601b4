r"""Scoring raw text: the values of the released code, each of its quirks, and no input that raises."""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import DOCS
from mentor_edge.errors import ConfigError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards import MentorReward, Reward, SparseReward, score_completion
from mentor_edge.tasks.types import Task
from mentor_edge.tools.calculator import CALCULATOR

EOS = "<|im_end|>"
TEACHER = ["add", "divide"]
TOOLS = [tool.name for tool in CALCULATOR]
REWARDS: dict[str, Reward] = {
    "mentor": MentorReward(),
    "sparse": SparseReward(),
    "overlap": MentorReward("overlap"),
    "none": MentorReward("none"),
    "f1": MentorReward("f1"),
    "strict": MentorReward("strict"),
}
VARIANTS = list(REWARDS)


def block(name: Any, arguments: Any = None) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments or {}})}\n</tool_call>"


def completion(*tools: str, answer: str | None = "5", end: str = EOS) -> str:
    turn = "{}<|im_end|>\n<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    boxed = "I cannot tell." if answer is None else rf"The answer is \boxed{{{answer}}}."
    return "".join(turn.format(block(name)) for name in tools) + boxed + end


def score(text: str, answer: Any = "5", variant: str = "mentor", **options: Any) -> float:
    given = {"teacher_tools": TEACHER, "tools": TOOLS, **options}
    return score_completion(text, answer=answer, variant=variant, **given).total


TABLE: list[tuple[str, str, dict[str, Any], tuple[float, ...]]] = [
    # what happened, text, options, mentor, sparse, overlap, none, f1, strict
    ("no end", completion(*TEACHER, end=""), {}, (0, 0, 0, 0, 0, 0)),
    ("no box", completion(*TEACHER, answer=None), {}, (0.1,) * 6),
    ("empty box", completion(*TEACHER, answer=""), {}, (0.1,) * 6),
    ("blank box", completion(*TEACHER, answer="  "), {}, (0.1,) * 6),
    ("unreadable box", r"\boxed{5" + EOS, {}, (0.1,) * 6),
    ("no box, unknown tool", completion("teleport", answer=None), {}, (0.1,) * 6),
    ("right, same tools", completion(*TEACHER), {}, (1.1, 1.0, 1.0, 0.8, 1.1, 1.1)),
    ("right, other order", completion("divide", "add"), {}, (1.1, 1.0, 1.0, 0.8, 1.1, 0.8)),
    ("right, one repeated", completion("add", "add", "divide"), {}, (1.1, 1.0, 1.0, 0.8, 1.1, 0.8)),
    ("right, one of two missed", completion("add"), {}, (0.8, 1.0, 1.0, 0.8, 1.0, 0.8)),
    ("right, one extra", completion("add", "sqrt"), {"teacher_tools": ["add"]}, (0.8, 1.0, 1.0, 0.8, 1.0, 0.8)),
    ("right, other tools", completion("sqrt"), {}, (0.8, 1.0, 0.7, 0.8, 0.8, 0.8)),
    ("right, nothing called", completion(), {}, (0.8, 1.0, 0.7, 0.8, 0.8, 0.8)),
    ("right, same and unknown", completion(*TEACHER, "teleport"), {}, (1.0, 1.0, 1.0, 0.7, 1.0, 0.7)),
    ("wrong, same tools", completion(*TEACHER, answer="6"), {}, (0.16, 0.1, 0.06, 0.1, 0.16, 0.16)),
    ("wrong, one of two missed", completion("add", answer="6"), {}, (0.1, 0.1, 0.06, 0.1, 0.14, 0.1)),
    ("wrong, unknown tool", completion("teleport", answer="6"), {}, (0, 0.1, 0, 0, 0, 0)),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("case", "text", "options", "totals"), TABLE, ids=[row[0] for row in TABLE])
def test_values_of_the_released_code(case, text, options, totals, variant):
    assert score(text, variant=variant, **options) == pytest.approx(totals[VARIANTS.index(variant)])


@pytest.mark.parametrize("nothing", [None, [], (), ""], ids=repr)
def test_without_teacher_tools_only_variants_that_match_nothing_pay_for_the_answer(nothing):
    texts = (completion(*TEACHER), completion(), completion("teleport", answer="6"))
    expected = {"sparse": (1.0, 1.0, 0.1), "none": (0.8, 0.8, 0.0)}
    for variant in VARIANTS:
        for text, paid in zip(texts, expected.get(variant, (0.1, 0.1, 0.1)), strict=True):
            assert score(text, variant=variant, teacher_tools=nothing) == pytest.approx(paid)
        assert score(completion(end=""), variant=variant, teacher_tools=nothing) == 0.0


# How the text is read


@pytest.mark.parametrize("after", ["\n", " ", ".", "<|endoftext|>"])
def test_text_after_the_end_token_scores_nothing(after):
    assert score(completion(*TEACHER) + after) == 0.0


def test_another_end_token_can_be_named():
    assert score(completion(*TEACHER, end="</s>")) == 0.0
    assert score(completion(*TEACHER, end="</s>"), eos_token="</s>") == pytest.approx(1.1)
    assert score(completion(*TEACHER), eos_token="") == 0.0


def test_the_last_box_counts():
    assert score(r"\boxed{6} no: " + completion(*TEACHER)) == pytest.approx(1.1)
    assert score(r"\boxed{5} no: " + completion(*TEACHER, answer="6")) == pytest.approx(0.16)
    assert score(r"\boxed{5} no: " + completion(*TEACHER, answer="")) == 0.1
    assert score(r"\boxed{5} no: \boxed{6" + EOS) == 0.1


def test_a_box_may_contain_nested_braces():
    text = completion(*TEACHER, answer=r"\frac{1}{2}")
    assert score(text, answer=r"\frac{1}{2}") == pytest.approx(1.1)
    assert score(text, answer="0.5") == pytest.approx(1.1)


def test_a_box_is_written_with_braces():
    for text in (r"\boxed 5", r"\fbox{5}", "5"):
        assert score(block("add") + block("divide") + text + EOS) == 0.1


def test_calls_count_anywhere_in_the_text():
    thought = f"<think>{block('add')}</think>"
    assert score(thought + completion("divide")) == pytest.approx(1.1)
    assert score(r"\boxed{5}" + block("divide") + block("add") + EOS) == pytest.approx(1.1)
    assert score(completion(*TEACHER, "sqrt")) == pytest.approx(0.8)
    assert score(thought.replace("add", "teleport") + completion(*TEACHER)) == pytest.approx(1.0)


MALFORMED = {
    "broken": '<tool_call>{"name": "teleport", </tool_call>',
    "unclosed": '<tool_call>{"name": "add"}',
    "no object": '<tool_call>"name"</tool_call>',
    "a list": '<tool_call>[{"name": "add"}]</tool_call>',
    "no name": '<tool_call>{"arguments": {}}</tool_call>',
    "empty name": '<tool_call>{"name": ""}</tool_call>',
    "no text as name": '<tool_call>{"name": null}</tool_call>',
    "too deep": "<tool_call>" + "[" * 100_000 + "</tool_call>",
    "endless number": f'<tool_call>{{"name": "add", "arguments": {{"a": {"9" * 5000}}}}}</tool_call>',
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_a_call_that_cannot_be_read_is_not_counted_and_costs_nothing_unless_asked(bad):
    text = completion(*TEACHER, answer="5 ", end=bad + EOS)
    assert score(text) == pytest.approx(1.1)
    assert score(text, malformed_is_unknown=True) == pytest.approx(1.0)
    assert score(text.replace("5 ", "6"), malformed_is_unknown=True) == pytest.approx(0.06)
    assert score(completion(*TEACHER), malformed_is_unknown=True) == pytest.approx(1.1)
    only = bad + r"\boxed{5}" + EOS  # a malformed call of the teacher's tool is not a call of it
    assert score(only, teacher_tools=["add"]) == pytest.approx(0.8)


@pytest.mark.parametrize("name", [5, 1.5, True, ["add"], {"name": "add"}], ids=repr)
def test_a_name_that_is_not_text_is_an_unknown_tool(name):
    assert score(block(name) + completion(*TEACHER)) == pytest.approx(1.0)


def test_white_space_around_a_call_does_not_count():
    spaced = (
        completion(*TEACHER).replace("<tool_call>", "<tool_call>\u00a0 \n\t").replace("</tool_call>", "\v</tool_call>")
    )
    assert score(spaced) == pytest.approx(1.1)


def test_arguments_need_not_be_an_object():
    for arguments in ([1], "x", None, 3):
        calls = "".join(
            f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>" for name in TEACHER
        )
        assert score(calls + r"\boxed{5}" + EOS) == pytest.approx(1.1)
    bare = "".join(f'<tool_call>{{"name": "{name}"}}</tool_call>' for name in TEACHER)
    assert score(bare + r"\boxed{5}" + EOS) == pytest.approx(1.1)


def test_the_prompt_is_never_scored():
    # The released code also grades the example in the prompt. Here the prompt is not scored.
    prompt = r"Put the final answer in \boxed{}, for example \boxed{5}.<|im_end|>" + "\n"
    scored = completion(*TEACHER, answer=None)
    assert score(scored) == 0.1 and score(prompt + scored) == pytest.approx(1.1)
    assert score(prompt) == 0.0


# What is accepted


@pytest.mark.parametrize(
    ("accepted", "right"),
    [
        ("5", True), (" 5.0 ", True), (r"\frac{10}{2}", True), (r"\boxed{5}", True), (r"it is \boxed{5}", True),
        (5, True), (5.0, True), (["6", "5"], True), ([6, 5], True), ((6.5, 5), True), ([None, "5"], True),
        ([r"\boxed{5}"], True),
        ("6", False), (6, False), (5.5, False), (None, False), ([], False), ([None], False), ("", False),
        ([6, 7], False), (True, False), ({"answer": "5"}, False), ([["5"]], False), (float("nan"), False),
        (10**5000, False), (r"\boxed{6}", False),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) or value < 100 else "long",
)  # a table  # fmt: skip
def test_accepted_answers_of_any_type(accepted, right):
    assert score(completion(*TEACHER), answer=accepted) == pytest.approx(1.1 if right else 0.16)
    assert score(completion(*TEACHER), answer=accepted, variant="sparse") == (1.0 if right else 0.1)


SCHEMAS = [tool.to_openai() for tool in CALCULATOR]


@pytest.mark.parametrize(
    "tools",
    [TOOLS, tuple(TOOLS), set(TOOLS), iter(TOOLS), CALCULATOR, SCHEMAS, [schema["function"] for schema in SCHEMAS],
     [*TOOLS, None, 3, {}, {"name": 7}, {"function": {"function": {"name": "teleport"}}}]],
    ids=["names", "tuple", "set", "iterator", "Tools", "schemas", "functions", "with others"],
)  # a table  # fmt: skip
def test_offered_tools_as_names_tools_or_schemas(tools):
    tools = list(tools) if not isinstance(tools, tuple | set) else tools
    assert score(completion(*TEACHER), tools=tools) == pytest.approx(1.1)
    assert score(completion(*TEACHER, "teleport"), tools=tools) == pytest.approx(1.0)


def test_without_offered_tools_every_call_is_unknown():
    for tools in ([], None, 7):
        assert score(completion(*TEACHER), tools=tools) == pytest.approx(0.7)
    assert score(completion("add"), tools="add", teacher_tools="add") == pytest.approx(1.1)


def test_teacher_tools_as_tools_or_schemas():
    for items in (CALCULATOR[:1], SCHEMAS[:1], [None, "add"], [ToolCall("add", {"a": 9})]):
        assert score(completion("add"), teacher_tools=items) == pytest.approx(1.1)


def test_strict_compares_the_arguments_of_calls_and_the_order_of_names():
    text = block("add", {"a": 1, "b": 2}) + block("sqrt", {"x": 9}) + r"\boxed{5}" + EOS

    def strict(*teacher: Any) -> float:
        return score(text, variant="strict", teacher_tools=teacher)

    add, sqrt = ToolCall("add", {"b": 2.0, "a": 1}), {"name": "sqrt", "arguments": {"x": 9}}
    as_text = {"type": "function", "function": {"name": "sqrt", "arguments": '{"x": 9}'}}
    assert [strict(add, sqrt), strict("add", "sqrt"), strict(add, "sqrt")] == [pytest.approx(1.1)] * 3
    assert [strict(add, as_text), strict(add.to_openai(), sqrt)] == [pytest.approx(1.1)] * 2
    assert strict(SCHEMAS[0], "sqrt") == pytest.approx(1.1)  # a schema is a bare name
    assert [strict(sqrt, add), strict("sqrt", "add"), strict(add), strict(add, sqrt, sqrt)] == [pytest.approx(0.8)] * 4
    other = {"name": "sqrt", "arguments": {"x": 8}}
    assert [strict(add, other), strict(add, {**as_text, "function": other})] == [pytest.approx(0.8)] * 2
    assert strict(add, {"name": "sqrt", "arguments": "{"}) == pytest.approx(0.8)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ConfigError, match=r"'exact' is unknown \(known: mentor, sparse, overlap, none, f1, strict\)"):
        score(completion(), variant="exact")


# Anything

NAMES = st.sampled_from([*TOOLS[:4], "teleport", ""]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
ENTRIES = st.none() | st.lists(
    NAMES | VALUES | st.fixed_dictionaries({"name": VALUES, "arguments": VALUES})
    | st.fixed_dictionaries({"function": VALUES}) | st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES)),
    max_size=4,
)  # a table  # fmt: skip
PIECES = st.sampled_from(
    ["<tool_call>", "</tool_call>", '{"name": "add"}', '{"name": ', "\\boxed{", "5", "}", EOS, "\\", "\\frac{1}{2}"]
)
WHOLE = st.builds(lambda value: f"<tool_call>{json.dumps(value)}</tool_call>", VALUES)
TEXTS = st.builds(
    lambda parts, end: "".join(parts) + end,
    st.lists(PIECES | WHOLE | st.text(st.characters(), max_size=8), max_size=10),
    st.sampled_from(["", EOS, r"\boxed{5}" + EOS, r"\boxed{5}"]),
)


@settings(max_examples=200)
@given(TEXTS, VALUES, ENTRIES, ENTRIES, st.booleans())
def test_nothing_raises_and_totals_are_bounded(text, accepted, teacher, tools, strict_calls):
    for variant in VARIANTS:
        breakdown = score_completion(
            text,
            answer=accepted,
            teacher_tools=teacher,
            tools=tools or (),
            variant=variant,
            malformed_is_unknown=strict_calls,
        )
        assert 0.0 <= breakdown.total <= 1.1
        assert breakdown.correct <= breakdown.terminated == text.endswith(EOS)


ARGUMENTS = st.dictionaries(
    st.sampled_from("ab"), st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2) | st.text(max_size=3)
)
CALLS = st.lists(st.builds(ToolCall, st.sampled_from(TOOLS[:4]), ARGUMENTS), max_size=4)


def rendered(calls: list[ToolCall], answer: str | None, end: str = EOS, **style: Any) -> str:
    blocks = [
        f"<tool_call>{json.dumps({'arguments': call.arguments, 'name': call.name}, **style)}</tool_call>"
        for call in calls
    ]
    return "\n".join(blocks) + ("" if answer is None else rf"\boxed{{{answer}}}") + end


@given(CALLS, CALLS, st.sampled_from(["5", "6"]))
def test_white_space_and_the_order_of_keys_in_calls_do_not_count(calls, teacher, answer):
    styles = [{}, {"indent": 3}, {"separators": (",", ":")}, {"sort_keys": True}]
    for variant in VARIANTS:
        totals = {score(rendered(calls, answer, **style), variant=variant, teacher_tools=teacher) for style in styles}
        assert len(totals) == 1


@given(st.data(), CALLS, st.lists(st.sampled_from(TOOLS[:4]), max_size=4), st.sampled_from(["5", "6"]))
def test_the_order_of_calls_counts_only_for_strict(data, calls, teacher, answer):
    shuffled = data.draw(st.permutations(calls))
    for variant in ("mentor", "sparse", "overlap", "none", "f1"):
        options = {"variant": variant, "teacher_tools": teacher}
        assert score(rendered(shuffled, answer), **options) == score(rendered(calls, answer), **options)


@settings(max_examples=200)
@given(
    CALLS, CALLS.filter(bool), st.sampled_from(["5", "5.0", "6", "yes", None]),
    st.sampled_from([Ending.ANSWERED, Ending.TRUNCATED]),
)  # a table  # fmt: skip
def test_a_text_and_its_trajectory_score_the_same(calls, teacher, answer, ending):
    text = rendered(calls, answer, end=EOS if ending is Ending.ANSWERED else "")
    scored = Trajectory((Message("assistant", text, tuple(calls)),), answer, ending)
    reference = Trajectory((Message("assistant", "", tuple(teacher)),), "5", Ending.ANSWERED)
    own = Task("t", (), CALCULATOR, "id", "test", answer="5", reference=reference)
    for variant, reward in REWARDS.items():
        breakdown = score_completion(text, answer="5", teacher_tools=teacher, tools=CALCULATOR, variant=variant)
        assert breakdown == reward(scored, own)


# The document

DOCUMENT = DOCS / "rewards.md"


def test_the_examples_of_the_document_print_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, Any] = {"__name__": "document"}
    for source in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(DOCUMENT), "exec"), names)
        expected = re.findall(r"print\(.*\) +# (.*)$", source, flags=re.MULTILINE)
        assert printed.getvalue().splitlines() == expected
