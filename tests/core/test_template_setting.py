"""Which template a student speaks with: several of its own, one of ours, a file, arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.environment import environment
from mentor_edge.chat.setting import (
    TemplateSetting,
    Tokens,
    checked_setting,
    choose_template,
    parse_arguments,
    variables,
    with_arguments,
    without_arguments,
)
from mentor_edge.errors import ConfigError, StudentError
from mentor_edge.messages import Message
from mentor_edge.model_directory import NamedTemplate, stored_template

THEIRS = Path(trl.__file__).parent / "chat_templates"
QUESTION = (Message("user", "Why?"),)
LISTED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]


def tokens(*special: str, eos: str = "</s>") -> Tokens:
    """A tokenizer of letters, and of these tokens."""
    known = [*special, eos]

    def encode(text: str) -> list[int]:
        ids = []
        while text:
            found = next((token for token in known if text.startswith(token)), None)
            ids.append(ord(text[0]) if found is None else 10**7 + known.index(found))
            text = text[len(found or text[0]) :]
        return ids

    return Tokens(encode, lambda ids: "".join(known[i - 10**7] if i >= 10**7 else chr(i) for i in ids), eos)


CHATML = tokens("<|im_start|>", "<|im_end|>")


# Several templates


@pytest.mark.parametrize(
    ("entry", "chosen"),
    [
        ("plain", ("default", "plain")),
        (LISTED, ("tool_use", "with tools")),
        (LISTED[:1], ("default", "plain")),
        (LISTED[1:], ("tool_use", "with tools")),
        ([{"name": "rag", "template": "other"}, LISTED[0]], ("default", "plain")),
        ({"default": "plain", "tool_use": "with tools"}, ("tool_use", "with tools")),
        (None, None),
        ("", None),
        ([], None),
    ],
)
def test_of_several_templates_the_one_for_tools_is_used(tmp_path: Path, entry: Any, chosen: Any) -> None:
    stored = stored_template(tmp_path, entry)
    assert stored == (None if chosen is None else NamedTemplate(*chosen))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ([{"name": "default"}], "no template"),
        ([{"template": "plain"}], "the name None"),
        (["plain"], "the name None"),
        ([{"name": ["a"], "template": "plain"}], r"the name \['a'\]"),
        ([{"name": "default", "template": ""}], "the chat template of .* is empty"),
        ([{"name": "rag", "template": "other"}], "none is named tool_use or default"),
        ({"default": 3}, "of type int"),
        (3, "is int, not text"),
    ],
)
def test_other_forms_are_one_error(tmp_path: Path, entry: Any, problem: str) -> None:
    with pytest.raises(StudentError, match=problem):
        stored_template(tmp_path, entry)


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_a_file_without_text_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(StudentError, match="cannot read" if content else "is empty") as refused:
        stored_template(tmp_path, None)
    assert ("remove the file and set template" in (refused.value.hint or "")) is bool(content)


def test_files_take_precedence_and_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"a\r\nb\n")
    assert stored_template(tmp_path, "entry") == NamedTemplate("tool_use", "a\r\nb\n")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert stored_template(tmp_path, "entry") == NamedTemplate("tool_use", "a\r\nb\n")
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").rename(tmp_path / "additional_chat_templates/rag.jinja")
    assert stored_template(tmp_path, LISTED) == NamedTemplate("default", "file")


# Ours, and files


def test_hermes_needs_chatml_tokens() -> None:
    chosen = choose_template(TemplateSetting("hermes"), None, CHATML, "base")
    assert (chosen.end_of_turn, chosen.record.name, chosen.record.student_template) == ("<|im_end|>", "hermes", None)
    with pytest.raises(StudentError, match=r"needs <\|im_end\|>") as refused:
        choose_template(TemplateSetting("hermes"), None, tokens("<|im_start|>"), "base")
    assert refused.value.hint == "set template: neutral"
    neutral = choose_template(TemplateSetting("neutral"), NamedTemplate("default", "own"), tokens(), "base")
    assert neutral.end_of_turn == "</s>" and neutral.record.student_template == "default"


@pytest.mark.parametrize(("student", "advice"), [(CHATML, "hermes"), (tokens(), "neutral")])
def test_a_student_without_a_template_is_told_which_of_ours_suits(student: Tokens, advice: str) -> None:
    with pytest.raises(StudentError, match="has no chat template") as refused:
        choose_template(TemplateSetting(), None, student, "base")
    assert refused.value.hint == f"set template: {advice}"


def test_a_file_must_end_turns_with_a_token_of_the_student(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>\n{% endfor %}")
    chosen = choose_template(TemplateSetting(str(file)), None, tokens("<|end|>"), "base")
    assert (chosen.end_of_turn, chosen.record.name) == ("<|end|>", "mine.jinja")
    with pytest.raises(StudentError, match=r"mine\.jinja does not end the assistant's turn"):
        choose_template(TemplateSetting(str(file)), None, tokens(), "base")
    for source, problem in (
        ("{% if %}", "is not valid Jinja"),
        ("{{ raise_exception('no') }}", "cannot render .*: no"),
    ):
        file.write_text(source)
        with pytest.raises(StudentError, match=rf"'mine\.jinja' {problem}"):
            choose_template(TemplateSetting(str(file)), None, tokens(), "base")


def test_all_mistakes_of_a_setting_are_reported() -> None:
    with pytest.raises(ConfigError) as refused:
        checked_setting("herms", {"messages": 1, "not a name": 2, "range": 3, "ratio": float("inf"), "if": 1})
    assert len(refused.value.problems) == 6
    with pytest.raises(ConfigError, match="there is no file"):
        checked_setting("missing.jinja", {})


# Arguments


def test_arguments_change_nothing_else() -> None:
    for name in ("qwen3", "llama3_2", "qwen3_5_think", "phi3"):
        source = (THEIRS / f"{name}.jinja").read_text(encoding="utf-8")
        for start in ("", "\n", "  \n", "  "):
            key = sorted(variables(start + source) or {"unread"})[0]
            if key == "unread":
                continue
            baked = ChatTemplate(with_arguments(start + source, {key: None}), "</s>")
            passed = environment().from_string(start + source).render(
                messages=[{"role": "user", "content": "Why?"}], tools=None, add_generation_prompt=True,
                bos_token="", eos_token="</s>", **{key: None},
            )  # fmt: skip
            assert baked.render(QUESTION, add_generation_prompt=True) == passed


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(VALUES, VALUES)
@settings(max_examples=150)
def test_every_value_reaches_the_template(first: Any, second: Any) -> None:
    source = "\n{{ [first, second] | tojson }}"
    baked = with_arguments(source, {"first": first, "second": second})
    assert ChatTemplate(baked, "").render(QUESTION) == "\n" + json.dumps([first, second], ensure_ascii=False)
    assert without_arguments(baked) == (source, {"first": first, "second": second})


@pytest.mark.parametrize("value", ["{}", "[1]", "a", "1e999", "9" * 5000, "[" * 100_000])
def test_a_template_that_only_looks_as_if_it_had_arguments_has_none(value: str) -> None:
    source = f"{{#- template_arguments -#}}{{%- set a = {value} %}}\n{{{{ a }}}}"
    assert without_arguments(source) == (source, {})


def test_an_argument_that_is_not_read_is_an_error() -> None:
    source = (THEIRS / "qwen3.jinja").read_text(encoding="utf-8")
    with pytest.raises(StudentError, match="enable_thinkin is not read") as refused:
        with_arguments(source, {"enable_thinkin": False})
    assert refused.value.hint == "it reads enable_thinking"
    llama = variables((THEIRS / "llama3_2.jinja").read_text(encoding="utf-8"))
    assert llama == {"custom_tools", "date_string", "tools_in_user_message"}


def test_arguments_are_replaced_not_repeated() -> None:
    own = NamedTemplate("default", "{{ a }}{{ b }}</s>")
    once = choose_template(TemplateSetting(None, {"a": 1}), own, tokens(), "student")
    again = choose_template(
        TemplateSetting(None, {"a": 2, "b": 3}), NamedTemplate("default", once.source), tokens(), "x"
    )
    assert ChatTemplate(again.source, "").render(QUESTION) == "23</s>"
    assert again.record.arguments == {"a": 2, "b": 3}
    assert again.record.source_sha256 == once.record.source_sha256 == again.record.student_sha256


def test_arguments_on_the_command_line() -> None:
    parsed = parse_arguments(["enable_thinking=false", "date_string=26 Jul", "n=3", "empty=", "x=a=b"])
    assert parsed == {"enable_thinking": False, "date_string": "26 Jul", "n": 3, "empty": "", "x": "a=b"}
    parsed = parse_arguments(["a=False", "b=True", "c=None", 'd="False"', "e=FALSE"])
    assert parsed == {"a": False, "b": True, "c": None, "d": "False", "e": "FALSE"}
    with pytest.raises(ConfigError, match="a is given twice"):
        parse_arguments(["a=1", "a=1"])
    with pytest.raises(ConfigError, match="not NAME=VALUE"):
        parse_arguments(["enable_thinking", 'a=["list"]'])
