"""What a chat template does with tools, calls and results: the records that `probe_template` fills in."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from mentor_edge.results import Result


class Outcome(StrEnum):
    """What became of a marker that was rendered."""

    REACHES = "reaches"
    """It is in the text that the model reads."""
    DROPPED = "dropped"
    """The template leaves it out without a word."""
    RAISES = "raises"
    """The template refuses the conversation."""


class Finding(Result):
    """The outcome of one rendered conversation."""

    outcome: Outcome
    """What became of the markers."""
    detail: str = ""
    """Which marker is missing, or the template's error."""

    @property
    def reaches(self) -> bool:
        """Whether every marker is in the text."""
        return self.outcome is Outcome.REACHES

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome.value


MALFORMED, UNREAD = "malformed", "read as an answer"
"""What the parser may make of a call instead of other calls."""


class ReadBack(Result):
    """Whether the parser reads a call as the template writes it."""

    equal: bool
    """Whether the parser returns the same calls."""
    text: str
    """The turn as the template writes it, without its end."""
    spelling: str = ""
    """The form of the calls, as docs/tool_calls.md names it, if the parser reads them."""
    got: str = ""
    """What the parser returned, if it is not equal."""

    @property
    def changed(self) -> bool:
        """Whether the parser returns other calls, such as text for a number: the template writes other ones."""
        return not self.equal and self.got not in (MALFORMED, UNREAD)


