"""What a template does with tools, calls and results is seen by rendering it."""

from __future__ import annotations

import pytest

from helpers.changed_templates import NOTED, REFUSED, changed
from helpers.tiny_models import TEMPLATE
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.inspection.template import probe_template
from mentor_edge.inspection.template_report import Outcome, TemplateReport
from mentor_edge.messages import Message, ToolCall


def probed(source: str) -> TemplateReport:
    return probe_template(ChatTemplate(source, "<|im_end|>", "<s>"))


def test_a_template_that_renders_everything_has_no_problem() -> None:
    report = probed(TEMPLATE)
    assert (report.problems, report.notes) == ((), ())
    findings = (
        report.question, report.system, report.tools, report.parameters, report.system_with_tools, report.call,
        report.two_calls, report.text_with_call, report.result, report.two_results, report.question_with_tools,
        report.all_arguments, report.call_with_text, report.answer, report.taught_turn,
    )  # a table  # fmt: skip
    assert {finding.outcome for finding in findings} == {Outcome.REACHES}
    assert all(entry.equal for entry in report.read_back.values()) and len(report.read_back) == 7
    assert report.spelling.startswith("<tool_call>\n") and report.spelling.endswith("</tool_call>")
    assert (report.end_of_turn, report.end_of_call) == ("<|im_end|>", "<|im_end|>")
    assert not (report.rewrites_after_result or report.rewrites_after_question or report.dated or report.opens_thinking)


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "tools": "drops the offered tools",
        "one tool": "drops the offered tools",
        "calls": "drops tool calls",
        "the arguments": "drops tool calls",
        "all but one argument": "drops arguments (the argument count of",
        "nested arguments": "drops arguments (the argument options of",
        "the types of arguments": "writes other arguments than a call has (marker_first({'marker_parameter': '3', ",
        "calls after text": "drops a call after text in the same turn",
        "answers": "drops the assistant's answers",
        "the question beside tools": "drops the question when tools are offered",
        "the question beside tools and a system message": "with a system message and tools in one prompt it drops the",
        "all but one call": "drops all calls of a turn but one",
        "results": "drops tool results",
        "all but one result": "drops all results after a turn but one",
        "raises on tools": "refuses the offered tools (no tools here)",
        "raises on calls": "refuses tool calls (no calls here)",
        "raises on results": "refuses tool results (roles must alternate)",
        "tools hidden by a system message": "with a system message and tools",
        "unknown spelling": "the parser cannot read the calls that it writes",
        "nothing": "cannot render a question",
    }.items(),
)
def test_what_it_drops_or_refuses_is_a_problem(name: str, words: str) -> None:
    assert words in "; ".join(probed(REFUSED[name]).problems)


def test_every_fault_has_its_words() -> None:
    assert all(probed(source).problems for source in REFUSED.values())
    assert all(probed(source).notes and not probed(source).problems for source in NOTED.values())


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "no system message": "no system message: raises: System role not supported",
        "drops the system message": "no system message: dropped",
        "one call only": "refuses two calls in one turn (single calls only)",
        "two turns for two calls": "two calls in one turn (the chat template 'default' leaves out the call of",
        "a system message or tools": "refuses a system message and tools in one prompt (not both)",
        "refuses text beside calls": "refuses text before a call (calls only)",
        "refuses some arguments": "refuses some arguments (no arguments)",
        "no text beside calls": "text before a call is dropped",
        "no parameters": "but not their parameters",
        "the date": "current date",
    }.items(),
)
def test_what_differs_is_noted(name: str, words: str) -> None:
    assert words in "; ".join(probed(NOTED[name]).notes)


def test_rewritten_turns_are_noticed() -> None:
    content = "{{ message.content }}\n{%- for"
    shown_last = "{{ message.content if loop.last else message.content.split('</think>')[-1] }}\n{%- for"
    report = probed(changed(content, shown_last))
    assert report.rewrites_after_result and report.rewrites_after_question and not report.problems
    empty = "{{ '<think>\n\n</think>\n\n' if loop.last and message.role == 'assistant' }}{{ message.content }}\n{%- for"
    report = probed(changed(content, empty))
    assert report.rewrites_after_result
    assert report.spelling.startswith("<think>") and all(entry.equal for entry in report.read_back.values())


def test_an_opened_thinking_block_is_noticed() -> None:
    prompt = "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    report = probed(changed(prompt, f"{prompt}<think>\n"))
    assert report.opens_thinking and not report.problems
    assert report.spelling.startswith("</think>")


def test_other_ends_of_turns_are_found() -> None:
    ended = changed(
        "{% endfor %}<|im_end|>\n{% endif %}\n{%- endfor %}",
        "{% endfor %}{{ '<|call|>' if message.tool_calls else '<|return|>' }}\n{% endif %}\n{%- endfor %}",
    )
    report = probe_template(ChatTemplate(ended, "<|return|>", "<s>"))
    assert (report.end_of_turn, report.end_of_call) == ("<|return|>", "<|call|>")
    assert report.spelling.endswith("</tool_call>")
    none = changed("{% endfor %}<|im_end|>\n{% endif %}\n{%- endfor %}", "{% endfor %}\n{% endif %}\n{%- endfor %}")
    assert probed(none).end_of_turn == ""


def test_a_template_that_is_not_jinja_is_an_error() -> None:
    with pytest.raises(StudentError, match="not valid Jinja"):
        probed("{% if %}")


def test_a_call_that_is_read_differently_is_told() -> None:
    text_only = changed(
        "{{ call.function.arguments | tojson }}",
        '{"marker_parameter": "{{ call.function.arguments.marker_parameter }}"}',
    )
    report = probed(text_only)
    assert report.read_back["text"].equal and not report.read_back["numbers"].equal
    assert "numbers" in "; ".join(report.notes)


WITHOUT_PROMPT = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- for tool in tools or [] %}[TOOL]{{ tool.function | tojson }}[/TOOL]{% endfor -%}
{%- for message in messages -%}
{%- if message.role == 'user' %}[ASK]{{ system + '. ' if loop.last and system }}{{ message.content }}[/ASK]
{%- elif message.role == 'tool' %}[RESULT]{{ message.content }}[/RESULT]
{%- elif message.role == 'assistant' %}BEFORE{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}</s>
{%- endif -%}
{%- endfor -%}"""
"""It has no prompt for the model's turn, and shows the system message only with a last question."""


def test_turns_are_found_without_a_prompt_of_their_own_when_the_system_message_moves() -> None:
    template = ChatTemplate(WITHOUT_PROMPT.replace("BEFORE", ""), "</s>")
    assert probe_template(template).problems == ()
    prompt = (Message("system", "Be brief"), Message("user", "Where?"))
    call = Message("assistant", "", (ToolCall("look_up", {"city": "Oslo"}),))
    turns = (call, Message("tool", "here", name="look_up"), Message("assistant", "There"))
    pieces = template.pieces(prompt, (), turns)
    assert [text for text, taught in pieces if taught] == [
        '<tool_call>\n{"name": "look_up", "arguments": {"city": "Oslo"}}\n</tool_call></s>',
        "There</s>",
    ]


def test_turns_that_cannot_be_told_from_earlier_text_are_a_problem() -> None:
    prompted = WITHOUT_PROMPT.replace("BEFORE", "") + "[BEGIN]"
    report = probe_template(ChatTemplate(prompted, "</s>"))
    assert "its calls cannot be taught" in "; ".join(report.problems)
