"""The pool's record of one worker process: its call, its deadline, and what its messages and its end mean."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass

from mentor_edge.tools.execution.channel import Channel
from mentor_edge.tools.execution.limits import CallLimits
from mentor_edge.tools.execution.pool_supervisor import PoolSupervisor

CLOSED = "the tools were closed before the call ended"
NOT_STARTED = "no process could be started for the tool"

IDLE_SECONDS = 60.0
"""A shared worker without calls is ended after this time, unless it is the last one."""


@dataclass(eq=False, slots=True)
class PoolCall:
    """A call that the pool runs."""

    number: int
    """Hard to guess; the reply must repeat it."""
    target: int
    """Index of the target in the pool's register."""
    message: bytes
    """What the worker reads."""
    session: Hashable | None = None
    """Calls of one session run in one worker. None: any shared worker may run the call."""
    outcome: tuple[bool, str] | None = None
    """Set when the call has ended: whether it failed, and what the model reads."""


@dataclass(eq=False, slots=True)
class WorkerHandle:
    """A worker from its fork to its exit."""

    worker_id: int
    supervisor: PoolSupervisor
    channel: Channel
    session: Hashable | None
    limits: CallLimits
    deadline: float
    """When the worker must be ready, have replied, be dead, or is idle for too long (monotonic seconds)."""
    ready: bool = False
    killed: bool = False
    call: PoolCall | None = None
    end_reason: str | None = None
    """Why the pool ended the worker, if its exit code does not show that."""

    def assign(self, call: PoolCall) -> None:
        """Give the worker a call. It is sent as soon as the worker is ready."""
        self.call = call
        if self.ready:
            self.deadline = time.monotonic() + self.limits.seconds
            self.channel.send(call.message)

    def accept(self, message: bytes) -> PoolCall | None:
        """Take a message: returns None for "ready", otherwise the call that has ended.

        Raises: ValueError for any other message. Only a tool that writes into the socket can have sent it.
        """
        try:
            reply = json.loads(message)
            if reply is None and not self.ready:
                self.ready = True
                self.deadline = self._idle_deadline()
                if self.call is not None:
                    self.assign(self.call)
                return None
            number, failed, text = reply
            outcome = bool(failed), str(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError("the message is not a reply") from error
        call = self.call
        if call is None or not self.ready or call.number != number:
            raise ValueError("the message does not answer the call")
        call.outcome = outcome
        self.call, self.deadline = None, self._idle_deadline()
        return call

    def failure(self, exit_code: int | None) -> str:
        """What the model reads about the call that ended with this worker. `exit_code` is None when unknown."""
        if self.end_reason is not None:
            text = self.end_reason
        elif not self.ready:
            text = NOT_STARTED
        elif exit_code is None:
            text = "the tool's process was ended from outside"
        else:
            text = f"the tool ended its process (exit code {exit_code})"
        if self.session is not None and self.ready:
            text += "; what it kept for this conversation is lost, and the next call starts afresh"
        return text

    def _idle_deadline(self) -> float:
        return time.monotonic() + IDLE_SECONDS if self.session is None else math.inf
