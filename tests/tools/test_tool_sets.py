"""Classes as tool sets: which methods become tools, who shares an instance, and what is refused."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any

import pydantic
import pytest

from mentor_edge.errors import ToolDefinitionError
from mentor_edge.messages import ToolCall
from mentor_edge.tools.definition import tool_set
from mentor_edge.tools.execution.executor import ToolExecutor
from mentor_edge.tools.types import Tool


@pytest.fixture(scope="module")
def executor():
    with ToolExecutor() as shared:
        yield shared


def properties(of: Tool) -> dict[str, Any]:
    return of.to_openai()["function"]["parameters"]["properties"]


def no_docstring(x: int) -> int:
    return x


class Base:
    def inherited(self) -> int:
        """Not a tool."""
        return 0


class Counter(Base):
    """Counts."""

    limit = 10

    def __init__(self, start: int = 0) -> None:
        self._count = start

    @property
    def count(self) -> int:
        return self._count

    def up(self, by: Annotated[int, pydantic.Field(description="steps")] = 1) -> int:
        """Count up."""
        self._count += by
        return self._count

    async def read(self) -> int:
        """Read."""
        return self._helper()

    def _helper(self) -> int:
        return self._count


def test_the_public_methods_of_a_class_are_tools(executor):
    up, read = tool_set(Counter)
    assert (up.name, up.description, read.name) == ("up", "Count up.", "read")
    assert properties(up) == {"by": {"default": 1, "description": "steps", "type": "integer"}}
    assert up.state is read.state is Counter
    assert up.function(Counter(), by=2) == 2


def from_seven() -> Counter:
    return Counter(7)


@pytest.mark.parametrize("factory", [functools.partial(Counter, 7), from_seven])
def test_a_tool_set_can_be_made_by_a_factory(executor, factory):
    tools = {one.name: one for one in tool_set(factory)}
    with executor.session() as session:
        assert executor.run(ToolCall("up", {"by": 2}), tools, session).content == "9"
        assert executor.run(ToolCall("read", {}), tools, session).content == "9"


def made_of(**members: Any) -> type:
    return type("Made", (), members)


def without_self() -> int:
    """Lost."""
    return 0


class Needy:
    def __init__(self, database: str) -> None: ...

    def ask(self) -> int:
        """Ask."""
        return 0


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (made_of(f=staticmethod(no_docstring)), "'f' is a staticmethod"),
        (made_of(f=classmethod(no_docstring)), "'f' is a classmethod"),
        (made_of(f=no_docstring), "tool 'no_docstring' has no docstring"),
        (made_of(f=without_self), "'f' has no self parameter"),
        (made_of(_f=no_docstring, g=3), "defines no public methods"),
        (type("Child", (Counter,), {}), "defines no public methods"),
        (Needy, "cannot be created without 'database'"),
        (lambda: Counter(), "cannot tell which class"),
    ],
)
def test_a_class_that_cannot_be_a_tool_set_is_refused(factory, message):
    with pytest.raises(ToolDefinitionError, match=re.escape(message)):
        tool_set(factory)
