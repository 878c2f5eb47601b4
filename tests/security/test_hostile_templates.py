"""Chat templates of anybody: each attack ends in an error of ours or a harmless text, in bounded time and memory."""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from mentor_edge.chat import ChatTemplate, renderer
from mentor_edge.chat.environment import Template, environment
from mentor_edge.chat.limits import OUTPUT
from mentor_edge.chat.own_templates import own_templates
from mentor_edge.chat.setting import FUNCTIONS
from mentor_edge.errors import ConfigError, StudentError
from mentor_edge.messages import Message

QUESTION = [Message("user", "x")]
LIMIT = 8.0
"""Seconds for one attack on a loaded machine; the template itself gets 0.3 of them."""

TIME = "computes for more than 0.3 s"
MEMORY = "takes more than 512 MiB of memory|computes for more than"
LONG = "{% set ns = namespace(x=X) %}{% for i in range(99) %}{% set ns.x = ns.x O ns.x %}{% endfor %}{{ ns.x }}"

ATTACKS: dict[str, tuple[str, str | None]] = {
    # Time
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "a power, computed while compiling": ("{{ 9 ** (9 ** 9) }}", TIME),
    "a power in a branch not taken": ("{% if false %}{{ 9 ** (9 ** 9) }}{% endif %}", TIME),
    "squares of a number": (LONG.replace("X", "7").replace("O", "*"), TIME),
    "lipsum": ("{{ lipsum(n=10000000) }}", TIME),
    "lipsum of one paragraph": ("{{ lipsum(n=1, min=10 ** 8, max=10 ** 8 + 1) }}", TIME),
    "a macro of two calls": ("{% macro f(n) %}{% if n %}{{ f(n-1)~f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}", TIME),
    "fifty thousand statements": ("{{x}}" * 50_000, TIME),
    "tags without an end": ("{{ ('<' * 99999) | striptags | length }}" * 99, None),
    "many sorts": ("{% for a in range(9999) %}{% set b = range(99999) | sort(reverse=true) %}{% endfor %}", TIME),
    "number of ten million digits": ("{{ 10 ** 10000000 }}", "computes for|Exceeds the limit"),
    "digits of a long number": ("{{ ('9' * 5000000) | int }}", None),
    # Memory
    "string doubling": (LONG.replace("X", "'x'").replace("O", "+"), MEMORY),
    "string doubling by ~": (LONG.replace("X", "'x'").replace("O", "~"), MEMORY),
    "list doubling": (LONG.replace("X", "[1]").replace("O", "+"), MEMORY),
    "long string": ("{{ 'x' * 10 ** 10 }}", MEMORY),
    "long list": ("{{ ([0] * 10 ** 10) | length }}", MEMORY),
    "width in %": ("{{ '%999999999d' % 1 }}", MEMORY),
    "width in the filter format": ("{{ '%999999999d' | format(1) }}", MEMORY),
    "width in str.format": ("{{ '{:999999999d}'.format(1) }}", MEMORY),
    "center": ("{{ 'x' | center(10 ** 10) }}", MEMORY),
    "indent": ("{{ 'x\ny' | indent(10 ** 10) }}", MEMORY),
    "tojson with indent": ("{{ [1] | tojson(indent=10 ** 10) }}", MEMORY),
    "replace": ("{{ ('a' * 99999) | replace('a', 'b' * 99999) }}", MEMORY),
    "join": ("{{ ('a' * 99999) | join('b' * 99999) }}", MEMORY),
    "batch with filling": ("{{ [1] | batch(10 ** 9, ' ') | list | length }}", MEMORY),
    "slice": ("{{ [1] | slice(10 ** 9) | list | length }}", MEMORY),
    "ljust": ("{{ 'x'.ljust(10 ** 10) }}", MEMORY),
    "expandtabs": ("{{ '\t'.expandtabs(2 ** 31 - 1) }}", MEMORY),
    # Size
    "source of a megabyte": ("x" * (1 << 20), "1,048,576 characters; the limit is 262,144"),
    "output of a gigabyte": ("{% for a in range(999) %}{{ 'x' * 999999 }}{% endfor %}", "writes more than 8,388,608"),
    "output in one piece": ("{{ 'x' * messages | length * 10 ** 7 }}", "writes more than 8,388,608"),
    "range": ("{% for a in range(10 ** 9) %}{% endfor %}", "Range too big"),
    "a message of ten megabytes": ("{{ raise_exception('x' * 10 ** 7) }}", "xxxx"),
    # Depth
    "recursive macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "recursive loop": ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "RecursionError"),
    "nested parentheses": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "cannot be compiled|signal"),
    "nested lists": ("{{ " + "[" * 9000 + "]" * 9000 + " }}", "cannot be compiled|signal"),
    "nested branches": ("{% if x %}" * 5000 + "{% endif %}" * 5000, "cannot be compiled|signal|computes"),
    "many filters": ("{{ x" + " | upper" * 9000 + " }}", "cannot be compiled|signal|computes"),
    "many additions": ("{{ 1" + " + x" * 9000 + " }}", "cannot be compiled|signal|computes"),
    # The sandbox
    "classes": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "globals of a function": ("{{ lipsum.__globals__['os'].popen('id').read() }}", "SecurityError|UndefinedError"),
    "globals of a class": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError|UndefinedError"),
    "classes by str.format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError"),
    "classes by format_map": ("{{ '{x.__class__}'.format_map({'x': 1}) }}", None),
    "classes by the filter attr": ("{{ '' | attr('__class__') | attr('__mro__') }}", None),
    "a namespace with a class": ("{{ namespace(__class__=1) }}", "SecurityError"),
    "a namespace that gets a class": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "SecurityError"),
    "changing the messages": ("{{ messages.append(1) }}", "SecurityError"),
    "files": ("{% include '/etc/passwd' %}", "cannot render|TypeError"),
    "modules": ("{% import 'os' as os %}", "cannot render|TypeError"),
    "a parent": ("{% extends '/etc/passwd' %}", "cannot render|TypeError"),
    # Errors and texts
    "division by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "nothing there": ("{{ none.x.y }}", "UndefinedError"),
    "a sum of messages": ("{{ messages | sum }}", "TypeError"),
    "a message that is not text": ("{{ raise_exception(messages) }}", "cannot render"),
    "escape sequences in a message": ("{{ raise_exception('\x1b[2J\x07evil') }}", r"\\x1b\[2J\\x07evil"),
    "surrogates in a message": ("{{ raise_exception('\\ud800') }}", "cannot render"),
    "surrogates": ("\ud800", "not Unicode"),
    "a break outside loops": ("{% break %}", "cannot be compiled|not valid Jinja"),
    "an open block": ("{% for m in messages %}", "not valid Jinja"),
    "an open comment": ("{# ", "not valid Jinja"),
    "a missing filter": ("{{ x | evil }}", "not valid Jinja|cannot be compiled"),
    "a date of any length": ("{{ strftime_now('%9999999d' * 99) }}", None),
    "a date that is not text": ("{{ strftime_now(1) }}", "TypeError"),
    "a null character": ("\x00{{ messages[0].content }}", None),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MENTOR_EDGE_TEMPLATE_SECONDS", "0.3")
        renderer._child.close()
        yield
    renderer._child.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_an_error_of_the_template(name: str) -> None:
    source, reason = ATTACKS[name]
    template = ChatTemplate(source, "</s>", name="theirs")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    problem = ""
    try:
        text = template.render(QUESTION)
        assert reason is None and len(text) <= OUTPUT and "<class" not in text
    except StudentError as error:
        problem = error.problem
    if problem:
        assert "the chat template 'theirs'" in problem and len(problem) < 2000 and problem.isprintable()
        assert reason is None or re.search(reason, problem)
    assert time.monotonic() - started < LIMIT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes in this process"


