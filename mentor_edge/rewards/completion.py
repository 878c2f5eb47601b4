"""Scores raw text as MENTOR's released reward code does, so that anyone can check our rewards against it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mentor_edge.errors import ConfigError, ToolDefinitionError
from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.rewards.breakdown import Reward, RewardBreakdown
from mentor_edge.rewards.mentor import MentorReward
from mentor_edge.rewards.sparse import SparseReward
from mentor_edge.tasks.answers.judge import boxed_answer
from mentor_edge.tasks.types import Task
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN
from mentor_edge.tools.types import Tool

VARIANTS: Mapping[str, Reward] = {
    "mentor": MentorReward(),
    "sparse": SparseReward(),
    "overlap": MentorReward("overlap"),
    "none": MentorReward("none"),
    "f1": MentorReward("f1"),
    "strict": MentorReward("strict"),
}
"""The reward of each variant: those in the released code, and the paper's strict baseline."""


def score_completion(
    text: str,
    *,
    answer: Any,
    teacher_tools: Iterable[Any] | None,
    tools: Iterable[Any],
    variant: str = "mentor",
    eos_token: str = "<|im_end|>",  # noqa: S107 (not a password)
    malformed_is_unknown: bool = False,
) -> RewardBreakdown:
    r"""Score the text of one completion: the model's turns with their tool results, without the prompt.

    The text must end with exactly `eos_token`. Its last `\boxed{...}` is the answer, and its calls are the readable
    `<tool_call>` blocks. `answer` is the accepted answer, or a list of them. `teacher_tools` are the tools of the
    reference: names, or calls (`ToolCall` or {"name", "arguments"}), which "strict" needs to compare arguments. `tools`
    are the tools offered: names, `Tool`s or OpenAI schemas. With `malformed_is_unknown`, a block that cannot be read
    costs the term for unknown tools. The released code intends that but does not do it (see docs/rewards.md).

    Never raises on anything that a model or a data set can contain: any text, any answer, any entry of the two lists.

    Raises: ConfigError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ConfigError([f"variant: {variant!r} is unknown (known: {', '.join(VARIANTS)})"])
    text = text if isinstance(text, str) else str(text)
    calls, malformed = _calls(text)
    if malformed and malformed_is_unknown:
        calls.append(ToolCall("", {}))
    taught = _taught(teacher_tools, calls)
    accepted: list[str | None] = []
    given = answer if isinstance(answer, list | tuple) else [answer]
    accepted += [_words(item) for item in given if item is not None]
    # Some data sets store the accepted answer with its box.
    accepted = [gold and (boxed_answer(gold) or gold) for gold in accepted]
    ending = Ending.ANSWERED if eos_token and text.endswith(eos_token) else Ending.TRUNCATED
    rollout = Trajectory((Message("assistant", text, tuple(calls)),), boxed_answer(text), ending)
    # If there is no teacher tool to match, the released code scores the rollout as if it had no answer.
    reference = Trajectory((Message("assistant", "", tuple(taught)),), None, Ending.ANSWERED) if taught else None
    offered = tuple(_offered(tools))
    scores = [
        VARIANTS[variant](rollout, Task("", (), offered, "id", "", answer=gold, reference=reference))
        for gold in accepted or [None]
    ]
    return max(scores, key=lambda score: score.total)


def _calls(text: str) -> tuple[list[ToolCall], int]:
    """The readable calls, and the number of unreadable blocks. A block ends at the next closing tag."""
    calls: list[ToolCall] = []
    malformed = 0
    position = 0
    while (start := text.find(TOOL_CALL_OPEN, position)) >= 0:
        end = text.find(TOOL_CALL_CLOSE, start)
        if end < 0:
            return calls, malformed + 1
        call = _call(text[start + len(TOOL_CALL_OPEN) : end])
        if call is None:
            malformed += 1
        else:
            calls.append(call)
        position = end + len(TOOL_CALL_CLOSE)
    return calls, malformed


def _call(text: str) -> ToolCall | None:
    # Looser than the agent's parser on purpose: the released code counts any object with a name.
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.get("name"):
        return None
    name, arguments = value["name"], value.get("arguments")
    # If the name is not text, the call is one of an unknown tool.
    return ToolCall(name if isinstance(name, str) else "", arguments if isinstance(arguments, dict) else {})


def _items(values: Any) -> Sequence[Any]:
    if values is None:
        return ()
    if isinstance(values, str | Mapping):
        return (values,)
    try:
        return tuple(values)
    except TypeError:
        return ()


def _name(item: Any) -> str | None:
    if isinstance(item, Tool | ToolCall):
        return item.name
    if isinstance(item, Mapping):
        item = _function(item).get("name")
    return item if isinstance(item, str) and item else None


def _function(item: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The part of a schema or a call that has the name. In OpenAI's format it is one level down."""
    function = item.get("function")
    return function if isinstance(function, Mapping) and "name" not in item else item


def _taught(items: Any, calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The reference's calls. A bare name gets the student's own arguments, because there are none to compare."""
    taught: list[ToolCall] = []
    used: Counter[str] = Counter()
    for item in _items(items):
        name = _name(item)
        if name is None:
            continue
        if isinstance(item, ToolCall):
            taught.append(item)
        elif isinstance(item, Mapping) and "arguments" in _function(item):
            taught.append(ToolCall(name, _arguments(_function(item)["arguments"])))
        else:
            given = [call.arguments for call in calls if call.name == name]
            taught.append(ToolCall(name, given[used[name]] if used[name] < len(given) else {}))
            used[name] += 1
    return taught


def _arguments(value: Any) -> Mapping[str, Any]:
    """Arguments, given as an object or as its JSON text (OpenAI's API)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def _words(answer: Any) -> str:
    try:
        return str(answer)
    except Exception:  # an integer with more digits than Python prints, or an object whose __str__ fails
        return ""


def _offered(tools: Iterable[Any]) -> Iterator[Tool]:
    """The tools by their names. What cannot be the name of a tool cannot be called either."""
    for name in map(_name, _items(tools)):
        if name is not None:
            with suppress(ToolDefinitionError):
                yield Tool(name, "", {}, _never_called)


def _never_called() -> None:
    """The tools here only have names."""
