from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny_models import TEMPLATE
from mentor_edge.chat import ChatTemplate
from mentor_edge.errors import StudentError
from mentor_edge.messages import Message, ToolCall
from mentor_edge.tool_calls import parse_turn
from mentor_edge.tools.calculator import CALCULATOR

EOS = "<|im_end|>"
CHAT = ChatTemplate(TEMPLATE, EOS)
SCHEMAS = [tool.to_openai() for tool in CALCULATOR[:3]]

PLAIN = st.text(max_size=30).filter(lambda text: "tool_call>" not in text and EOS not in text)
CONTENT = PLAIN.filter(lambda text: re.search(r"[<\[{`:]\S", text) is None)  # no mark with which a model begins a call
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(
    ToolCall, st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True), st.dictionaries(PLAIN, JSON, max_size=3)
)


# Rendering


@given(CONTENT, st.lists(CALLS, max_size=3))
@settings(max_examples=200)
def test_rendered_calls_are_parsed_back(content, calls):
    rendered = CHAT.render([Message("user", "x"), Message("assistant", content, tuple(calls))])
    start = rendered.index("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")
    turn = parse_turn(rendered[start : rendered.rindex(EOS)])
    assert not turn.malformed
    assert turn.message.tool_calls == tuple(calls)
    assert turn.message.content == (content.strip() if calls else content)


class Tokenizer:
    """transformers' own rendering of a template, without a vocabulary."""

    def __init__(self, source: str) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers.models import BPE
        from transformers import PreTrainedTokenizerFast

        self._fast = PreTrainedTokenizerFast(tokenizer_object=Backend(BPE()), eos_token=EOS, chat_template=source)

    def render(self, messages: list[Message], tools: list | None, prompt: bool) -> str:
        conversation = [message.to_openai() for message in messages]
        return self._fast.apply_chat_template(conversation, tools, tokenize=False, add_generation_prompt=prompt)


def trl_template(name: str) -> str:
    import importlib.util

    package = importlib.util.find_spec("trl")
    assert package is not None and package.origin is not None
    return (Path(package.origin).parent / "chat_templates" / name).read_text()


GENERATION_TEMPLATE = """
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {%- else %}
<|im_start|>{{ message.role }}
{{ message.content | tojson }}{{ eos_token }}
    {%- endif %}
    {% if loop.index > 90 %}
        {% break %}
    {% endif %}
    {% if tools is not none %}
        {{ tools | tojson(indent=2) }}
    {% endif %}
{%- endfor %}
"""


@pytest.mark.parametrize("source", [TEMPLATE, GENERATION_TEMPLATE, "qwen2_5_training.jinja", "qwen3_training.jinja"])
def test_rendering_equals_transformers(source):
    source = trl_template(source) if source.endswith(".jinja") else source
    theirs, ours = Tokenizer(source), ChatTemplate(source, EOS)
    question = [Message("system", "Be kind, <b>."), Message("user", 'Zürich & "quotes" \\n ☃')]
    calls = (ToolCall("add", {"a": 0.1, "b": [1, None, "ü"]}), ToolCall("subtract", {}))
    called = [*question, Message("assistant", "Hm.", calls), Message("tool", "3", name="add"), Message("tool", "")]
    for messages in (question, called, [*called, Message("assistant", r"\boxed{3}")]):
        for tools in ([], SCHEMAS):
            for prompt in (False, True):
                expected = theirs.render(messages, tools or None, prompt)
                assert ours.render(messages, tools, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("source", [TEMPLATE, "qwen2_5_training.jinja", "qwen3_training.jinja", "llama3_2.jinja"])
def test_a_turn_without_content_renders_like_one_with_empty_content(source):
    """OpenAI's API sends null beside calls, on which templates raise or print "None"."""
    template = ChatTemplate(trl_template(source) if source.endswith(".jinja") else source, EOS)
    sent = {"role": "assistant", "tool_calls": [ToolCall("add", {"a": 1}).to_openai()]}
    question, empty = Message("user", "q"), Message("assistant", "", (ToolCall("add", {"a": 1}),))
    for absent in ({"content": None}, {}):
        rendered = template.render([question, Message.from_openai(sent | absent)], SCHEMAS)
        assert rendered == template.render([question, empty], SCHEMAS)
        assert '"add"' in rendered and "None" not in rendered


def test_the_tool_suffix_continues_the_conversation_as_rendered():
    results = [Message("tool", "5", name="add"), Message("tool", '{"error": "no"}', name="subtract")]
    opening = [Message("user", "q"), Message("assistant", "", (ToolCall("add", {"a": 1}), ToolCall("subtract", {})))]
    before = CHAT.render(opening, SCHEMAS).removesuffix("\n")  # the model's own tokens end with the end of turn
    after = CHAT.render([*opening, *results], SCHEMAS, add_generation_prompt=True)
    assert before.endswith(EOS)
    assert before + CHAT.tool_suffix(results) == after


def test_a_template_that_rewrites_earlier_turns_leaves_generated_tokens_alone():
    rewriting = "{{ messages | length }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}"
    assert ChatTemplate(rewriting, EOS).tool_suffix([Message("tool", "5", name="add")]) == f"[5]{EOS}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "not valid Jinja"),
        ("{{ raise_exception('no tools here') }}", "no tools here"),
        ("{{ messages.append(1) }}", "cannot render"),
        ("{{ ''.__class__.__mro__ }}", "cannot render"),
    ],
)
def test_bad_templates_are_errors_of_the_student(source, message):
    with pytest.raises(StudentError, match=message):
        ChatTemplate(source, EOS).render([Message("user", "x")])


def test_a_template_is_known_by_its_bytes():
    assert CHAT.sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()


# Messages


@given(st.lists(CALLS, max_size=2), PLAIN)
def test_messages_survive_openai_format(calls, content):
    message = Message("assistant", content, tuple(calls))
    assert Message.from_openai(message.to_openai()) == message
    as_sent = json.loads(json.dumps(message.to_openai()))
    for call in as_sent.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    assert Message.from_openai(as_sent) == message


def test_no_float_is_lost_in_a_round_trip():
    value = math.nextafter(0.1, 1)
    rendered = CHAT.render([Message("assistant", "", (ToolCall("add", {"a": value}),))])
    assert repr(value) in rendered
