"""The process that forks tool workers, kills them and cleans up after them.

It is forked from the caller, so any callable can be a tool, closures and notebook functions included: its workers have
in memory what the caller had at that moment. It has one thread and never runs a tool itself. When a worker ends, on
request or by a crash, the supervisor kills everything the worker left: its process group, and the descendants that the
supervisor has adopted, daemons included. When the caller disconnects or dies, the supervisor ends with all its workers.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import secrets
import select
import selectors
import signal
import socket
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress

from mentor_edge.tools.execution.limits import CallLimits
from mentor_edge.tools.execution.process_tree import adopt_orphans, die_with_parent, kill_children
from mentor_edge.tools.execution.scratch import remove_tree
from mentor_edge.tools.execution.tool_worker import Worker
from mentor_edge.tools.types import Target

INHERITED_VARIABLES = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE",
     "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
)  # a table  # fmt: skip
INHERITED_PREFIXES = ("LC_", "OMP_")
"""Environment variables that every tool sees. They describe the system; none of them grants access."""

CALLER_SOCKETS: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""The sockets of all executors in this process. A supervisor closes its copies: its workers could write into them."""

_RESPONSE_SECONDS = 5.0
"""A supervisor that does not respond for this long is killed."""


class PoolSupervisor:
    """The caller's end. The caller numbers the workers and never uses a number twice.

    `environment` names the variables that workers inherit besides `INHERITED_VARIABLES`.

    Raises: OSError when the process cannot be forked.
    """

    def __init__(self, targets: Sequence[Target], limits: CallLimits, environment: Iterable[str]) -> None:
        self.target_count = len(targets)
        """How many of the pool's targets, from the first on, the workers know."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        CALLER_SOCKETS.add(self.control)
        scratch = f"{tempfile.gettempdir()}/mentor-edge-{secrets.token_hex(8)}"
        caller = os.pidfd_open(os.getpid())
        try:
            with theirs:
                pid = os.fork()
                if pid == 0:
                    try:
                        for connection in CALLER_SOCKETS:
                            connection.close()
                        _detach_from_caller(environment)
                        _SupervisorLoop(theirs, caller, targets[:], limits, scratch).run()
                    finally:
                        os._exit(0)
        finally:
            os.close(caller)
        self.control.settimeout(_RESPONSE_SECONDS)
        self._pid = pid
        self._terminate = weakref.finalize(self, _terminate, pid, self.control, os.getpid(), scratch)

    def start_worker(self, worker_id: int) -> socket.socket:
        """Fork a worker and return the caller's end of its connection. A failed fork is reported as the worker's exit.

        Raises: OSError when the supervisor is gone.
        """
        self._continue()
        ours, theirs = socket.socketpair()
        CALLER_SOCKETS.add(ours)
        with theirs:
            try:
                socket.send_fds(self.control, [json.dumps(["start", worker_id]).encode()], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def kill_worker(self, worker_id: int) -> None:
        """Kill a worker with all its descendants. Its exit is reported when none of them is left."""
        self._continue()
        with suppress(OSError):  # a supervisor that is gone took its workers along
            self.control.send(json.dumps(["kill", worker_id]).encode())

    def _continue(self) -> None:
        """A tool may have stopped the supervisor, its parent."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, signal.SIGCONT)

    def exited_workers(self) -> list[tuple[int, int | None]] | None:
        """Workers that ended since the last call, with their exit codes (None for one that could not be forked).

        None when the supervisor itself is gone. Does not wait.
        """
        exited = []
        while _is_readable(self.control.fileno(), 0):
            try:
                report = self.control.recv(4096)
            except OSError:
                return None
            if not report:
                return None
            worker_id, code = json.loads(report)
            exited.append((worker_id, code))
        return exited

    def disconnect(self) -> None:
        """Make it end, without waiting for that. Any thread may call this."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it and all its workers, and wait until they have ended."""
        self._terminate()