class TemplateReport(Result):
    """What a chat template does."""

    sha256: str
    """Hash of the template's source."""
    question: Finding
    """A user's question."""
    without_tools: Finding
    """A user's question in a conversation without tools."""
    system: Finding
    """A system message."""
    tools: Finding
    """The names of two offered tools."""
    parameters: Finding
    """The names of the tools' parameters."""
    question_with_tools: Finding
    """A user's question beside two tools."""
    system_with_tools: Finding
    """A system message, a question and two tools in one prompt."""
    call: Finding
    """One call: the tool's name and an argument."""
    all_arguments: Finding
    """All arguments of calls: several in one call, numbers, nested values."""
    two_calls: Finding
    """Two calls in one turn."""
    text_with_call: Finding
    """The text that an assistant writes before its call."""
    call_with_text: Finding
    """A call after text of the same turn."""
    result: Finding
    """A tool result."""
    two_results: Finding
    """The results of two calls of one turn."""
    answer: Finding
    """An assistant's answer."""
    taught_turn: Finding
    """Whether the turns of a conversation with a call, a result and an answer can be taught, with their end tokens."""
    result_suffix: Finding
    """Whether the text between a call and the model's next turn can be made, as every conversation needs."""
    rewrites_after_result: bool
    """Whether a turn that calls a tool reads differently once its result follows."""
    rewrites_after_question: bool
    """Whether an earlier turn reads differently once the user asks again."""
    thinking_switch: bool
    """Whether `enable_thinking` changes what the model reads."""
    arguments: tuple[str, ...]
    """The names that `template_arguments` may set."""
    opens_thinking: bool
    """Whether the prompt for the model's turn ends inside an opened thinking block."""
    dated: bool
    """Whether the prompt contains the current date, so that results may differ from day to day."""
    end_of_turn: str
    """The text after an assistant's answer, such as "<|im_end|>"; empty if the template writes none."""
    end_of_call: str
    """The text after a turn that calls a tool; usually the same."""
    read_back: dict[str, ReadBack]
    """Calls with several kinds of arguments: what the parser makes of them."""

    @property
    def spelling(self) -> str:
        """One call as the template writes it; empty if it does not write calls."""
        example = self.read_back.get("text")
        return example.text if example is not None and self.call.reaches else ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why tool use cannot be trained, exported or measured with this template. Empty if it can."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.question.reaches:
            yield f"it cannot render a question ({self.question})"
            return
        for finding, what in (
            (self.tools, "the offered tools"),
            (self.call, "tool calls"),
            (self.result, "tool results"),
            (self.answer, "the assistant's answers"),
        ):
            if finding.outcome is Outcome.DROPPED:
                yield f"it drops {what}"
            elif finding.outcome is Outcome.RAISES:
                yield f"it refuses {what} ({finding.detail})"
        if self.tools.reaches and self.question_with_tools.outcome is Outcome.DROPPED:
            yield "it drops the question when tools are offered"
        if self.call.reaches and self.all_arguments.outcome is Outcome.DROPPED:
            yield f"it drops arguments ({self.all_arguments.detail})"
        if self.call.reaches and self.call_with_text.outcome is Outcome.DROPPED:
            yield "it drops a call after text in the same turn"
        if self.call.reaches and self.answer.reaches and not self.taught_turn.reaches:
            yield f"its calls cannot be taught ({self.taught_turn.detail})"
        if self.call.reaches and self.result.reaches and not self.result_suffix.reaches:
            yield f"tool results cannot be given to the model ({self.result_suffix.detail})"
        for finding, single, what in (
            (self.two_calls, self.call, "all calls of a turn but one"),
            (self.two_results, self.result, "all results after a turn but one"),
        ):
            if single.reaches and finding.outcome is Outcome.DROPPED:
                yield f"it drops {what}"
        if self.tools.reaches and self.system.reaches and self.system_with_tools.outcome is Outcome.DROPPED:
            yield f"with a system message and tools in one prompt it drops {self.system_with_tools.detail}"
        example = self.read_back.get("text")
        if self.call.reaches and example is not None and not example.equal:
            yield f"the parser cannot read the calls that it writes ({_shortened(example.text)!r}: {example.got})"
        elif self.call.reaches and self.all_arguments.reaches and (changed := self._changed):
            yield f"it writes other arguments than a call has ({changed[0].got})"

    @property
    def _changed(self) -> list[ReadBack]:
        """Single calls that the parser reads differently."""
        return [entry for name, entry in self.read_back.items() if entry.changed and name != "two calls"]

    @property
    def notes(self) -> tuple[str, ...]:
        """What you should know, although tool use works."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        if self.question.reaches and not self.without_tools.reaches:
            yield f"conversations without tools: {self.without_tools}"
        if not self.system.reaches:
            yield f"no system message: {self.system}"
        elif self.tools.reaches and self.system_with_tools.outcome is Outcome.RAISES:
            yield f"it refuses a system message and tools in one prompt ({self.system_with_tools.detail})"
        if self.tools.reaches and not self.parameters.reaches:
            yield "the model sees the tools' names, but not their parameters"
        if self.call.reaches and self.two_calls.outcome is Outcome.RAISES:
            yield f"it refuses two calls in one turn ({self.two_calls.detail}); such a conversation ends as malformed"
        if self.two_calls.reaches and self.result.reaches and self.two_results.outcome is Outcome.RAISES:
            yield f"it refuses two results after one turn ({self.two_results.detail})"
        if self.call.reaches and self.text_with_call.outcome is Outcome.DROPPED:
            yield "text before a call is dropped"
        if self.call.reaches and self.text_with_call.outcome is Outcome.RAISES:
            yield f"it refuses text before a call ({self.text_with_call.detail}); such a conversation ends as malformed"
        if self.call.reaches and self.all_arguments.outcome is Outcome.RAISES:
            yield f"it refuses some arguments ({self.all_arguments.detail}); such a conversation ends as malformed"
        if self.rewrites_after_result:
            yield "a turn reads differently once its tool result follows; what was generated is kept as it is"
        if self.rewrites_after_question:
            yield "earlier turns read differently once the user asks again"
        if self.dated:
            yield "the prompt contains the current date: figures may change from day to day"
        unread = [f"{name} ({entry.got})" for name, entry in self.read_back.items() if not entry.equal]
        if unread and self.read_back["text"].equal:
            yield f"the parser does not return the same calls for: {', '.join(unread)}"


def _shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