def test_all_renderings_of_a_template_share_its_time() -> None:
    """A template that stays just below a limit per rendering would still hold up every command for minutes."""
    template = ChatTemplate(
        "{% for a in range(9) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}", ""
    )

    def render_often() -> None:
        for number in range(99):
            template.render([Message("user", str(number))])

    with pytest.raises(StudentError, match=TIME):
        render_often()


def test_a_real_template_never_runs_out_of_time() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content }}{% for i in range(999) %}{% endfor %}{% endfor %}", ""
    )
    for number in range(300):
        assert template.render([Message("user", f"{number}")]) == str(number)


# The process


def test_the_next_template_is_rendered_after_one_was_stopped() -> None:
    with pytest.raises(StudentError):
        ChatTemplate(ATTACKS["nested loops"][0], "").render(QUESTION)
    assert ChatTemplate("{{ messages[0].content }}", "").render(QUESTION) == "x"


def test_a_process_that_somebody_killed_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}!", "")
    for text in "abc":
        assert template.render([Message("user", text)]) == f"{text}!"
        os.kill(renderer._child._process.pid, signal.SIGKILL)


def test_a_process_that_somebody_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_SECONDS_IN_ALL", 1.0)
    monkeypatch.setenv("MENTOR_EDGE_TEMPLATE_SECONDS", "0.1")
    template = ChatTemplate("{{ messages[0].content }}.", "")
    assert template.render(QUESTION) == "x."
    os.kill(renderer._child._process.pid, signal.SIGSTOP)
    with pytest.raises(StudentError, match="gave no answer within 2 s"):
        template.render([Message("user", "y")])
    assert ChatTemplate("{{ messages[0].content }}:", "").render(QUESTION) == "x:"
    renderer._child.close()  # its templates have the time that is set here