def _is_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # select.select refuses descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _terminate(pid: int, control: socket.socket, owner: int, scratch: str) -> None:
    if os.getpid() != owner:  # this is a fork of the caller, and the supervisor is not its own
        return
    with control, suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    with suppress(ChildProcessError, ProcessLookupError):
        process = os.pidfd_open(pid)
        os.kill(pid, signal.SIGCONT)
        try:
            if not _is_readable(process, _RESPONSE_SECONDS):
                os.kill(pid, signal.SIGKILL)  # its workers die with it
        finally:
            os.close(process)
        os.waitpid(pid, 0)
    remove_tree(scratch)


def _detach_from_caller(environment: Iterable[str]) -> None:
    """Drop inherited state that tools must not see, or that could disturb them."""
    os.setsid()  # signals that a terminal sends to the caller's group are not for tools
    adopt_orphans()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.disable()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    inherited = {*INHERITED_VARIABLES, *environment}
    for name in list(os.environ):
        if name not in inherited and not name.startswith(INHERITED_PREFIXES):
            del os.environ[name]
    gc.freeze()  # a collection in a worker would otherwise copy the caller's memory, page by page


class _SupervisorLoop:
    """What the supervisor process runs."""

    def __init__(
        self, control: socket.socket, caller: int, targets: Sequence[Target], limits: CallLimits, scratch: str
    ) -> None:
        self._control = control
        self._scratch = scratch
        self._caller = caller
        self._targets = targets
        self._limits = limits
        self._workers: dict[int, tuple[int, int]] = {}  # worker id -> process id and its pidfd
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(caller, selectors.EVENT_READ)  # readable when the caller is dead

    def run(self) -> None:
        try:
            clean = True
            while True:
                exited = []
                for key, _ in self._selector.select(None if clean else 0.1):
                    if key.data is not None:
                        exited.append(key.data)
                    elif key.fileobj == self._caller or not self._handle_request():
                        return
                if exited or not clean:
                    clean = self._reap(exited)
        finally:
            for pid, _ in self._workers.values():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            kill_children()
            remove_tree(self._scratch)

    def _handle_request(self) -> bool:
        """Carry out a request of the caller. Returns False when the caller has disconnected."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not message:
            return False
        request, worker_id = json.loads(message)
        if request == "start":
            os.set_inheritable(descriptors[0], False)
            self._start(worker_id, socket.socket(fileno=descriptors[0]))
        elif worker_id in self._workers:
            os.kill(self._workers[worker_id][0], signal.SIGKILL)
        return True

    def _start(self, worker_id: int, connection: socket.socket) -> None:
        supervisor = os.getpid()
        with connection:
            try:
                pid = os.fork()
            except OSError:
                self._report_exit(worker_id, None)
                return
            if pid == 0:
                code = 1
                try:
                    os.setsid()
                    die_with_parent(supervisor)
                    adopt_orphans()
                    for descriptor in (self._control.fileno(), self._caller, *(fd for _, fd in self._workers.values())):
                        os.close(descriptor)
                    Worker(connection, self._targets, self._limits, f"{self._scratch}/{worker_id}").serve()
                    code = 0
                finally:
                    os._exit(code)
        process = os.pidfd_open(pid)
        self._workers[worker_id] = pid, process
        self._selector.register(process, selectors.EVENT_READ, worker_id)

    def _reap(self, worker_ids: Sequence[int]) -> bool:
        """Kill what dead workers left behind, then report their exits. Returns False when a process would not die."""
        codes = {}
        for worker_id in worker_ids:
            pid, process = self._workers.pop(worker_id)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before waiting: until then no other process can have the number
            codes[worker_id] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._selector.unregister(process)
            os.close(process)
        clean = kill_children(keep=[pid for pid, _ in self._workers.values()])
        for worker_id, code in codes.items():
            remove_tree(f"{self._scratch}/{worker_id}")
            self._report_exit(worker_id, code)
        return clean

    def _report_exit(self, worker_id: int, code: int | None) -> None:
        with suppress(OSError):
            self._control.send(json.dumps([worker_id, code]).encode())
