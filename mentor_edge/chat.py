"""Rendering chats with tools: one renderer for every runtime (the parser is in `tool_calls.py`).

It renders the model's own Jinja template exactly as transformers does (sandboxed, blocks trimmed), but does not import
transformers. Training, the gate and the device therefore run the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mentor_edge.errors import StudentError
from mentor_edge.messages import Message, ToolCall


class _GenerationTag(Extension):
    """Accept `{% generation %}` blocks, with which training templates mark assistant text, and render their content."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as an instance attribute)

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters; templates expect plain JSON, as transformers renders it.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template."""

    source: str
    """The Jinja source; it is shipped byte for byte."""
    eos_token: str
    """The text of the end-of-turn token."""
    bos_token: str = ""
    """The text of the start token."""

    @cached_property
    def sha256(self) -> str:
        """The hash that identifies the source in runs, manifests and reports."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise StudentError(f"the chat template is not valid Jinja: {error} (line {error.lineno})") from error

    def check(self) -> None:
        """Raises: StudentError when the source is not valid Jinja."""
        _ = self._compiled

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text that a model sees. `tools` are OpenAI function schemas.

        Raises: StudentError when the template refuses the conversation.
        """
        try:
            return self._compiled.render(
                messages=[message.to_openai() for message in messages],
                # Templates test `if tools`; Llama's renders tool boilerplate for an empty list.
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except jinja2.TemplateError as error:
            raise StudentError(f"the chat template cannot render this conversation: {error}") from error

    def tool_suffix(self, results: Sequence[Message]) -> str:
        """The text between the end-of-turn token of a tool-calling turn and the model's next turn.

        It is rendered in a minimal conversation, so it does not depend on how the model spelled its call. The tokens of
        the real conversation stay as they were generated (TRL's `_get_tool_suffix_ids` does the same).

        Raises: StudentError when the template rewrites earlier turns.
        """
        calls = tuple(ToolCall(result.name or "tool", {}) for result in results)
        opening = (Message("user", "x"), Message("assistant", "", calls))
        before = self.render(opening)
        after = self.render((*opening, *results), add_generation_prompt=True)
        end_of_turn = before.rfind(self.eos_token)
        prefix = before if end_of_turn < 0 else before[: end_of_turn + len(self.eos_token)]
        if not after.startswith(prefix):
            raise StudentError(
                "the chat template rewrites earlier turns when a tool result is added",
                "use a prefix-preserving template (for Qwen3: the training template that comes with TRL)",
            )
        return after[len(prefix) :]
