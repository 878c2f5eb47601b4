"""The process that forks workers, kills them and cleans up after them.

It is forked from the caller, so that any callable can be a tool, closures and notebook functions included: its workers
have in memory what the caller had at that moment. It has one thread and runs no tool itself. When a worker ends, by
request or by a crash, it kills whatever the worker left: its process group, and the descendants that it has adopted,
daemons included. It ends, and everything with it, when the caller hangs up or dies.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import select
import selectors
import signal
import socket
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mentor_edge.tools.execution.process_tree import adopt_orphans, die_with_parent, kill_children
from mentor_edge.tools.execution.tool_worker import Limits, Worker
from mentor_edge.tools.types import Target

PASSED_ON = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE",
     "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
)  # a table  # fmt: skip
PASSED_ON_PREFIXES = ("LC_", "OMP_")
"""Environment variables that tools see without being asked for: where things are, never who may do what."""

CALLERS_SOCKETS: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""Those of all executors in this process. No nursery must hold them open, as its workers could write into them."""

_ANSWER = 5.0
"""Seconds after which a nursery that does not answer is given up."""


class Nursery:
    """The caller's end. Workers are named by numbers of the caller's choice, never used twice.

    `environment` are the names of variables passed on besides `PASSED_ON`.

    Raises: OSError when the process cannot be forked.
    """

    def __init__(self, targets: Sequence[Target], limits: Limits, environment: Iterable[str]) -> None:
        self.known = len(targets)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        CALLERS_SOCKETS.add(self.control)
        caller = os.pidfd_open(os.getpid())
        try:
            with theirs:
                pid = os.fork()
                if pid == 0:
                    try:
                        for connection in CALLERS_SOCKETS:
                            connection.close()
                        _settle(environment)
                        _Keeper(theirs, caller, targets[:], limits).run()
                    finally:
                        os._exit(0)
        finally:
            os.close(caller)
        self.control.settimeout(_ANSWER)
        self._end = weakref.finalize(self, _end, pid, self.control, os.getpid())

    def start_worker(self, name: int) -> socket.socket:
        """Fork a worker; its end of the connection is the result. A failure is reported as its death.

        Raises: OSError when the nursery is gone.
        """
        ours, theirs = socket.socketpair()
        CALLERS_SOCKETS.add(ours)
        with theirs:
            try:
                socket.send_fds(self.control, [json.dumps(["start", name]).encode()], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def kill_worker(self, name: int) -> None:
        """Have a worker killed with all its descendants; its death is reported when none is left."""
        with suppress(OSError):  # a nursery that is gone took its workers along
            self.control.send(json.dumps(["kill", name]).encode())

    def deaths(self) -> list[tuple[int, int | None]] | None:
        """Workers that died since the last call, with their exit codes (None for one that could not be forked).

        None when the nursery itself is gone. Does not wait.
        """
        found = []
        while _readable(self.control.fileno(), 0):
            try:
                report = self.control.recv(4096)
            except OSError:
                return None
            if not report:
                return None
            name, code = json.loads(report)
            found.append((name, code))
        return found

    def hang_up(self) -> None:
        """Ask it to end, from any thread."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it and all its workers, and wait for that."""
        self._end()


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # select.select refuses descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _end(pid: int, control: socket.socket, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the caller that ends has no say
        return
    with control, suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    with suppress(ChildProcessError, ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            if not _readable(process, _ANSWER):
                os.kill(pid, signal.SIGKILL)  # its workers die with it
        finally:
            os.close(process)
        os.waitpid(pid, 0)


def _settle(environment: Iterable[str]) -> None:
    """Shed what a fork inherits and tools must not see or trip over."""
    os.setsid()  # signals that a terminal sends to the caller's group are the caller's business
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
    _clear_environment(environment)
    gc.freeze()  # a collection in a worker would otherwise copy the caller's memory, page by page


def _clear_environment(names: Iterable[str]) -> None:
    wanted = {*PASSED_ON, *names}
    kept = {key: os.environ[key] for key in os.environ if key in wanted or key.startswith(PASSED_ON_PREFIXES)}
    os.environ.clear()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "clearenv"):
        libc.clearenv()
    os.environ.update(kept)
    # /proc/PID/environ shows the block that the program was started with, whatever became of the variables since.
    # Fields 50 and 51 of /proc/PID/stat say where it is (proc(5)); nothing points into it any more.
    with suppress(OSError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[47]), int(fields[48])
        if 0 < start < end:
            ctypes.memset(start, 0, end - start)


class _Keeper:
    """The loop of the nursery process."""

    def __init__(self, control: socket.socket, caller: int, targets: Sequence[Target], limits: Limits) -> None:
        self._control = control
        self._caller = caller
        self._targets = targets
        self._limits = limits
        self._workers: dict[int, tuple[int, int]] = {}  # name -> process id, and a descriptor that tells its end
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(caller, selectors.EVENT_READ)  # ready when the caller is dead

    def run(self) -> None:
        try:
            clean = True
            while True:
                ended = []
                for key, _ in self._selector.select(None if clean else 0.1):
                    if key.data is not None:
                        ended.append(key.data)
                    elif key.fileobj == self._caller or not self._obey():
                        return
                if ended or not clean:
                    clean = self._bury(ended)
        finally:
            for pid, _ in self._workers.values():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            kill_children()

    def _obey(self) -> bool:
        """Do what the caller asks; False when it has hung up."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not message:
            return False
        order, name = json.loads(message)
        if order == "start":
            os.set_inheritable(descriptors[0], False)
            self._start(name, socket.socket(fileno=descriptors[0]))
        elif name in self._workers:
            os.kill(self._workers[name][0], signal.SIGKILL)
        return True

    def _start(self, name: int, connection: socket.socket) -> None:
        nursery = os.getpid()
        with connection:
            try:
                pid = os.fork()
            except OSError:
                self._report(name, None)
                return
            if pid == 0:
                code = 1
                try:
                    os.setsid()
                    die_with_parent(nursery)
                    adopt_orphans()
                    for descriptor in (self._control.fileno(), self._caller, *(fd for _, fd in self._workers.values())):
                        os.close(descriptor)
                    Worker(connection, self._targets, self._limits).serve()
                    code = 0
                finally:
                    os._exit(code)
        ending = os.pidfd_open(pid)
        self._workers[name] = pid, ending
        self._selector.register(ending, selectors.EVENT_READ, name)

    def _bury(self, names: Sequence[int]) -> bool:
        """Kill what dead workers left behind, then report them; False when something would not die."""
        codes = {}
        for name in names:
            pid, ending = self._workers.pop(name)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before waiting: until then no other process can have the number
            codes[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._selector.unregister(ending)
            os.close(ending)
        clean = kill_children(keep=[pid for pid, _ in self._workers.values()])
        for name, code in codes.items():
            self._report(name, code)
        return clean

    def _report(self, name: int, code: int | None) -> None:
        with suppress(OSError):
            self._control.send(json.dumps([name, code]).encode())
