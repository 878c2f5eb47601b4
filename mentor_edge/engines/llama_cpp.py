"""llama.cpp as an engine. The library runs in a child process (`llama_worker`); its crash is an error message here."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.llama_protocol import read_frame, write_frame
from mentor_edge.errors import EngineError

# -P keeps the working directory off the module path: a folder named llama_cpp there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.engines.llama_worker"]
DOCTOR = "run `mentor-edge doctor` to test this llama.cpp build"


class LlamaDied(EngineError):
    """The child process is gone. `signal` is what ended it ("SIGSEGV"), None when it hung or left by itself."""

    def __init__(self, problem: str, signal: str | None) -> None:
        super().__init__(problem, DOCTOR)
        self.signal = signal


class LlamaWorker:
    """A llama.cpp child process and the connection to it: one request at a time, in order.

    `timeout` is how many seconds the child may give no sign of life during a request (while it decodes, it gives one
    every second). A child that died, hung or was interrupted in a request cannot be used again.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        # GGML_NO_BACKTRACE: a failed assertion would otherwise start a debugger on the dying process.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
        )

    def request(self, operation: str, doing: str, **arguments: Any) -> Any:
        """The worker's result. `doing` says what for, to be read after "llama.cpp died while".

        Raises: EngineError when the worker refuses, LlamaDied when it crashes, hangs or was closed.
        """
        if self._process.stdin is None or self._process.stdin.closed:
            raise EngineError(f"llama.cpp was closed before {doing}")
        try:
            reply = self._exchange({"op": operation, **arguments})
        except BaseException:
            # Also on Ctrl-C: a reply that nobody reads would be taken for the next request's.
            self.close()
            raise
        if reply is None:
            raise self._death(doing)
        if "error" in reply:
            raise EngineError(f"llama.cpp failed while {doing}: {reply['error']}", reply["hint"])
        return reply["result"]

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply, or None when the child is gone. The watchdog turns a hang into a death."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._hung = False
        with self._watchdog():
            try:
                write_frame(self._process.stdin, request)
            except BrokenPipeError:
                return None
        while True:
            with self._watchdog():
                reply: dict[str, Any] | None = read_frame(self._process.stdout)
            if reply is None or "alive" not in reply:
                return reply

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

    def _death(self, doing: str) -> LlamaDied:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        self.close()
        if self._hung:
            return LlamaDied(f"llama.cpp gave no sign of life for {self._timeout:g} s while {doing}", None)
        if code < 0:
            name = signal.Signals(-code).name
            memory = " (often the system's answer to too little memory)" if name == "SIGKILL" else ""
            return LlamaDied(f"llama.cpp died with {name}{memory} while {doing}{said}", name)
        return LlamaDied(f"llama.cpp left with exit code {code} while {doing}{said}", None)

    def close(self) -> None:
        """End the child. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                # Closing flushes what a dead child never read.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LlamaCppEngine:
    """A GGUF file in llama.cpp on the CPU.

    `context_length` None is the model's own, at most 4096 tokens. `batch_size` is lowered to the number of
    conversations whose KV caches fit in memory (4 GiB together, or half of the machine's). One thread is faster than
    two for nano models. `flash_attention` and `kv="f16"` each change logits in the third digit. `use_extra_buffers`
    off avoids weight repacking and AMX, for builds that crash with them. `timeout`: see `LlamaWorker`.

    Raises: EngineError when the file is missing, damaged or not supported by this llama.cpp, from the constructor;
    LlamaDied (an EngineError) from any method when the child process crashes or hangs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context_length: int | None = None,
        batch_size: int = 64,
        threads: int = 1,
        kv: str = "f16",
        flash_attention: bool = False,
        use_extra_buffers: bool = True,
        timeout: float = 600.0,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise EngineError(f"no such file: {self.path}", "give the path of a .gguf file")
        if batch_size < 1 or threads < 1:
            raise EngineError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}")
        self._open_batch = False
        self._turns = 0
        self._worker = LlamaWorker(timeout)
        try:
            info = self._worker.request(
                "load",
                f"loading {self.path}",
                path=str(self.path),
                context_length=context_length,
                n_seq=batch_size,
                threads=threads,
                kv=kv,
                flash_attention=flash_attention,
                use_extra_bufts=use_extra_buffers,
            )
        except BaseException:
            self.close()
            raise
        self._template: str | None = info["template"]
        self.eos_token: str = info["eos_token"]
        self.bos_token: str = info["bos_token"]
        self.end_ids: frozenset[int] = frozenset(info["end_ids"])
        self.vocabulary_size: int = info["n_vocab"]
        self._context_length: int = info["context_length"]
        self._batch_size: int = info["n_seq"]

    @cached_property
    def template(self) -> ChatTemplate:
        """The template stored in the file, with its end and start tokens.

        Raises: EngineError when the file has no template or names no end token.
        """
        if self._template is None or not self.eos_token:
            missing = "chat template" if self._template is None else "end-of-turn token"
            raise EngineError(f"{self.path} holds no {missing}", "export a model whose tokenizer has one")
        return ChatTemplate(self._template, self.eos_token, self.bos_token)

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: special and added tokens are recognized, nothing is added, no Unicode
        normalization (llama.cpp has none)."""
        ids: list[list[int]] = self._worker.request("tokenize", f"tokenizing for {self.path}", texts=list(texts))
        return ids

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        sequences = [[int(token) for token in ids] for ids in token_ids]
        texts: list[str] = self._worker.request("detokenize", f"decoding tokens with {self.path}", token_ids=sequences)
        return texts

    @contextmanager
    def open(self, size: int) -> Iterator[_LlamaConversations]:
        """Start a batch of `size` conversations, at most `batch_size`; one batch may be open at a time."""
        if not 1 <= size <= self._batch_size:
            raise EngineError(f"{self.path} takes 1 to {self._batch_size} conversations at once, got {size}")
        if self._open_batch:
            raise EngineError(f"{self.path} has a batch open already", "close it before opening the next")
        self._worker.request("open", f"preparing {size} conversations of {self.path}", n_seq=size)
        self._open_batch = True
        try:
            yield _LlamaConversations(self)
        finally:
            self._open_batch = False

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each token of one sequence, `[len(token_ids), vocabulary]`. Not inside an open batch."""
        if self._open_batch:
            raise EngineError(f"{self.path} has a batch open", "close it before asking for logits")
        ids = [int(token) for token in token_ids]
        reply = self._worker.request("logits", f"decoding {self.path}", token_ids=ids)
        return np.frombuffer(base64.b64decode(reply["float32"]), np.float32).reshape(reply["shape"])

    def _extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        self._turns += 1
        replies = self._worker.request(
            "extend",
            f"decoding {self.path}",
            rows=[int(row) for row in rows],
            token_ids=[[int(token) for token in ids] for ids in token_ids],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            # Sampling is reproducible per engine: the n-th call of every engine draws the same numbers.
            seed=self._turns,
        )
        return [Generation(reply["token_ids"], reply["finished"]) for reply in replies]

    def close(self) -> None:
        """End the child process. Safe to call twice."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _LlamaConversations:
    """`Conversations` in the worker; the caches live there until the engine's next batch."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self._engine = engine

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        """See `Conversations.extend`. A conversation whose context is full ends unfinished.

        Raises: EngineError when a row or a token id is out of range or the weights are damaged, LlamaDied.
        """
        return self._engine._extend(rows, token_ids, sampling)
