"""ONNX Runtime GenAI as an engine. It runs in a child process (`genai_worker`); a crash becomes an error message.

Text is tokenized in this process, by the Hugging Face tokenizer in the directory: the one the model was trained with.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mentor_edge.chat.setting import OWN, TemplateSetting
from mentor_edge.engines.base import encoding
from mentor_edge.engines.onnx.directory import OnnxDirectory
from mentor_edge.engines.process.defaults import threads_for
from mentor_edge.engines.process.limits import CONTEXT_DEFAULT, kv_budget
from mentor_edge.engines.process.worker import RuntimeWorker, WorkerEngine
from mentor_edge.errors import EngineError
from mentor_edge.files import files_below

# -P keeps the working directory off the module path: a folder named onnxruntime_genai there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.engines.onnx.genai_worker"]
RUNTIME = "onnxruntime-genai"


def start_worker(timeout: float) -> RuntimeWorker:
    """A child process that runs onnxruntime-genai; `timeout` as in `RuntimeWorker`."""
    # Set before the child starts: otherwise onnxruntime and -genai record usage in the home directory, to send it.
    environment = {"ORT_DISABLE_TELEMETRY": "1"}
    hint = f"export the model again or reinstall {RUNTIME}"
    return RuntimeWorker(RUNTIME, COMMAND, hint=hint, timeout=timeout, environment=environment)


class OnnxEngine(WorkerEngine):
    """A directory that onnxruntime-genai's model builder wrote, on the CPU.

    Args:
        path: the directory.
        context_length: tokens of one conversation; None is the model's own length, at most 4096.
        batch_size: conversations open at once. They are decoded one after another and each has a whole cache, so a
            large number costs memory and saves no time. It is lowered to the number whose caches fit in memory (4 GiB
            together, or half of the machine's).
        threads: for the operators of the graph; None is one for small models, else `OMP_NUM_THREADS` or the machine's
            physical cores.
        timeout: seconds that onnxruntime-genai may stay silent during a request.
        template: a chat template to use instead of the directory's own, and its arguments.

    Raises:
        StudentError: from the constructor, when `template` does not suit the model.
        EngineError: from the constructor, when the directory is incomplete, damaged or not supported, or
            onnxruntime-genai is not installed.
        RuntimeDied: (an EngineError) from `open` and `extend`, when the child process crashes or hangs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context_length: int | None = None,
        batch_size: int = 8,
        threads: int | None = None,
        timeout: float = 600.0,
        template: TemplateSetting = OWN,
    ) -> None:
        if threads is None:
            threads = threads_for(sum(file.stat().st_size for file in files_below(Path(path))))
        self.threads = threads
        if batch_size < 1 or threads < 1:
            raise EngineError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}")
        directory = OnnxDirectory.read(Path(path), template)
        self.template = directory.template
        self.eos_token = directory.template.eos_token
        self.end_ids = directory.end_ids
        self._tokenizer = directory.tokenizer
        self.context_length = _context_length(directory, context_length)
        self.batch_size = min(batch_size, _fitting(directory, self.context_length))
        super().__init__(directory.path, start_worker(timeout))
        try:
            with directory.settings.opened(self.path) as private:
                self.vocabulary_size: int = self._worker.request(
                    "load",
                    f"loading {self.path}",
                    path=str(private),
                    name=str(self.path),
                    context_length=self.context_length,
                    end_ids=sorted(self.end_ids),
                    threads=threads,
                )
        except BaseException:
            self.close()
            raise

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text. Special and added tokens are recognized; nothing is added."""
        # A lone surrogate has no bytes; it becomes a question mark.
        encodable = [text.encode(errors="replace").decode() for text in texts]
        with encoding():
            return [self._tokenizer.encode(text, add_special_tokens=False).ids for text in encodable]

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        return [self._tokenizer.decode(list(ids), skip_special_tokens=False) for ids in token_ids]


def _context_length(directory: OnnxDirectory, requested: int | None) -> int:
    limit = directory.context_length
    if requested is None:
        return min(limit, CONTEXT_DEFAULT)
    if not 1 <= requested <= limit:
        raise EngineError(
            f"cannot use a context of {requested} tokens", f"{directory.path} was made for 1 to {limit} tokens"
        )
    return requested


def _fitting(directory: OnnxDirectory, context_length: int) -> int:
    """How many conversations' caches fit in memory."""
    size, budget = directory.kv_bytes_per_token * context_length, kv_budget()
    if size > budget:
        raise EngineError(
            f"one cache of {context_length} tokens for {directory.path} takes {size >> 20} MiB; the limit is "
            f"{budget >> 20} MiB",
            "set a shorter context_length",
        )
    return budget // size
