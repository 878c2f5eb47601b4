"""Evaluations with constructed outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from mentor_edge.evaluation.evaluate import Evaluation, Outcome
from mentor_edge.messages import Ending


def evaluation(bits: Sequence[bool], *, split: str = "ood", malformed: int = 0, start: int = 0) -> Evaluation:
    """One outcome per bit; the first `malformed` ones ended with an unreadable call. Ids count from `start`."""
    outcomes = tuple(
        Outcome(
            f"{split}-{start + i}",
            split,
            "d",
            correct,
            malformed=i < malformed,
            unknown_tool=False,
            ending=Ending.ANSWERED,
            answer=None,
            error=None,
            calls=0,
            turns=1,
            tokens=1,
            tool_errors=0,
            messages=(),
        )
        for i, correct in enumerate(bits)
    )
    return Evaluation("s", "1", "0" * 64, outcomes)
