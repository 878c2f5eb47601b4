"""How closely a rollout's tool use matches a teacher's trajectory: a number from 0 to 1, in one of six ways."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from typing import Any, Literal, get_args

from mentor_edge.messages import ToolCall

Matching = Literal["set", "overlap", "f1", "calls", "strict", "none"]
"""- set: 1 when the same tools were used; order, repetition and arguments do not count (MENTOR, released code)
- overlap: 1 when at least one tool is shared (ablation 2 of the released code)
- f1: F1 of the two sets of tools (ablation 4)
- calls: F1 of the two multisets of calls, arguments included (ours)
- strict: 1 when the calls are the teacher's, in order, arguments included (the paper's strict-trajectory baseline)
- none: always 0 (ablation 3)
"""
MATCHINGS: tuple[Matching, ...] = get_args(Matching)

# Deeper than any schema needs. Python cannot compare values of unlimited depth.
_DEEPEST = 64


def match(matching: Matching, calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    """The match of a rollout's `calls` with those of one reference. Calls of tools that are not `known` (offered with
    the task) are ignored, as in the released code, but a strict match fails on them.

    If neither side has calls, they match fully.
    """
    return _MATCHERS[matching](calls, taught, known)


def _set(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    return float(_tools(calls, known) == _tools(taught))


def _overlap(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    student, teacher = _tools(calls, known), _tools(taught)
    return float(bool(student & teacher) or student == teacher)


def _f1(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    return _f1_of(Counter(_tools(calls, known)), Counter(_tools(taught)))


def _calls(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    return _f1_of(Counter(canonical(call) for call in calls if call.name in known), Counter(map(canonical, taught)))


def _strict(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    return float(len(calls) == len(taught) and all(map(_same, calls, taught)))


def _none(calls: Sequence[ToolCall], taught: Sequence[ToolCall], known: Set[str]) -> float:
    return 0.0


_MATCHERS: Mapping[Matching, Callable[[Sequence[ToolCall], Sequence[ToolCall], Set[str]], float]] = {
    "set": _set,
    "overlap": _overlap,
    "f1": _f1,
    "calls": _calls,
    "strict": _strict,
    "none": _none,
}


def _tools(calls: Sequence[ToolCall], known: Set[str] | None = None) -> set[str]:
    return {call.name for call in calls if known is None or call.name in known}


def _f1_of(student: Counter[Any], teacher: Counter[Any]) -> float:
    if not student and not teacher:
        return 1.0
    return 2 * (student & teacher).total() / (student.total() + teacher.total())


def _same(first: ToolCall, second: ToolCall) -> bool:
    return canonical(first) == canonical(second)


def canonical(call: ToolCall) -> Hashable:
    """A value that is equal for equal calls: the order of keys does not count, 2 equals 2.0, and 1 is not true."""
    try:
        return call.name, _frozen(call.arguments, _DEEPEST)
    except RecursionError:  # equal only to itself
        return call.name, id(call.arguments)


def _frozen(value: Any, levels: int) -> Hashable:
    if levels < 0:
        raise RecursionError
    if isinstance(value, Mapping):
        return "object", frozenset((key, _frozen(item, levels - 1)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "array", tuple(_frozen(item, levels - 1) for item in value)
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, float) and math.isnan(value):
        return "number", "nan"
    return value if isinstance(value, Hashable) else repr(value)
