"""Whether an evaluation's outputs look like calls that were not read. Its figures then say little about the skill."""

from __future__ import annotations

from collections.abc import Sequence

from mentor_edge.evaluation.outcome import Outcome
from mentor_edge.messages import Ending
from mentor_edge.readable import counted
from mentor_edge.tool_calls import resembles_call

MANY = 0.05
"""The share of outputs above which a report begins with them."""
_SHOWN = 160
"""Characters of the example."""


def unread_calls(outcomes: Sequence[Outcome]) -> str | None:
    """What a report says first if more than 5 % of the outputs are malformed, or answers that resemble a call.

    Returns:
        The figures and one example; None if there are fewer.
    """
    malformed = [outcome for outcome in outcomes if outcome.malformed]
    suspicious = [outcome for outcome in outcomes if _is_suspicious(outcome)]
    found = [*malformed, *suspicious]
    if len(found) <= MANY * len(outcomes):
        return None
    example = " ".join(_last_text(found[0]).split())
    if len(example) > _SHOWN:
        example = example[:_SHOWN] + "..."
    share = f"{len(found):,} of {counted(len(outcomes), 'output')} ({100 * len(found) / len(outcomes):.1f} %)"
    kinds = f"{len(malformed):,} malformed, {len(suspicious):,} taken for answers"
    return f"{share} look like tool calls that could not be read ({kinds}); {found[0].task_id}: {example}"


def _is_suspicious(outcome: Outcome) -> bool:
    return outcome.ending is Ending.ANSWERED and resembles_call(_last_text(outcome), outcome.tools)


def _last_text(outcome: Outcome) -> str:
    return outcome.messages[-1].content if outcome.messages else ""
