"""The caller's side of the worker processes: which call goes to which worker, and what ends it.

A worker runs one call at a time. Calls without state share workers, and there are as few of these as will do: one at
first, more when calls have waited for some milliseconds, as many as the work that waits would keep busy. A session has
a worker of its own from its first call until it is ended, or until a call times out or crashes.

Nothing here waits for a worker without a deadline, and nothing that a worker sends is trusted to be well-formed.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mentor_edge.tools.execution.channel import Channel
from mentor_edge.tools.execution.pool_supervisor import CALLERS_SOCKETS, Nursery
from mentor_edge.tools.execution.tool_worker import Limits
from mentor_edge.tools.types import Target

PATIENCE = 0.003
"""Seconds that calls wait before another worker is considered, and seconds of waiting work that are worth one: about
what it costs to fork it."""

_CLOSED = "the tools were closed before the call ended"
_GRACE = 5.0
"""Seconds that a worker may take to die once it was killed."""
_START = 60.0
"""Seconds that a worker may take from its fork to its first sign of life."""
_IDLE = 60.0
"""Seconds after which a worker without calls is ended, unless it is the last one."""


@dataclass(eq=False, slots=True)
class PoolCall:
    """A call on its way. `outcome` is set when it has ended: whether it failed, and what the model reads.

    `number` is hard to guess and has to come back with the reply. `target` is its index in the pool's register. Calls
    of one `session` run in one worker.
    """

    number: int
    target: int
    message: bytes
    session: Hashable | None = None
    outcome: tuple[bool, str] | None = None


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker as the pool sees it. `deadline` is when it must have given its next sign of life, if any."""

    name: int
    nursery: Nursery
    channel: Channel
    session: Hashable | None
    deadline: float
    ready: bool = False
    call: PoolCall | None = None
    started: float = 0.0
    doom: str | None = None
    killed: bool = False


