"""A conversation in pieces: prompt, turns and tool results, for templates of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl

import mentor_edge.chat
from helpers.changed_templates import REFUSED
from helpers.scripted_engine import EOS, ScriptedEngine, call_text
from helpers.tiny_models import TEMPLATE
from mentor_edge.agent import AgentLimits, run_conversations
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.messages import Ending, Message, ToolCall
from mentor_edge.tasks.types import Task
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.execution.executor import ToolExecutor

OURS = Path(mentor_edge.chat.__file__).parent / "templates"
THEIRS = Path(trl.__file__).parent / "chat_templates"
ENDS = (
    EOS, "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "<|end|>",
    "<|return|>", "<|call|>", "<|END_OF_TURN_TOKEN|>", "<|observation|>", "<|user|>",
)  # a table  # fmt: skip
SCHEMAS = [tool.to_openai() for tool in CALCULATOR[:2]]
PROMPT = (Message("user", "What is 2 + 3?"),)
ADD, SUBTRACT = ToolCall("add", {"a": 2, "b": 3}), ToolCall("subtract", {"a": 9, "b": 2})
RESULTS = (Message("tool", "5", name="add"), Message("tool", "7", name="subtract"))
ANSWER = Message("assistant", r"It is \boxed{5}.")
ONE_CALL = (Message("assistant", "", (ADD,)), RESULTS[0], ANSWER)
TWO_CALLS = (Message("assistant", "", (ADD, SUBTRACT)), *RESULTS, ANSWER)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<eos>", "<bos>", ENDS)


def texts(chat: ChatTemplate, messages: tuple[Message, ...]) -> list[str]:
    pieces = chat.pieces(PROMPT, SCHEMAS, messages)
    assert [by_assistant for _, by_assistant in pieces] == [False, True, False, True]
    for text, by_assistant in pieces:
        assert not by_assistant or text.endswith(chat.eos_token) or text.endswith(ENDS)
    return [text for text, _ in pieces]


# The stock templates of TRL: what two conversations end with. None: they work.
FAMILIES = {
    "qwen2_5": (None, None),
    "qwen3": (None, None),
    "qwen3_instruct_2507": (None, None),
    "qwen3_5_think": (None, None),
    "qwen3_vl": (None, None),
    "llama3_1": (None, "single tool-calls"),
    "llama3_2": (None, "single tool-calls"),
    "deepseekv3": (None, None),
    "glm4moe": (None, None),
    "gptoss": (None, "leaves out the call of subtract"),
    "lfm2_2_5": (None, None),
    "nemotron_3_nano": (None, None),
    "gemma4_v2": (None, None),
    "lfm2": ("leaves out the call of add",) * 2,
    "llama3": ("leaves out the call of add",) * 2,
    "phi3": ("leaves out the call of add",) * 2,
    "gemma3": ("leaves out the call of add",) * 2,
    "cohere2": ("leaves out the call of add",) * 2,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_stock_templates_render_a_conversation_in_pieces_or_say_why_not(name: str) -> None:
    chat = template((THEIRS / f"{name}.jinja").read_text(encoding="utf-8"))
    for messages, problem in zip((ONE_CALL, TWO_CALLS), FAMILIES[name], strict=True):
        if problem is None:
            first, turn, suffix, answer = texts(chat, messages)
            assert "What is 2 + 3?" in first
            assert all(call.name in turn for call in messages[0].tool_calls)
            assert "5" in suffix and r"\boxed{5}" in answer and "add" not in answer
        else:
            with pytest.raises(StudentError, match=problem):
                chat.pieces(PROMPT, SCHEMAS, messages)


@pytest.mark.parametrize(
    ("dropped", "messages", "problem"),
    [
        ("answers", ONE_CALL, "leaves out the assistant's answer"),
        ("calls after text", (Message("assistant", "Wait.", (ADD,)), *ONE_CALL[1:]), "leaves out the call of add"),
        ("all but one argument", ONE_CALL, "leaves out the argument b of the call of add"),
        ("all but one call", (Message("assistant", "", (ADD, ADD)), *RESULTS, ANSWER), "leaves out the call of add"),
    ],
)
def test_a_turn_is_never_taught_in_part(dropped: str, messages: tuple[Message, ...], problem: str) -> None:
    with pytest.raises(StudentError, match=problem):
        ChatTemplate(REFUSED[dropped], EOS).pieces(PROMPT, SCHEMAS, messages)


@pytest.mark.parametrize(
    "spelling",
    [
        "{{ call.function.arguments | tojson }}",
        "{{ call.function.arguments | tojson(ensure_ascii=True) }}",
        "{{ call.function.arguments | tojson | tojson }}",
        "{{ call.function.arguments }}",
        "{{ (call.function.arguments | string) | escape }}",
        "{% for key, value in call.function.arguments.items() %}<{{ key }}>{{ value }}</{{ key }}>{% endfor %}",
    ],
)
def test_arguments_may_be_written_in_any_spelling(spelling: str) -> None:
    values = {
        "text": 'Zürich, 東京 🎈 "a"\n\\ <b>',
        "n": [1, -0.5, 1e300],
        "deep": {"ok": True, "no": None},
        "+": "&",
        "": [],
    }
    turn = Message("assistant", "", (ToolCall("add", values),))
    source = TEMPLATE.replace("{{ call.function.arguments | tojson }}", spelling)
    written = ChatTemplate(source, EOS).first_turn(PROMPT, SCHEMAS, turn)
    assert "東京" in written or r"\u6771" in written


@pytest.mark.parametrize("text", ["  an answer\n", "<think>\nHm\n</think>\n\nan answer", "<3", "🎈", "a\n\nb", ""])
def test_answers_may_be_trimmed_and_lose_their_thinking(text: str) -> None:
    source = TEMPLATE.replace("{{ message.content }}", "{{ (message.content.split('</think>') | last) | trim }}")
    ChatTemplate(source, EOS).first_turn(PROMPT, SCHEMAS, Message("assistant", text))


def test_the_prompt_of_stock_qwen3_is_never_rendered_again() -> None:
    """Its template drops the thinking of earlier turns; the pieces keep what was generated."""
    chat = template((THEIRS / "qwen3.jinja").read_text(encoding="utf-8"))
    thought = Message("assistant", "<think>\nEasy.\n</think>\n\n", (ADD,))
    asked_again = chat.render((*PROMPT, thought, RESULTS[0], ANSWER, Message("user", "And 4 + 4?")), SCHEMAS)
    assert "Easy." not in asked_again
    _, turn, suffix, answer = texts(chat, (thought, RESULTS[0], ANSWER))
    assert turn.startswith("<think>\nEasy.\n</think>\n\n<tool_call>")
    assert suffix == f"\n<|im_start|>user\n<tool_response>\n5\n</tool_response>{EOS}\n<|im_start|>assistant\n"
    assert answer == f"<think>\n\n</think>\n\nIt is \\boxed{{5}}.{EOS}"


@pytest.mark.parametrize("name", ["hermes", "neutral"])
def test_our_templates_keep_earlier_text_and_are_read_back(name: str) -> None:
    chat = ChatTemplate((OURS / f"{name}.jinja").read_text(encoding="utf-8"), EOS, "<s>")
    for system in ((), (Message("system", "Be brief."),)):
        messages = (*system, *PROMPT, *TWO_CALLS[:-1], *ONE_CALL)
        shorter = [chat.render(messages[:count], SCHEMAS) for count in range(len(system) + 1, len(messages) + 1)]
        turns = [text for text in shorter if text.endswith(f"{EOS}\n")]
        assert all(messages[i].role == "tool" or shorter[-1].startswith(shorter[i]) for i in range(len(system) + 1))
        assert (
            len(turns) == len(shorter)
            and shorter[-1].startswith("<s>")
            and "Be brief." in "".join([shorter[-1], "" if system else "Be brief."])
        )
        pieces = chat.pieces((*system, *PROMPT), SCHEMAS, (*TWO_CALLS[:-1], *ONE_CALL))
        assert "".join(text for text, _ in pieces) == shorter[-1].removesuffix("\n")
        written = [parse_turn(text.removesuffix(EOS)).message for text, by_assistant in pieces if by_assistant]
        assert written == [TWO_CALLS[0], ONE_CALL[0], ANSWER]
    assert "<tools>" not in chat.render(PROMPT)


TEXT_ONLY = TEMPLATE.replace("{{ call.function.arguments | tojson }}", "{{ call.function.arguments + '' }}")
EITHER = TEMPLATE.replace("call.function.arguments | tojson", "call.function.arguments")
WITH_IDS = TEMPLATE.replace(
    "<tool_call>\n{",
    "{% if call.id | length != 9 %}{{ raise_exception('an id has nine letters') }}{% endif %}<tool_call>\n{",
)


@pytest.mark.parametrize("source", [TEMPLATE, TEXT_ONLY, EITHER, WITH_IDS])
def test_calls_are_passed_in_the_form_that_a_template_needs(source: str) -> None:
    """As objects or as JSON text, with ids or without: the rendered text is the same."""
    assert texts(template(source), TWO_CALLS) == texts(template(TEMPLATE), TWO_CALLS)


@pytest.mark.parametrize(
    "failing",
    [
        "{{ raise_exception('one call only') }}",
        "{{ 1 + 'one' }}",
        "{{ range(10**9) | list }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].nothing.at_all }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_whatever_a_template_raises_names_it_and_the_conversation(failing: str) -> None:
    chat = ChatTemplate(f"{{% if messages | length > 1 %}}{failing}{{% endif %}}", EOS, name="tool_use")
    assert chat.render(PROMPT) == ""
    with pytest.raises(StudentError, match=r"'tool_use' cannot render .*user, assistant calls add and subtract, tool"):
        chat.render((*PROMPT, *TWO_CALLS))


ONE_AT_ONCE = TEMPLATE.replace(
    "{{ message.content }}\n{%- for",
    "{% if message.tool_calls is defined and message.tool_calls[1:] %}{{ raise_exception('one at once') }}{% endif %}"
    "{% if 'forbidden' in message.content %}{{ raise_exception('not this') }}{% endif %}{{ message.content }}\n{%- for",
)


def test_a_refused_conversation_ends_alone() -> None:
    add, absolute = call_text("add", '{"a": 2, "b": 3}'), call_text("abs_value", '{"x": -5}')
    engine = ScriptedEngine(
        {"<a>": [add + absolute, "never"], "<b>": [add, r"\boxed{5}"], "<c>": ["never"], "<d>": [r"\boxed{5}"]}
    )
    engine.template = ChatTemplate(ONE_AT_ONCE, EOS)
    questions = ("<a>", "<b>", "<c> is forbidden", "<d>")
    tasks = [Task(q, (Message("user", q),), CALCULATOR, "id", "test", answer="5") for q in questions]
    with ToolExecutor() as executor:
        first, second, third, fourth = run_conversations(engine, tasks, executor, AgentLimits(3, 400, 4000))
    assert (first.ending, third.ending) == (Ending.MALFORMED, Ending.MALFORMED)
    assert first.reason is not None and "one at once" in first.reason and len(first.messages) == 3
    assert third.reason is not None and "not this" in third.reason and third.messages == ()
    assert [(t.ending, t.answer, t.reason) for t in (second, fourth)] == [(Ending.ANSWERED, "5", None)] * 2
