"""A GGUF file as a student: its weights are dequantized once, into a Hugging Face directory in the cache.

transformers reads the file. It leaves out what it does not know, such as the scaling of rotary positions, without an
error. So the copy is compared with the file in llama.cpp before it is used: token ids and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mentor_edge.dequantized import DEQUANTIZED, Dequantized
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.errors import EngineError, StudentError
from mentor_edge.files import atomic_directory, cache_directory, sha256_of, write_json
from mentor_edge.inspection.gguf_header import GgufHeader, read_gguf_header
from mentor_edge.progress import Progress

VERSION = "1"
"""Increment this when the copy changes, so that older ones in the cache are not used."""
_WIDE = frozenset({"f32", "f16"})
"""Types of matrices that bfloat16 would round. It rounds the others by at most half of what their own type does."""
_MAX_DIVERGENCE = {"float32": 0.001, "bfloat16": 0.05}
"""Largest accepted mean divergence of the copy's predictions, in nats, by the type of its weights. llama.cpp also
rounds what it multiplies quantized weights with: SmolLM2-135M in Q4_1 differs by 0.004, Gemma 3 270M in Q4_K_M by
0.023. Files in F32 differ by 1e-6; there, a wrong scale of Gemma's attention costs 0.02."""
_POSITIONS, _SCORED = 192, 96
"""Tokens of the compared text, and how many of the last ones are scored."""
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral")
"""Names of llama.cpp's pre-tokenizers (src/llama-vocab.cpp): those that split before every digit, and those with which
a word that is in the vocabulary skips the merges."""
_OTHER = "give the model's Hugging Face directory instead"


def is_gguf(student: str) -> bool:
    """Whether a student is named by a GGUF file."""
    return student.lower().endswith(".gguf")


def check_gguf(path: Path) -> GgufHeader:
    """Check that transformers can read the model, from the file's header.

    Raises: StudentError.
    """
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if not path.is_file():
        raise StudentError(f"there is no file {path}", "give the path of a GGUF file")
    try:
        header = read_gguf_header(path)
    except EngineError as error:
        raise StudentError(error.problem, error.hint) from error
    if (parts := header.metadata.get("split.count", 1)) != 1:
        raise StudentError(f"{path} is one of {parts} parts", "join them with llama.cpp's llama-gguf-split --merge")
    name = header.architecture or "a nameless architecture"
    if header.architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise StudentError(f"transformers cannot dequantize {path}: it does not read {name}", _OTHER)
    if header.token("eos") is None:
        raise StudentError(f"{path} has no tokenizer with an end token", _OTHER)
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in header.tensors:
        kind = "by its own factors" if scaling == "none" else f"({scaling})"
        raise StudentError(f"{path} scales rotary positions {kind}; transformers would drop that", _OTHER)
    return header


def dequantized_student(path: Path, progress: Progress) -> Path:
    """The directory with the dequantized copy of a GGUF file, which is made once for each content of the file.

    Weights are stored in bfloat16, or in float32 if the file has matrices in F32 or F16. The chat template is the
    file's. dequantized.json says where the copy came from.

    Args:
        path: The file.
        progress: Called with (stage, done, total).

    Returns:
        The directory, in the cache.

    Raises:
        StudentError: The file is missing, damaged, or of a family that transformers cannot read, or the copy does not
            compute what llama.cpp computes.
        EngineError: llama.cpp cannot load the file.
        OutputError: The cache cannot be written.
    """
    header = check_gguf(path)
    digest = sha256_of(path)
    directory = cache_directory() / "dequantized" / f"{path.stem}-{digest[:16]}-{VERSION}"
    if directory.is_dir():
        return directory
    wide = _WIDE & {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) > 1}
    record = Dequantized(
        file=str(path.resolve()), sha256=digest, kinds=header.kinds, stored_as="float32" if wide else "bfloat16"
    )
    stage = f"dequantize {path.name}"
    progress(stage, 0, 3)
    with LlamaCppEngine(path, batch_size=1, context_length=_POSITIONS) as engine:
        progress(stage, 1, 3)
        with atomic_directory(directory) as temporary:
            model, tokenizer = _load(path, header, record.stored_as)
            # llama.cpp ends turns at more tokens than the one that the file names, such as Gemma's <end_of_turn>.
            model.generation_config.eos_token_id = sorted(engine.end_ids)
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / DEQUANTIZED, record.model_dump())
            del model
            progress(stage, 2, 3)
            _compare(path, temporary, tokenizer, engine, _MAX_DIVERGENCE[record.stored_as])
    progress(stage, 3, 3)
    return directory


def _load(path: Path, header: GgufHeader, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them. Raises: StudentError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, trust_remote_code=False, **source)
        config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False, **source)
        head_dim = header.metadata.get(f"{header.architecture}.attention.key_length")
        for setting in ("head_dim", "query_pre_attn_scalar"):
            # transformers reads the first for some families only. For the second, llama.cpp uses the first.
            if isinstance(head_dim, int) and hasattr(config, setting):
                setattr(config, setting, head_dim)
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            trust_remote_code=False,
            config=config,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **source,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StudentError(f"transformers cannot dequantize {path}: {reason}", _OTHER) from error
    if lacking := sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]):
        raise StudentError(f"transformers cannot dequantize {path}: it has no {lacking[0]} that fits", _OTHER)
    # Otherwise the directory would count as quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.chat_template = header.templates.get("default")
    _restore_splits(tokenizer, header)
    return model, tokenizer


def _restore_splits(tokenizer: Any, header: GgufHeader) -> None:
    """Split texts as llama.cpp does it, where transformers ignores the name of the pre-tokenizer in the file."""
    from tokenizers import pre_tokenizers

    name = header.metadata.get("tokenizer.ggml.pre")
    if name in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name in _WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True


def _compare(path: Path, copy: Path, tokenizer: Any, engine: LlamaCppEngine, limit: float) -> None:
    """Raises: StudentError when the copy tokenizes differently than the file does in llama.cpp, or when its predictions
    diverge by more than `limit`."""
    import torch

    from mentor_edge.engines.torch.loading import load_model
    from mentor_edge.export.parity.corpus import TEXTS
    from mentor_edge.export.parity.expected import corpus_texts, log_softmax

    model = load_model(copy, tokenizer, dtype=torch.float32)
    texts = corpus_texts(tokenizer, model.get_input_embeddings().num_embeddings)
    for text, theirs in zip(texts, engine.encode(texts), strict=True):
        ours = tokenizer.encode(text, add_special_tokens=False)
        if ours != theirs:
            raise StudentError(
                f"transformers reads the tokenizer of {path} differently than llama.cpp: {text!r} becomes {ours} "
                f"instead of {theirs}",
                _OTHER,
            )
    ids: Sequence[int] = tokenizer.encode("\n".join(TEXTS), add_special_tokens=False)[:_POSITIONS]
    with torch.inference_mode():
        copied = model(torch.tensor([ids]), logits_to_keep=_SCORED).logits[0].numpy()
    original = engine.logits(ids, last=len(copied))
    left, right = np.stack([log_softmax(row) for row in original]), np.stack([log_softmax(row) for row in copied])
    divergence = float((np.exp(left) * (left - right)).sum(1).mean())
    if not divergence <= limit:
        raise StudentError(
            f"the dequantized copy of {path} does not compute what llama.cpp computes: it diverges by {divergence:.3g}"
            f" nats (limit {limit:g})",
            _OTHER,
        )
