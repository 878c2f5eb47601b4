"""Does a converted file compute what the model computes? Template, tokens and logits, compared on the real runtime."""

# The corpus holds look-alike letters on purpose.
# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from mentor_edge.engines.llama_cpp import LlamaCppEngine
from mentor_edge.errors import ExportError
from mentor_edge.tool_calls import TOOL_CALL_CLOSE, TOOL_CALL_OPEN

TOLERANCE = 1e-3
"""Largest difference of a logit between F32 implementations that add in different orders. Layout errors exceed 0.1."""
POSITIONS = 200

TEXTS = (
    "",
    "a",
    " leading and trailing ",
    "Don't you'LL we're I'M they'd CAN'T o'clock",
    "spaces:  two   three    four, tab:\t\ttwo, mixed: \t \t x",
    "lines\n\n\nthree\r\ncarriage\r\rtwo\n \n  \n\tend\n",
    "   \n   \n",
    "0 1 12 123 1234 12345 1234567890 3.14159 -2e10 1,000,000 007 ½ ² Ⅷ ٣ 五",
    "def f(x: int) -> int:\n    return x ** 2  # comment\n\n\tif a[0] != b['c']:\n\t\tprint(f\"{a!r}\\n\")\n",
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3, "units": ["C", "F"], "x": null}}',
    '{"a":{"b":[{"c":-1.5e-3},true,false]},"d":"\\u00e9\\\\"}',
    "naïve café Übergröße œuvre Ångström ﬁne ǅ",
    "decomposed: e\u0301 n\u0303 o\u0308 a\u030a\u0301",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界！今天天气怎么样？ こんにちは、世界。안녕하세요 세계 한국어",
    "emoji: 😀👍🏽👩‍👩‍👧‍👦🇨🇭 ❤️ 🏳️‍🌈 end",
    "rare: \u200b zero-width, \u00a0nbsp, \u3000wide, \ufeffbom, \U0001d54f math, \u2028 line, \x00 nul, \x7f del",
    "!!! ... --- ?!?! <<>> (([{}])) //// \\\\ $$ %% ^^ && ** ++ == ~~ `` || ;; :: '' \"\"",
    "https://example.org/a?b=c&d=%20#e user@example.org /usr/local/bin C:\\Users\\x",
    "hello , world . it 's here ! do n't ? a 'm",
    f'{TOOL_CALL_OPEN}\n{{"name": "add", "arguments": {{"a": 2, "b": 40}}}}\n{TOOL_CALL_CLOSE}',
    f"x{TOOL_CALL_OPEN}{TOOL_CALL_OPEN} {TOOL_CALL_CLOSE}\n\n<tool_response>42</tool_response>y",
    "<tool_call <tool_call>> </tool_call > <|im_start <|im_end|>|> <|im_start|>user\nhi<|im_end|>\n",
)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was compared. Differences are of raw logits, over `positions` positions and the whole vocabulary."""

    token_cases: int
    positions: int
    max_difference: float
    mean_difference: float
    top1_agreement: float
    template_sha256: str | None


def check(model_dir: Path, gguf_file: Path) -> ParityReport:
    """Compare an F32 GGUF file with the model it was made from.

    Stages, in order: the chat template is stored byte for byte; llama.cpp splits every text of a fixed corpus, and
    every added token in context, into the same ids and joins them to the same text; the logits of 200 seeded random
    tokens differ by at most 1e-3 and agree on the largest everywhere. The reference is transformers in float32 with
    eager attention; llama.cpp runs with an F32 cache and without flash attention (which alone costs 1e-2). With a
    normalizer in the tokenizer, texts are NFC-normalized first, because llama.cpp does not do it.

    Raises: ExportError naming the stage that failed and the first difference; EngineError when llama.cpp fails.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    _check_template(tokenizer.chat_template, gguf_file)
    with LlamaCppEngine(gguf_file, kv="f32", batch_size=1) as engine:
        cases = _check_tokens(tokenizer, engine)
        import torch

        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        _check_end_ids(model.generation_config.eos_token_id, engine)
        ids = _random_tokens(tokenizer, min(POSITIONS, engine.context_length))
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).logits[0].numpy()
        difference, top1 = _check_logits(engine.logits(ids), expected)
        template_sha256 = engine.template.sha256 if tokenizer.chat_template else None
    return ParityReport(cases, len(ids), float(difference.max()), float(difference.mean()), top1, template_sha256)


def _check_template(expected: Any, gguf_file: Path) -> None:
    field = gguf.GGUFReader(gguf_file).get_field("tokenizer.chat_template")
    stored = None if field is None else field.contents()
    # An empty template is not stored at all.
    if stored != (expected or None):
        raise ExportError(
            f"template: {gguf_file} stores a chat template other than the tokenizer's", "convert the model again"
        )


def _check_tokens(tokenizer: Any, engine: LlamaCppEngine) -> int:
    texts = list(TEXTS)
    for token in tokenizer.added_tokens_decoder.values():
        texts += [token.content, f"a{token.content}b", f"1 {token.content} \n{token.content}{token.content}"]
    if tokenizer.backend_tokenizer.normalizer is not None:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for text, ours, theirs in zip(texts, expected, engine.encode(texts), strict=True):
        if ours != theirs:
            raise ExportError(
                f"tokenizer: {text!r} is {ours} in transformers and {theirs} in llama.cpp",
                "the model would see other tokens on the device; this tokenizer cannot be exported to GGUF",
            )
    for ids, decoded in zip(expected, engine.decode(expected), strict=True):
        reference = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != reference:
            raise ExportError(f"tokenizer: {ids} reads {reference!r} in transformers and {decoded!r} in llama.cpp")
    if (tokenizer.eos_token or "") != engine.eos_token:
        raise ExportError(f"tokenizer: the end token is {tokenizer.eos_token!r}, the file's {engine.eos_token!r}")
    return len(texts)


def _check_end_ids(expected: int | Sequence[int] | None, engine: LlamaCppEngine) -> None:
    ids = {expected} if isinstance(expected, int) else set(expected or ())
    if unknown := sorted(ids - engine.end_ids):
        raise ExportError(
            f"tokenizer: generation_config.json stops at {unknown}, where llama.cpp goes on",
            "make the token that ends a turn the tokenizer's eos_token",
        )


def _random_tokens(tokenizer: Any, count: int) -> list[int]:
    added = set(tokenizer.added_tokens_decoder)
    normal = [i for i in sorted(tokenizer.get_vocab().values()) if i not in added]
    return [int(i) for i in np.random.default_rng(0).choice(normal, count)]


def _check_logits(
    actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], float]:
    if actual.shape != expected.shape:
        raise ExportError(f"conversion: the logits have shape {actual.shape}, transformers' {expected.shape}")
    difference = np.abs(actual - expected)
    top1 = float((actual.argmax(1) == expected.argmax(1)).mean())
    # `not <=` also catches NaN.
    if not difference.max() <= TOLERANCE or top1 < 1:
        raise ExportError(
            f"conversion: logits differ by up to {difference.max():.2g} (mean {difference.mean():.2g},"
            f" limit {TOLERANCE:g}) and agree on the largest at {top1:.1%} of {len(actual)} positions",
            "the converted weights do not compute what the model computes; please report the architecture",
        )
    return difference, top1