class WorkerPool:
    """Worker processes for at most `workers` calls at once. Used by one thread at a time, but for `wake` and
    `hang_up`."""

    def __init__(self, workers: int, limits: Limits, environment: Sequence[str]) -> None:
        self._limit = workers
        self._limits = limits
        self._environment = tuple(environment)
        self._targets: list[Target] = []
        self._indexes: dict[tuple[int, ...], int] = {}  # by ids: callables need not be hashable; the list keeps them
        self._nursery: Nursery | None = None
        self._old_nurseries: list[Nursery] = []  # kept by sessions that began in them
        self._workers: dict[int, _Worker] = {}
        self._shared: list[_Worker] = []
        self._of_session: dict[Hashable, _Worker] = {}
        self._names = 0
        self._waiting: deque[PoolCall] = deque()
        self._waiting_in_sessions: deque[PoolCall] = deque()
        self._finished: list[PoolCall] = []
        self._seconds: dict[int, float] = {}  # how long a target usually takes
        self._look_again = 0.0
        self._hung_up = False
        self._selector = selectors.PollSelector()  # not epoll: a fork would share its state
        self._bell, self._button = socket.socketpair()
        CALLERS_SOCKETS.update((self._bell, self._button))
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)

    # Calls

    def register(self, target: Target) -> int:
        """The index of a target. One met for the first time makes the next call start new processes."""
        key = tuple(map(id, target))
        if key not in self._indexes:
            self._indexes[key] = len(self._targets)
            self._targets.append(target)
        return self._indexes[key]

    def submit(self, call: PoolCall) -> None:
        """Queue a call. `step` moves it on."""
        if call.session is not None:
            self._waiting_in_sessions.append(call)
            return
        if not self._waiting:
            self._look_again = time.monotonic() + PATIENCE
        self._waiting.append(call)

    def step(self, until: float = math.inf) -> list[PoolCall]:
        """Move calls on until some end, `wake` is called or the time is `until` (monotonic); returns the ended ones."""
        self._dispatch()
        if not self._finished:
            for key, _ in self._selector.select(self._pause(until)):
                if isinstance(key.data, int):
                    self._hear(key.data)
                elif isinstance(key.data, Nursery):
                    self._take_deaths(key.data)
                else:
                    with suppress(BlockingIOError):
                        self._bell.recv(4096)
            self._expire()
        finished, self._finished = self._finished, []
        return finished

    def wake(self) -> None:
        """Make `step` return, from any thread."""
        with suppress(OSError):
            self._button.send(b"!")

    def abandon(self) -> None:
        """Drop all calls; workers that run one are killed."""
        self._waiting.clear()
        self._waiting_in_sessions.clear()
        for worker in list(self._workers.values()):
            if worker.call is not None:
                worker.call = None
                self._kill(worker)
        self._finished.clear()

    def end_session(self, session: Hashable) -> None:
        """End a session's worker, if it has one. Does not wait for it to be dead."""
        if session in self._of_session:
            worker = self._of_session[session]
            self._kill(worker)
            self._take_deaths(worker.nursery)  # or reports of many sessions would pile up in the socket

    def hang_up(self) -> None:
        """Make all calls fail at once, from any thread. `close` has to follow."""
        self._hung_up = True
        for nursery in (*self._old_nurseries, self._nursery):
            if nursery is not None:
                nursery.hang_up()
        self.wake()

    def close(self) -> None:
        """End all processes. The pool cannot be used again."""
        for worker in self._workers.values():
            worker.channel.close()
        for nursery in (*self._old_nurseries, self._nursery):
            if nursery is not None:
                nursery.close()
        self._bell.close()
        self._button.close()

    # Workers

    def _dispatch(self) -> None:
        if self._hung_up:
            for call in (*self._waiting, *self._waiting_in_sessions):
                self._finish(call, True, _CLOSED)
            self._waiting.clear()
            self._waiting_in_sessions.clear()
            if self._nursery is not None:
                self._nursery.hang_up()  # it may have been forked a moment after
            return
        if self._nursery is not None and self._nursery.known < len(self._targets):
            self._retire()
        running = sum(worker.call is not None for worker in self._workers.values())
        while self._waiting_in_sessions and running < self._limit:
            running += self._give_to_session(self._waiting_in_sessions.popleft())
        idle = [worker for worker in self._shared if worker.ready and worker.call is None and not worker.killed]
        while self._waiting and idle and running < self._limit:
            self._give(idle.pop(), self._waiting.popleft())
            running += 1
        if self._waiting:
            for _ in range(self._workers_worth_starting()):
                if not self._start(None):
                    break

    def _give_to_session(self, call: PoolCall) -> bool:
        """Whether the call is on its way now; if not, it has failed."""
        worker = self._of_session.get(call.session)
        if worker is not None and call.target >= worker.nursery.known:
            self._finish(call, True, "this tool was not offered when the conversation began")
            return False
        if worker is None:
            worker = self._start(call.session)
            if worker is None:
                self._finish(call, True, "no process could be started for the tool")
                return False
        self._give(worker, call)
        return True

    def _workers_worth_starting(self) -> int:
        """How many more workers the waiting calls would keep busy, by what such calls took so far."""
        if not self._shared:
            return 1
        now = time.monotonic()
        if now < self._look_again:
            return 0
        self._look_again = now + PATIENCE
        soon_free = starting = 0
        for worker in self._shared:
            if worker.call is None or not worker.ready:
                starting += 1
                continue
            soon_free += max(now - worker.started, self._seconds.get(worker.call.target, PATIENCE)) < PATIENCE
        work = sum(self._seconds.get(call.target, PATIENCE) for call in self._waiting)
        wanted = min(len(self._waiting), max(1, math.ceil(work / PATIENCE)) - soon_free) - starting
        # At most twice as many as before: one call that took long by accident must not start dozens.
        return max(0, min(wanted, len(self._shared), self._limit - len(self._shared)))

    def _start(self, session: Hashable | None) -> _Worker | None:
        """A new worker, or None when none can be started; then no call waits any more that needs it."""
        try:
            if self._nursery is None:
                self._nursery = Nursery(self._targets, self._limits, self._environment)
                self._selector.register(self._nursery.control, selectors.EVENT_READ, self._nursery)
            self._names += 1
            connection = self._nursery.start_worker(self._names)
        except OSError as error:
            if session is None and not self._shared:
                self._finish(self._waiting.popleft(), True, f"no process could be started for the tool: {error}")
            return None
        # Every character of a result takes at most twelve bytes: two \uXXXX.
        channel = Channel(connection, 12 * self._limits.output + 100, self._selector, self._names)
        worker = _Worker(self._names, self._nursery, channel, session, time.monotonic() + _START)
        self._workers[worker.name] = worker
        if session is None:
            self._shared.append(worker)
        else:
            self._of_session[session] = worker
        return worker

    def _give(self, worker: _Worker, call: PoolCall) -> None:
        worker.call = call
        if worker.ready:
            worker.started = time.monotonic()
            worker.deadline = worker.started + self._limits.seconds
            worker.channel.send(call.message)

    def _hear(self, name: int) -> None:
        """Take what a worker has sent."""
        worker = self._workers.get(name)
        if worker is None or worker.killed:
            return
        try:
            message = worker.channel.receive()
        except OSError:
            self._kill(worker)
            return
        if message is not None:
            self._take_reply(worker, message)

    def _take_reply(self, worker: _Worker, message: bytes) -> None:
        call = worker.call
        try:
            reply = json.loads(message)
            if not worker.ready and reply is None:
                worker.ready, worker.deadline = True, self._idle_until(worker)
                if call is not None:
                    self._give(worker, call)
                return
            number, failed, text, seconds = reply
            seconds = min(max(0.0, float(seconds)), self._limits.seconds)
        except Exception:  # whatever a tool wrote to the socket
            number = None
        if call is None or call.number != number or not worker.ready:
            self._kill(worker)
            return
        worker.call, worker.deadline = None, self._idle_until(worker)
        usual = self._seconds.get(call.target, seconds)
        self._seconds[call.target] = usual + 0.2 * (seconds - usual)
        self._finish(call, bool(failed), str(text))

    def _idle_until(self, worker: _Worker) -> float:
        return time.monotonic() + _IDLE if worker.session is None else math.inf

    def _finish(self, call: PoolCall, failed: bool, text: str) -> None:
        call.outcome = failed, text
        self._finished.append(call)

    # Ends

    def _pause(self, until: float) -> float | None:
        """Seconds until something is due."""
        due = min((worker.deadline for worker in self._workers.values()), default=math.inf)
        if self._waiting and 0 < len(self._shared) < self._limit:
            due = min(due, self._look_again)
        due = min(due, until)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.deadline > now or worker.name not in self._workers:
                continue
            if worker.killed:  # and still not dead
                self._bury(worker, None)
            elif not worker.ready:
                self._lose(worker.nursery)
            elif worker.call is not None:
                worker.doom = f"the tool did not return within {self._limits.seconds:g} s"
                self._kill(worker)
            elif len(self._shared) > 1:
                self._kill(worker)
            else:
                worker.deadline = math.inf

    def _kill(self, worker: _Worker) -> None:
        """Have a worker killed. Its call, if any, ends when it is reported dead, with all its descendants."""
        if not worker.killed:
            worker.killed, worker.deadline = True, time.monotonic() + _GRACE
            self._forget(worker)
            worker.nursery.kill_worker(worker.name)

    def _forget(self, worker: _Worker) -> None:
        """Give no more calls to a worker."""
        if worker in self._shared:
            self._shared.remove(worker)
        if self._of_session.get(worker.session) is worker:
            del self._of_session[worker.session]
        worker.channel.close()

    def _take_deaths(self, nursery: Nursery) -> None:
        if nursery is not self._nursery and nursery not in self._old_nurseries:
            return  # closed since the selector looked
        deaths = nursery.deaths()
        if deaths is None:
            self._lose(nursery)
            return
        for name, code in deaths:
            self._hear(name)  # it may have answered before it died
            if name in self._workers:
                self._bury(self._workers[name], code)
        if nursery in self._old_nurseries and not any(w.nursery is nursery for w in self._workers.values()):
            self._lose(nursery)

    def _lose(self, nursery: Nursery) -> None:
        """Close a nursery; the calls of its workers, if any, fail."""
        if nursery is self._nursery:
            self._nursery = None
        else:
            self._old_nurseries.remove(nursery)
        for worker in [worker for worker in self._workers.values() if worker.nursery is nursery]:
            self._bury(worker, None)
        self._selector.unregister(nursery.control)
        nursery.close()

    def _bury(self, worker: _Worker, code: int | None) -> None:
        self._forget(worker)
        del self._workers[worker.name]
        call = worker.call
        if call is None and not worker.ready and not worker.killed and not self._shared and self._waiting:
            call = self._waiting.popleft()  # so that something ends even where no worker can start
        if call is None:
            return
        if self._hung_up:
            text = _CLOSED
        elif worker.doom is not None:
            text = worker.doom
        elif not worker.ready:
            text = "no process could be started for the tool"
        elif code is None:
            text = "the tool's process was ended from outside"
        else:
            text = f"the tool ended its process (exit code {code})"
        if worker.session is not None and worker.ready:
            text += "; what it kept for this conversation is lost, and the next call starts afresh"
        self._finish(call, True, text)

    def _retire(self) -> None:
        """Let new workers come from a new nursery, which knows all targets. The old one stays for its sessions."""
        assert self._nursery is not None
        for worker in list(self._shared):
            self._kill(worker)
        retired, self._nursery = self._nursery, None
        self._old_nurseries.append(retired)
        if not any(worker.nursery is retired for worker in self._of_session.values()):
            self._lose(retired)