def test_a_forked_process_has_its_own() -> None:
    template = ChatTemplate("{{ messages[0].content }}?", "")
    assert template.render([Message("user", "a")]) == "a?"
    if (pid := os.fork()) == 0:
        right = all(template.render([Message("user", f"f{number}")]) == f"f{number}?" for number in range(9))
        renderer._child.close()
        os._exit(0 if right else 1)
    for number in range(9):
        assert template.render([Message("user", f"p{number}")]) == f"p{number}?"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_threads_get_their_own_texts() -> None:
    template, wrong = ChatTemplate("{{ messages[0].content }}", ""), []

    def render(number: int) -> None:
        for i in range(20):
            text = f"{number} {i}"
            if template.render([Message("user", text)]) != text:
                wrong.append(text)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_time_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOR_EDGE_TEMPLATE_SECONDS", text)
    renderer._child.close()
    with pytest.raises(ConfigError, match=f"MENTOR_EDGE_TEMPLATE_SECONDS is '{text}'"):
        ChatTemplate("wrong time", "").render(QUESTION)


def test_our_own_templates_render_here_as_in_the_child() -> None:
    values = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True, "eos_token": "</s>"}
    for source in own_templates():
        assert Template(source).render(values) == renderer._asked(source, "render", f"[{renderer.json.dumps(values)}]")


def test_arguments_cannot_replace_functions() -> None:
    assert environment().globals.keys() == FUNCTIONS


# transformers


def test_transformers_renders_with_the_same_limits() -> None:
    from helpers.tiny_models import TEMPLATE, make_tokenizer
    from mentor_edge.engines.torch.limited_rendering import limited_rendering

    tokenizer = make_tokenizer()
    conversation = [{"role": "user", "content": "Why?"}]
    expected = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    with limited_rendering():
        assert tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == expected
        # Only transformers passes this token.
        tokenizer.chat_template = TEMPLATE + "{{ 9 ** (9 ** 9) if pad_token is defined }}"
        with pytest.raises(StudentError, match=TIME):
            tokenizer.apply_chat_template(conversation, tokenize=False)
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == expected
