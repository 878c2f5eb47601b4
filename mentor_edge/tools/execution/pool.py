"""The caller's side of the worker processes: which worker runs which call, and what ends a worker.

A worker runs one call at a time. Calls without state share workers. The pool starts with one shared worker, and starts
another whenever calls have waited for some milliseconds. A session has its own worker from its first call until it is
ended, or until a call times out or crashes.

Every wait for a worker has a deadline, and the pool trusts nothing that a worker sends to be well-formed.
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress

from mentor_edge.tools.execution.channel import Channel
from mentor_edge.tools.execution.limits import CallLimits
from mentor_edge.tools.execution.pool_supervisor import CALLER_SOCKETS, PoolSupervisor
from mentor_edge.tools.execution.worker_handle import CLOSED, NOT_STARTED, PoolCall, WorkerHandle
from mentor_edge.tools.types import Target

PATIENCE_SECONDS = 0.003
"""How long calls wait before another shared worker is started. Forking a worker costs about as much."""

START_SECONDS = 10.0
"""A worker must be ready this long after its fork, or its supervisor is replaced."""

EXIT_SECONDS = 5.0
"""A killed worker is forgotten after this time, even if its exit was not reported."""


class WorkerPool:
    """Worker processes for at most `workers` calls at once.

    One thread at a time may use a pool; any thread may call `wake` and `cancel_all`.
    """

    def __init__(self, workers: int, limits: CallLimits, environment: Sequence[str]) -> None:
        self._max_workers = workers
        self._limits = limits
        self._environment = tuple(environment)
        self._targets: list[Target] = []
        self._indexes: dict[tuple[int, ...], int] = {}  # by ids: callables need not be hashable; the list keeps them
        self._supervisor: PoolSupervisor | None = None
        self._retired: list[PoolSupervisor] = []  # kept for sessions that began with them
        self._workers: dict[int, WorkerHandle] = {}
        self._shared: list[WorkerHandle] = []
        self._of_session: dict[Hashable, WorkerHandle] = {}
        self._last_worker_id = 0
        self._waiting: deque[PoolCall] = deque()
        self._waiting_in_sessions: deque[PoolCall] = deque()
        self._finished: list[PoolCall] = []
        self._next_start = 0.0  # when another shared worker may be started
        self._cancelled = False
        self._selector = selectors.PollSelector()  # not epoll: a fork would share its state
        self._wake_reader, self._wake_writer = socket.socketpair()
        CALLER_SOCKETS.update((self._wake_reader, self._wake_writer))
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)

    # Calls

    def register(self, target: Target) -> int:
        """The index of a target. After a new target, the next call starts new processes."""
        key = tuple(map(id, target))
        if key not in self._indexes:
            self._indexes[key] = len(self._targets)
            self._targets.append(target)
        return self._indexes[key]

    def submit(self, call: PoolCall) -> None:
        """Queue a call. `step` runs it."""
        if call.session is not None:
            self._waiting_in_sessions.append(call)
            return
        if not self._waiting:
            self._next_start = time.monotonic() + PATIENCE_SECONDS
        self._waiting.append(call)

    def step(self, until: float = math.inf) -> list[PoolCall]:
        """Run calls until some end, `wake` is called or it is `until` (monotonic seconds). Returns the ended calls."""
        self._dispatch()
        if not self._finished:
            for key, _ in self._selector.select(self._timeout(until)):
                if isinstance(key.data, int):
                    self._receive_from(key.data)
                elif isinstance(key.data, PoolSupervisor):
                    self._take_exits(key.data)
                else:
                    with suppress(BlockingIOError):
                        self._wake_reader.recv(4096)
            self._enforce_deadlines()
        finished, self._finished = self._finished, []
        return finished

    def wake(self) -> None:
        """Make `step` return. Any thread may call this."""
        with suppress(OSError):
            self._wake_writer.send(b"!")

    def abandon(self) -> None:
        """Drop all calls, and kill the workers that run them."""
        self._waiting.clear()
        self._waiting_in_sessions.clear()
        for worker in list(self._workers.values()):
            if worker.call is not None:
                worker.call = None
                self._kill(worker)
        self._finished.clear()

    def end_session(self, session: Hashable) -> None:
        """End a session's worker, if it has one, without waiting for its exit."""
        if session in self._of_session:
            worker = self._of_session[session]
            self._kill(worker)
            self._take_exits(worker.supervisor)  # or the reports of many sessions would fill the socket

    def cancel_all(self) -> None:
        """Make all calls fail now. Any thread may call this; `close` must follow."""
        self._cancelled = True
        for supervisor in self._supervisors():
            supervisor.disconnect()
        self.wake()

    def close(self) -> None:
        """End all processes. The pool cannot be used again."""
        for worker in self._workers.values():
            worker.channel.close()
        for supervisor in self._supervisors():
            supervisor.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # Assigning calls to workers

    def _dispatch(self) -> None:
        if self._cancelled:
            self._fail_all_waiting()
            return
        if self._supervisor is not None and self._supervisor.target_count < len(self._targets):
            self._retire_supervisor()
        running = self._running()
        while self._waiting_in_sessions and running < self._max_workers:
            running += self._assign_in_session(self._waiting_in_sessions.popleft())
        idle = [worker for worker in self._shared if worker.ready and worker.call is None]
        while self._waiting and idle and running < self._max_workers:
            idle.pop().assign(self._waiting.popleft())
            running += 1
        if self._needs_shared_worker() and (not self._shared or time.monotonic() >= self._next_start):
            self._next_start = time.monotonic() + PATIENCE_SECONDS
            self._start_worker(None)

    def _fail_all_waiting(self) -> None:
        for call in (*self._waiting, *self._waiting_in_sessions):
            self._fail(call, CLOSED)
        self._waiting.clear()
        self._waiting_in_sessions.clear()
        if self._supervisor is not None:
            self._supervisor.disconnect()  # it may have been forked just after `cancel_all`

    def _assign_in_session(self, call: PoolCall) -> bool:
        """Give a call to its session's worker. Returns False when the call has failed instead."""
        worker = self._of_session.get(call.session)
        if worker is not None and call.target >= worker.supervisor.target_count:
            self._fail(call, "this tool was not offered when the conversation began")
            return False
        if worker is None:
            worker = self._start_worker(call.session)
            if worker is None:
                self._fail(call, NOT_STARTED)
                return False
        worker.assign(call)
        return True

    def _running(self) -> int:
        return sum(worker.call is not None for worker in self._workers.values())

    def _needs_shared_worker(self) -> bool:
        """Whether waiting calls could use another shared worker. The supervisor forks one at a time."""
        none_is_starting = all(worker.ready for worker in self._shared)
        return bool(self._waiting) and none_is_starting and self._running() < self._max_workers

    def _start_worker(self, session: Hashable | None) -> WorkerHandle | None:
        """A new worker, or None when none can be started. If no shared worker is left, a waiting call fails then."""
        try:
            if self._supervisor is None:
                self._supervisor = PoolSupervisor(self._targets, self._limits, self._environment)
                self._selector.register(self._supervisor.control, selectors.EVENT_READ, self._supervisor)
            self._last_worker_id += 1
            connection = self._supervisor.start_worker(self._last_worker_id)
        except OSError as error:
            if session is None and not self._shared:
                self._fail(self._waiting.popleft(), f"{NOT_STARTED}: {error}")
            return None
        # Each character of a result takes at most twelve bytes: two \uXXXX.
        max_message_bytes = 12 * self._limits.output_characters + 100
        channel = Channel(connection, max_message_bytes, self._selector, self._last_worker_id)
        deadline = time.monotonic() + START_SECONDS
        worker = WorkerHandle(self._last_worker_id, self._supervisor, channel, session, self._limits, deadline)
        self._workers[worker.worker_id] = worker
        if session is None:
            self._shared.append(worker)
        else:
            self._of_session[session] = worker
        return worker

    def _receive_from(self, worker_id: int) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.killed:
            return
        try:
            message = worker.channel.receive()
            call = None if message is None else worker.accept(message)
        except (OSError, ValueError):
            self._kill(worker)
            return
        if call is not None:
            self._finished.append(call)

    def _fail(self, call: PoolCall, text: str) -> None:
        call.outcome = True, text
        self._finished.append(call)

    # Ending workers

    def _timeout(self, until: float) -> float | None:
        """Seconds until the next deadline, or None when nothing is due."""
        due = min((worker.deadline for worker in self._workers.values()), default=math.inf)
        if self._shared and self._needs_shared_worker():
            due = min(due, self._next_start)
        due = min(due, until)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.deadline > now or worker.worker_id not in self._workers:
                continue
            if worker.killed:  # and still not dead
                self._remove(worker, None)
            elif not worker.ready:
                self._drop_supervisor(worker.supervisor)
            elif worker.call is not None:
                worker.end_reason = f"the tool did not return within {self._limits.seconds:g} s"
                self._kill(worker)
            elif len(self._shared) > 1:
                self._kill(worker)
            else:
                worker.deadline = math.inf

    def _kill(self, worker: WorkerHandle) -> None:
        """Kill a worker. Its call, if any, ends when the supervisor reports the exit, after all its descendants'."""
        if not worker.killed:
            worker.killed, worker.deadline = True, time.monotonic() + EXIT_SECONDS
            self._release(worker)
            worker.supervisor.kill_worker(worker.worker_id)

    def _release(self, worker: WorkerHandle) -> None:
        """Give no more calls to a worker."""
        if worker in self._shared:
            self._shared.remove(worker)
        if self._of_session.get(worker.session) is worker:
            del self._of_session[worker.session]
        worker.channel.close()

    def _remove(self, worker: WorkerHandle, exit_code: int | None) -> None:
        """Forget a worker that is gone. Its call, if any, fails."""
        self._release(worker)
        del self._workers[worker.worker_id]
        call = worker.call
        if call is None and not worker.ready and not worker.killed and not self._shared and self._waiting:
            call = self._waiting.popleft()  # or calls would wait for ever when no worker can start
        if call is not None:
            if self._cancelled:
                worker.end_reason = CLOSED
            self._fail(call, worker.failure(exit_code))

    # Supervisors

    def _supervisors(self) -> list[PoolSupervisor]:
        return [*self._retired, *([] if self._supervisor is None else [self._supervisor])]

    def _take_exits(self, supervisor: PoolSupervisor) -> None:
        if supervisor not in self._supervisors():
            return  # closed since the selector looked
        exits = supervisor.exited_workers()
        if exits is None:
            self._drop_supervisor(supervisor)
            return
        for worker_id, exit_code in exits:
            self._receive_from(worker_id)  # it may have replied before it ended
            if worker_id in self._workers:
                self._remove(self._workers[worker_id], exit_code)
        if supervisor in self._retired and not any(w.supervisor is supervisor for w in self._workers.values()):
            self._drop_supervisor(supervisor)

    def _drop_supervisor(self, supervisor: PoolSupervisor) -> None:
        """Close a supervisor. The calls of its workers, if any, fail."""
        if supervisor is self._supervisor:
            self._supervisor = None
        else:
            self._retired.remove(supervisor)
        for worker in [worker for worker in self._workers.values() if worker.supervisor is supervisor]:
            self._remove(worker, None)
        self._selector.unregister(supervisor.control)
        supervisor.close()

    def _retire_supervisor(self) -> None:
        """Start new workers from a new supervisor, which knows all targets. Sessions keep their workers of this one."""
        assert self._supervisor is not None
        for worker in list(self._shared):
            self._kill(worker)
        retired, self._supervisor = self._supervisor, None
        self._retired.append(retired)
        if not any(worker.supervisor is retired for worker in self._of_session.values()):
            self._drop_supervisor(retired)
