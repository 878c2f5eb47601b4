"""llama.cpp as an engine. The library runs in a child process (`llama_worker`); its crash is an error message here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.process.worker import RuntimeWorker, WorkerEngine
from mentor_edge.errors import EngineError

# -P keeps the working directory off the module path: a folder named llama_cpp there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.engines.llama_cpp.llama_worker"]
DOCTOR = "run `mentor-edge doctor` to test this llama.cpp build"


class LlamaWorker(RuntimeWorker):
    """The child process that holds llama.cpp; `timeout` as in `RuntimeWorker`."""

    def __init__(self, timeout: float = 600.0) -> None:
        # A failed assertion would otherwise start a debugger on the dying process.
        environment = {"GGML_NO_BACKTRACE": "1"}
        super().__init__("llama.cpp", COMMAND, hint=DOCTOR, timeout=timeout, environment=environment)


class LlamaCppEngine(WorkerEngine):
    """A GGUF file in llama.cpp on the CPU.

    `context_length` None is the model's own, at most 4096 tokens. `batch_size` is lowered to the number of
    conversations whose KV caches fit in memory (4 GiB together, or half of the machine's). One thread is faster than
    two for nano models. `flash_attention` and `kv="f16"` each change logits in the third digit. `use_extra_buffers`
    off avoids weight repacking and AMX, for builds that crash with them. `timeout`: see `RuntimeWorker`.

    Raises: EngineError when the file is missing, damaged or not supported by this llama.cpp, from the constructor;
    RuntimeDied (an EngineError) from any method when the child process crashes or hangs.
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
        if not Path(path).is_file():
            raise EngineError(f"no such file: {path}", "give the path of a .gguf file")
        if batch_size < 1 or threads < 1:
            raise EngineError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}")
        super().__init__(Path(path), LlamaWorker(timeout))
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
        self.context_length: int = info["context_length"]
        self.batch_size: int = info["n_seq"]

    @cached_property
    def template(self) -> ChatTemplate:
        """The template stored in the file, with its end and start tokens.

        Raises: EngineError when the file has no template or names no end token.
        """
        if self._template is None or not self.eos_token:
            missing = "chat template" if self._template is None else "end-of-turn token"
            raise EngineError(f"{self.path} has no {missing}", "export a model whose tokenizer has one")
        return ChatTemplate(self._template, self.eos_token, self.bos_token)

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
