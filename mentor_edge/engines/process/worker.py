"""The parent's side of a runtime process. It turns a crash, a hang or a lack of memory into an error message."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.process.frames import EncodedLogits, FrameError, read_frame, write_frame
from mentor_edge.errors import EngineError

_STDERR_KEPT = 16_384  # bytes


class RuntimeDied(EngineError):
    """The child process of a runtime is gone.

    `signal` names what killed it ("SIGSEGV"); it is None if the child hung or exited by itself.
    """

    def __init__(self, problem: str, hint: str | None = None, signal: str | None = None) -> None:
        super().__init__(problem, hint)
        self.signal = signal


class RuntimeWorker:
    """A runtime's child process and the connection to it: one request at a time, in order.

    `name` is the runtime's name in messages, `hint` what to do when it dies. `environment` is added to this process's
    own. `timeout` is how many seconds the child may stay silent during a request (while it decodes, it gives a sign of
    life every second). A child that died, hung or was interrupted during a request cannot be used again.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, hint: str, timeout: float, environment: Mapping[str, str]
    ) -> None:
        self._name = name
        self._hint = hint
        self._timeout = timeout
        # OMP_WAIT_POLICY: OpenMP threads would otherwise spin at barriers and starve each other on a busy machine.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
        stderr_reader, stderr_writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr_writer, env=environment
            )
        except OSError as error:
            os.close(stderr_reader)
            raise EngineError(f"the process for {name} cannot be started: {error}") from error
        finally:
            os.close(stderr_writer)
        self._stderr_tail = b""
        self._listener = threading.Thread(target=self._listen, args=(stderr_reader,), daemon=True)
        self._listener.start()

    def request(self, operation: str, doing: str, **arguments: Any) -> Any:
        """The result of an operation. `doing` describes it for messages; it follows "llama.cpp died while".

        Raises: EngineError when the worker refuses, RuntimeDied when it crashes, hangs or was closed.
        """
        if self._process.stdin is None or self._process.stdin.closed:
            raise EngineError(f"{self._name} was closed before {doing}")
        try:
            reply = self._exchange({"op": operation, **arguments})
        except FrameError as error:
            self.close()
            raise RuntimeDied(f"{self._name} broke its connection while {doing}: {error}", self._hint) from error
        except BaseException:
            # Also on Ctrl-C: otherwise the next request would read this one's reply.
            self.close()
            raise
        if reply is None:
            raise self._death(doing)
        if "error" in reply:
            raise EngineError(f"{self._name} failed while {doing}: {reply['error']}", reply["hint"])
        return reply["result"]

    def _listen(self, stderr: int) -> None:
        """Keep the end of the child's output, however long that is: it may explain why the child dies."""
        while part := os.read(stderr, _STDERR_KEPT):
            self._stderr_tail = (self._stderr_tail + part)[-_STDERR_KEPT:]
        os.close(stderr)

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply, or None when the child is gone. The watchdog kills a child that hangs."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._hung = False
        with self._watchdog():
            try:
                write_frame(self._process.stdin, request)
            except BrokenPipeError:
                return None
        while True:
            with self._watchdog():
                reply = read_frame(self._process.stdout)
            if reply is None or reply.keys() in ({"result"}, {"error", "hint"}):
                return reply
            if reply.keys() != {"alive"}:
                raise FrameError(f"a reply contains {', '.join(reply) or 'nothing'}")

    @contextmanager
    def _watchdog(self) -> Iterator[None]:
        timer = threading.Timer(self._timeout, self._kill_hung)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill_hung(self) -> None:
        self._hung = True
        self._process.kill()

    def _death(self, doing: str) -> RuntimeDied:
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.close()
            return RuntimeDied(f"{self._name} closed its connection while {doing}", self._hint)
        self._listener.join(timeout=1.0)
        lines = self._stderr_tail.decode(errors="replace").strip().splitlines()
        last_line = f": {lines[-1].strip()}" if lines else ""
        self.close()
        if self._hung:
            return RuntimeDied(f"{self._name} gave no sign of life for {self._timeout:g} s while {doing}", self._hint)
        if code < 0:
            name = signal.Signals(-code).name
            memory = " (often the system's answer to too little memory)" if name == "SIGKILL" else ""
            return RuntimeDied(f"{self._name} died with {name}{memory} while {doing}{last_line}", self._hint, name)
        return RuntimeDied(f"{self._name} ended with exit code {code} while {doing}{last_line}", self._hint)

    def close(self) -> None:
        """Kill the child. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # Closing flushes what the dead child never read.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class WorkerEngine:
    """The common part of engines whose conversations live in a child process.

    The child offers the operations `open`, `begin`, `advance` and `logits`. `path` names the model in messages; the
    subclass sets `batch_size`.
    """

    batch_size: int

    def __init__(self, path: Path, worker: RuntimeWorker) -> None:
        self.path = path
        self._worker = worker
        self._open_batch = False
        self._turns = 0

    @contextmanager
    def open(self, size: int) -> Iterator[WorkerConversations]:
        """Start a batch of `size` conversations, at most `batch_size`; one batch may be open at a time."""
        if not 1 <= size <= self.batch_size:
            raise EngineError(f"{self.path} takes 1 to {self.batch_size} conversations at once, got {size}")
        if self._open_batch:
            raise EngineError(f"{self.path} has a batch open already", "close it before opening the next")
        self._worker.request("open", f"preparing {size} conversations of {self.path}", size=size)
        self._open_batch = True
        try:
            yield WorkerConversations(self)
        finally:
            self._open_batch = False

    def logits(self, token_ids: Sequence[int], *, last: int | None = None) -> npt.NDArray[np.float32]:
        """Logits after each token of one sequence, or after its `last` ones: `[positions, vocabulary]`. Not inside an
        open batch.

        Raises: EngineError when the tokens do not fit the context or the vocabulary.
        """
        if self._open_batch:
            raise EngineError(f"{self.path} has a batch open", "close it before requesting logits")
        ids = [int(token) for token in token_ids]
        reply = self._worker.request("logits", f"decoding {self.path}", token_ids=ids, last=last)
        return EncodedLogits(**reply).array()

    def _stream(
        self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        self._turns += 1
        doing = f"decoding {self.path}"
        self._worker.request(
            "begin",
            doing,
            rows=[int(row) for row in rows],
            token_ids=[[int(token) for token in ids] for ids in token_ids],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            # Sampling is reproducible per engine: the n-th call of every engine draws the same numbers.
            seed=self._turns,
        )
        more = True
        while more:
            ended = self._worker.request("advance", doing)
            for row, generation in zip(ended["rows"], ended["generations"], strict=True):
                yield row, Generation(**generation)
            more = ended["more"]

    def close(self) -> None:
        """End the child process. Safe to call twice."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class WorkerConversations:
    """`Conversations` in the child process; their caches stay there until the engine's next batch."""

    def __init__(self, engine: WorkerEngine) -> None:
        self._engine = engine

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        """See `Conversations.extend`. A conversation whose context is full ends unfinished.

        Raises: EngineError when a row or a token id is out of range or the weights are damaged, RuntimeDied.
        """
        generated = dict(self.stream(rows, token_ids, sampling))
        return [generated[int(row)] for row in rows]

    def stream(
        self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        """See `StreamingConversations.stream`."""
        return self._engine._stream(rows, token_ids, sampling)
