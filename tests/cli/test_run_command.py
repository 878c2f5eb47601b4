"""`mentor-edge run`: what it prints for answers with and without a box, and for conversations that were cut off."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.scripted_engine import ScriptedEngine, call_text
from mentor_edge.cli import run as command
from mentor_edge.cli import screen, tables
from mentor_edge.cli.app import app

ADD = call_text("add", '{"a": 2, "b": 3}')


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Ask a scripted model: returns the exit code, what people read, and the JSON."""

    def run(replies: list[str], *options: str, context_length: int = 100_000):
        @contextmanager
        def opened(path, **_):
            yield ScriptedEngine({"How much?": replies}, context_length=context_length)

        console = Console(file=io.StringIO(), highlight=False, markup=False, emoji=False, width=300)
        for module in (screen, tables, command):
            monkeypatch.setattr(module, "console", console)
        monkeypatch.setattr(screen, "_warned", set())
        monkeypatch.setattr("mentor_edge.engines.open.open_engine", opened)
        (tmp_path / "model.gguf").touch()
        result = CliRunner().invoke(app, ["run", str(tmp_path / "model.gguf"), "How much?", "--json", *options])
        return result.exit_code, console.file.getvalue(), json.loads(result.stdout)

    return run


def test_a_boxed_answer_follows_the_conversation(ask):
    code, text, figures = ask([ADD, r"It is \[ 2 + 3 = \boxed{5} \]"])
    assert code == 0 and text.splitlines()[-1] == "answer 5"
    assert r"  assistant  It is \[ 2 + 3 = \boxed{5} \]" in text
    assert (figures["answer"], figures["text"]) == ("5", r"It is \[ 2 + 3 = \boxed{5} \]")
    assert figures["ending"] == "answered" and figures["cut_by"] is None


def test_without_a_box_the_text_is_the_answer(ask):
    code, text, figures = ask(["Paris [the capital]\nof France."])
    assert code == 0 and "None" not in text
    assert text.splitlines()[1:] == ["  assistant  Paris [the capital]", "of France."]
    assert figures["answer"] is None and figures["text"] == "Paris [the capital]\nof France."


@pytest.mark.parametrize(
    ("replies", "options", "message"),
    [
        (
            ["x" * 50],
            ("--max-turn-tokens", "20"),
            "after 20 tokens in one turn; raise the limit with --max-turn-tokens",
        ),
        ([ADD, ADD], ("--max-rounds", "1"), "after 1 round of tool calls; raise the limit with --max-rounds"),
        (
            [ADD, ADD],
            ("--max-tokens", "150", "--max-turn-tokens", "140"),
            "after 150 tokens in all; raise the limit with --max",
        ),
        (["<tool_call>{"], (), "no answer: the last turn contains a tool call that cannot be read"),
    ],
)
def test_a_conversation_without_an_answer_says_why(ask, replies, options, message):
    code, text, figures = ask(replies, *options)
    assert code == 0 and message in text and figures["answer"] is None


def test_a_prompt_that_does_not_fit_is_an_error_with_both_lengths(ask):
    code, text, figures = ask(["never said"], context_length=500)
    assert code == 1 and figures["cut_by"] == "prompt"
    assert f"a prompt of {figures['prompt_tokens']:,} tokens does not fit the context of 500" in text
