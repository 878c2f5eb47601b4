"""Tools, requests for them and checks of processes, for the tests of the executor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from mentor_edge.messages import ToolCall
from mentor_edge.tools.calculator import CALCULATOR
from mentor_edge.tools.definition import tool_set
from mentor_edge.tools.execution.executor import ToolRequest
from mentor_edge.tools.types import Tool

CALCULATORS = {t.name: t for t in CALCULATOR}
ANYTHING: dict[str, Any] = {"type": "object"}


def wrap(function: Any, **bound: Any) -> dict[str, Tool]:
    return {"t": Tool("t", "a test tool", ANYTHING, function, bound)}


def requests(count: int, tools: dict[str, Tool], name: str = "t", **arguments: Any) -> list[ToolRequest]:
    return [ToolRequest(ToolCall(name, arguments), tools) for _ in range(count)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in 20 s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def meets(directory: str, count: int) -> int:
    """Return when `count` calls are waiting here at once."""
    Path(directory, f"met-{os.getpid()}").touch()
    while len(os.listdir(directory)) < count:
        time.sleep(0.01)
    return count


class Account:
    """An account."""

    def __init__(self) -> None:
        self.balance = 0

    def add(self, amount: int) -> int:
        """Pay in."""
        self.balance += amount
        return self.balance

    async def total(self) -> int:
        """The balance."""
        return self.balance

    def end(self, how: str) -> None:
        """Misbehave."""
        time.sleep(60) if how == "hang" else os._exit(3)

    def process(self) -> int:
        """The process that it is in."""
        return os.getpid()


ACCOUNT = {t.name: t for t in tool_set(Account)}
