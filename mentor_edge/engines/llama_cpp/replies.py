"""The replies of the llama.cpp child process, typed so that both sides read the same fields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The reply to `load`."""

    batch_size: int
    """Conversations that fit in memory at once, at most the number requested."""
    context_length: int
    """Tokens of one conversation."""
    vocabulary_size: int
    template: str | None
    """The chat template stored in the file."""
    eos_token: str
    """The text of the end token that the file names; empty if it names none."""
    bos_token: str
    end_ids: list[int]
    """Every token that ends a turn, according to llama.cpp."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file, from the reply to `tensors`."""

    name: str
    type: str
    """In llama.cpp's spelling, such as "q4_K"."""
    type_id: int
    """The type as a number of enum ggml_type."""
    shape: list[int]
    """Four sizes; the width of a row comes first."""
    offset: int
    """The position in the file of its first byte."""
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that llama.cpp wrote in another type than intended, because its rows are not multiples of a block."""

    tensor: str
    row_width: int
    block: int
    intended: str
    written: str


@dataclass(frozen=True, slots=True)
class QuantizeReply:
    """The reply to `quantize`."""

    code: int
    """The return code of llama_model_quantize; 0 is success."""
    log: list[str]
    """llama.cpp's warnings."""
    fallbacks: list[Fallback]
