"""llama.cpp as an engine. The library runs in a child process (`llama_worker`); a crash becomes an error message."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.setting import OWN, TemplateSetting, Tokens, choose_template
from mentor_edge.engines.llama_cpp.replies import Fallback, LoadedModel, QuantizeReply, TensorInfo
from mentor_edge.engines.process.defaults import batch_size_for, threads_for
from mentor_edge.engines.process.worker import RuntimeWorker, WorkerEngine
from mentor_edge.errors import EngineError
from mentor_edge.model_directory import NamedTemplate

# -P keeps the working directory off the module path: a folder named llama_cpp there must not be imported.
COMMAND = [sys.executable, "-P", "-m", "mentor_edge.engines.llama_cpp.llama_worker"]
DOCTOR = "run `mentor-edge doctor` to test this llama.cpp build"


class LlamaWorker(RuntimeWorker):
    """The child process that runs llama.cpp, with typed operations; `timeout` as in `RuntimeWorker`.

    Each method raises EngineError when llama.cpp refuses and RuntimeDied when it crashes or hangs.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        # A failed assertion would otherwise start a debugger on the dying process.
        environment = {"GGML_NO_BACKTRACE": "1"}
        super().__init__("llama.cpp", COMMAND, hint=DOCTOR, timeout=timeout, environment=environment)

    def system_info(self) -> str:
        """The text of llama_print_system_info."""
        text: str = self.request("system_info", "starting")
        return text

    def load(self, path: Path, **options: Any) -> LoadedModel:
        """Load a GGUF file; `options` as in `LlamaServer.load`."""
        return LoadedModel(**self.request("load", f"loading {path}", path=str(path), **options))

    def tensors(self, path: Path, doing: str = "reading") -> list[TensorInfo]:
        """The tensors of a GGUF file."""
        return [TensorInfo(**info) for info in self.request("tensors", f"{doing} {path}", path=str(path))]

    def quantize(
        self,
        source: Path,
        target: Path,
        kind: str,
        *,
        threads: int = 1,
        types: Mapping[str, str] = MappingProxyType({}),
        matrix: Mapping[str, str] = MappingProxyType({}),
    ) -> QuantizeReply:
        """Write `target` as a file of a kind of `quantizer.FTYPES`; see `quantizer.quantize`."""
        reply = self.request(
            "quantize",
            f"quantizing {source} to {kind}",
            source=str(source),
            target=str(target),
            kind=kind,
            threads=threads,
            types=dict(types),
            matrix=dict(matrix),
        )
        return QuantizeReply(reply["code"], reply["log"], [Fallback(**fallback) for fallback in reply["fallbacks"]])


class LlamaCppEngine(WorkerEngine):
    """A GGUF file in llama.cpp on the CPU.

    Args:
        path: the file.
        context_length: tokens of one conversation; None is the model's own length, at most 4096.
        batch_size: conversations decoded at once; None is 64 for small models, else 8 (`process.defaults`). It is
            lowered to the number whose KV caches fit in memory (4 GiB together, or half of the machine's).
        threads: None is one for small models, else `OMP_NUM_THREADS` or the machine's physical cores. The number does
            not change any logit.
        kv: the type of the KV cache, "f16" or "f32"; "f16" changes logits in the third digit.
        flash_attention: also changes logits in the third digit.
        use_extra_buffers: False avoids weight repacking and AMX, for builds that crash with them.
        timeout: seconds that llama.cpp may stay silent during a request.
        template: a chat template to use instead of the file's own, and its arguments.

    Raises:
        EngineError: from the constructor, when the file is missing, damaged or not supported by this llama.cpp.
        StudentError: from the constructor, when `template` does not suit the file.
        RuntimeDied: (an EngineError) from any method, when the child process crashes or hangs.
    """

    _worker: LlamaWorker

    def __init__(
        self,
        path: str | Path,
        *,
        context_length: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        kv: str = "f16",
        flash_attention: bool = False,
        use_extra_buffers: bool = True,
        timeout: float = 600.0,
        template: TemplateSetting = OWN,
    ) -> None:
        if not Path(path).is_file():
            raise EngineError(f"no such file: {path}", "give the path of a .gguf file")
        weights = Path(path).stat().st_size
        batch_size = batch_size_for(weights) if batch_size is None else batch_size
        self.threads = threads = threads_for(weights) if threads is None else threads
        if batch_size < 1 or threads < 1:
            raise EngineError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}")
        super().__init__(Path(path), LlamaWorker(timeout))
        try:
            model = self._worker.load(
                self.path,
                context_length=context_length,
                batch_size=batch_size,
                threads=threads,
                kv=kv,
                flash_attention=flash_attention,
                use_extra_buffers=use_extra_buffers,
            )
            self._template = model.template
            self.eos_token = model.eos_token
            self.bos_token = model.bos_token
            self.end_ids = frozenset(model.end_ids)
            if template:
                self._use(template)
        except BaseException:
            self.close()
            raise
        self.vocabulary_size = model.vocabulary_size
        self.context_length = model.context_length
        self.batch_size = model.batch_size

    def _use(self, setting: TemplateSetting) -> None:
        """Use another template than the file's. Raises: StudentError."""
        own = None if self._template is None else NamedTemplate("default", self._template)
        tokens = Tokens(
            lambda text: self.encode([text])[0], lambda ids: self.decode([ids])[0], self.eos_token, self.bos_token
        )
        chosen = choose_template(setting, own, tokens, str(self.path))
        self._template = chosen.source
        if chosen.end_of_turn is not None:
            self.eos_token = chosen.end_of_turn
            ids = tokens.encode(chosen.end_of_turn)
            self._worker.request("also_end", f"preparing {self.path}", token_ids=ids)
            self.end_ids |= frozenset(ids)

    @cached_property
    def template(self) -> ChatTemplate:
        """The template that the model uses, with its end and start tokens.

        Raises: EngineError when the file has no template or names no end token.
        """
        if self._template is None or not self.eos_token:
            missing = "chat template" if self._template is None else "end-of-turn token"
            raise EngineError(f"{self.path} has no {missing}", "export a model whose tokenizer has one")
        return ChatTemplate(self._template, self.eos_token, self.bos_token, tuple(self._end_texts()))

    def _end_texts(self) -> list[str]:
        return self.decode([[token] for token in sorted(self.end_ids)])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text. Special and added tokens are recognized; nothing is added. Unicode is not normalized:
        llama.cpp cannot do that."""
        ids: list[list[int]] = self._worker.request("tokenize", f"tokenizing for {self.path}", texts=list(texts))
        return ids

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        sequences = [[int(token) for token in ids] for ids in token_ids]
        texts: list[str] = self._worker.request("detokenize", f"decoding tokens with {self.path}", token_ids=sequences)
        return texts
