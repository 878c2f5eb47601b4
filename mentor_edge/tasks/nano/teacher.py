"""The programmatic teacher of the nano world, with declared imperfections.

Real teachers make more calls than a problem needs: they verify, take detours, swap operands. How much of that a trace
contains decides whether imitation or reinforcement learns more from it. The noise is therefore a setting, and every
result states it. All traces end in the right answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from mentor_edge.messages import Ending, Message, ToolCall, Trajectory
from mentor_edge.tasks.nano.problems import Problem, Step

_COMMUTATIVE = ("add", "multiply")
_DETOURS = {"abs_value": {}, "round_number": {"digits": 2}}
"""Operations that do not change a non-negative value with at most two decimals, with their other arguments."""


class Noise(StrEnum):
    """How imperfect the teacher is."""

    CLEAN = "clean"
    MILD = "mild"
    HEAVY = "heavy"


@dataclass(frozen=True, slots=True)
class _Rates:
    swap: float
    """Probability that a commutative call swaps its operands."""
    repeat: float
    """Probability that a call is made a second time, as a verification."""
    detour: float
    """Probability of a final call that does not change the value, if a tool for it is offered."""


RATES = {
    Noise.CLEAN: _Rates(0.0, 0.0, 0.0),
    Noise.MILD: _Rates(0.0, 0.05, 0.10),
    Noise.HEAVY: _Rates(0.40, 0.20, 0.45),
}


def demonstrate(problem: Problem, noise: Noise, rng: random.Random) -> Trajectory:
    """A reference for `problem`: the minimal calls plus the noise."""
    rates = RATES[noise]
    steps: list[Step] = []
    for step in problem.steps:
        call = step.call
        if step.operation in _COMMUTATIVE and rng.random() < rates.swap:
            call = ToolCall(call.name, {"a": call.arguments["b"], "b": call.arguments["a"]})
        steps.append(Step(step.operation, call, step.result))
        if rng.random() < rates.repeat:
            steps.append(steps[-1])
    detour = _detour(problem, rng) if rng.random() < rates.detour else None
    if detour is not None:
        steps.append(detour)
    return trajectory_of(steps, problem.answer)


def _detour(problem: Problem, rng: random.Random) -> Step | None:
    """A call on the final value that returns it unchanged, with a tool that is offered under its own name."""
    offered = {tool.name for tool in problem.tools}
    usable = [name for name in _DETOURS if name in offered]
    if not usable or not problem.steps:
        return None
    value = float(problem.answer)
    if value < 0 or round(value, 2) != value:
        return None
    name = rng.choice(usable)
    number = int(value) if value.is_integer() else value
    return Step(name, ToolCall(name, {"x": number, **_DETOURS[name]}), problem.answer)


def trajectory_of(steps: list[Step], answer: str) -> Trajectory:
    """The trajectory of a demonstration: one call per turn, followed by its result, and the boxed answer at the end."""
    messages: list[Message] = []
    for step in steps:
        messages.append(Message("assistant", "", (step.call,)))
        messages.append(Message("tool", step.result, name=step.call.name))
    messages.append(Message("assistant", f"\\boxed{{{answer}}}"))
    return Trajectory(tuple(messages), answer, Ending.ANSWERED)
