"""Which limits cut conversations off, and how to raise them. A conversation that was cut off is never right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mentor_edge.evaluation.outcome import Outcome
from mentor_edge.messages import Limit
from mentor_edge.readable import counted
from mentor_edge.tasks.types import AgentLimits

SEVERE = 0.05
"""The share of a domain's conversations above which a limit distorts its score."""

_MORE_CONTEXT = "allow more with --context if the model was trained for it"
HINTS = {
    Limit.TURN_TOKENS: "raise the limit with --max-turn-tokens",
    Limit.TOKENS: "raise the limit with --max-tokens",
    Limit.ROUNDS: "raise the limit with --max-rounds",
    Limit.CONTEXT: _MORE_CONTEXT,
    Limit.PROMPT: _MORE_CONTEXT,
}
"""How to raise a limit on the command line."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """The conversations of an evaluation that one limit cut off."""

    limit: Limit
    """The limit."""
    count: int
    """How many conversations it cut off."""
    severe: bool
    """Whether they are more than 5 % of the conversations of some domain."""
    statement: str
    """The figures, and how to raise the limit."""


def cut_offs(outcomes: Sequence[Outcome], limits: AgentLimits | None, context_length: int | None) -> list[CutOff]:
    """One entry per limit that cut off some conversation, the most frequent first.

    `limits` and `context_length` are those of the evaluation, None if they are not known.
    """
    found = []
    for limit in Limit:
        cut = [outcome for outcome in outcomes if outcome.cut_by is limit]
        if cut:
            shares = _by_domain(cut, outcomes)
            severe = any(part > SEVERE * whole for part, whole in shares.values())
            share = f"{len(cut):,} of {counted(len(outcomes), 'conversation')} ({100 * len(cut) / len(outcomes):.1f} %)"
            domains = ", ".join(f"{domain} {part} of {whole}" for domain, (part, whole) in shares.items())
            reason = _reason(limit, cut, limits or AgentLimits(), context_length)
            statement = f"{share} {reason}, counted as wrong ({domains}); {HINTS[limit]}"
            found.append(CutOff(limit, len(cut), severe, statement))
    return sorted(found, key=lambda entry: -entry.count)


def _by_domain(cut: Sequence[Outcome], outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """How many of each domain's conversations were cut off, and how many the domain has."""
    domains = dict.fromkeys(outcome.domain for outcome in cut)
    return {
        domain: (sum(o.domain == domain for o in cut), sum(o.domain == domain for o in outcomes)) for domain in domains
    }


def _reason(limit: Limit, cut: Sequence[Outcome], limits: AgentLimits, context_length: int | None) -> str:
    context = "the context"
    if context_length is not None:
        context += f" of {context_length:,}"
    if limit is Limit.TURN_TOKENS:
        return f"were cut off after {counted(limits.tokens_per_turn, 'token')} in one turn"
    if limit is Limit.TOKENS:
        return f"were cut off after {counted(limits.completion_tokens, 'token')} in all"
    if limit is Limit.ROUNDS:
        return f"still called tools after {counted(limits.tool_rounds, 'round')}"
    if limit is Limit.CONTEXT:
        return f"filled {context}"
    longest = max(outcome.prompt_tokens for outcome in cut)
    tokens = f" of up to {counted(longest, 'token')}" if longest else ""
    return f"did not start: a prompt{tokens} does not fit {context}"
