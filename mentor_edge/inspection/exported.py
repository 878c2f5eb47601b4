"""Reading exported files: a GGUF file, or an ONNX directory of onnxruntime-genai."""

from __future__ import annotations

from pathlib import Path

from gguf.constants import MODEL_ARCH_NAMES

from mentor_edge.chat.setting import TemplateSetting, Tokens
from mentor_edge.engines.onnx.directory import OnnxDirectory
from mentor_edge.inspection.expected_weights import layer_problems
from mentor_edge.inspection.facts import StudentFacts, resolve_template
from mentor_edge.inspection.gguf_header import GgufHeader, read_gguf_header
from mentor_edge.model_directory import template_for_tools

_MORE_ENDS = ("eot", "eom")
_LONGEST_TOKEN = 1_000
"""Characters of a token that is looked for at the start of a text, with each length."""


def read_gguf(path: Path, setting: TemplateSetting) -> StudentFacts:
    """The facts about a GGUF file; `setting` is the template to use instead of its own.

    Raises: EngineError when it is truncated, damaged or not a GGUF file; StudentError when a template cannot be used.
    """
    header = read_gguf_header(path)
    tokens = _tokens(header)
    stated = [token[0] for name in _MORE_ENDS if (token := header.token(name)) is not None]
    own = template_for_tools(header.templates, str(path))
    resolved = resolve_template(setting, own, tokens, stated, str(path))
    vocabulary = header.metadata.get("tokenizer.ggml.tokens")
    problems = [] if tokens.eos else ["it names no end-of-turn token"]
    if not vocabulary:
        problems.append("it has no tokenizer")
    problems += _header_problems(header)
    return StudentFacts(
        path=path,
        architecture=header.architecture or None,
        config={},
        context_length=header.context_length,
        bytes=path.stat().st_size,
        dtypes=header.kinds,
        vocabulary=len(vocabulary) if isinstance(vocabulary, list) else 0,
        tied=None,
        own_head="output.weight" in header.tensors,
        end_tokens=resolved.end_tokens,
        templates=tuple(header.templates),
        template_name=resolved.name,
        template=resolved.template,
        has_token=tokens.has,
        problems=problems,
    )


def _header_problems(header: GgufHeader) -> list[str]:
    """What llama.cpp cannot do without."""
    if header.architecture not in MODEL_ARCH_NAMES.values():
        return [f"llama.cpp does not know the architecture {header.architecture or '(none)'}"]
    needed = [f"{header.architecture}.context_length", f"{header.architecture}.block_count", "tokenizer.ggml.model"]
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        needed.append("tokenizer.ggml.merges")
    problems = [f"its metadata lack {key}" for key in needed if key not in header.metadata]
    if "token_embd.weight" not in header.tensors:
        problems.append("the weights lack token_embd.weight")
    return problems + layer_problems(header.tensors, header.metadata.get(f"{header.architecture}.block_count"))


def _tokens(header: GgufHeader) -> Tokens:
    """The special tokens of a file. Only single tokens are found: the rest needs llama.cpp's tokenizer."""
    vocabulary = header.metadata.get("tokenizer.ggml.tokens")
    texts: list[str] = vocabulary if isinstance(vocabulary, list) else []
    numbers = {text: number for number, text in enumerate(texts)}
    longest = min(_LONGEST_TOKEN, max(map(len, numbers), default=0))

    def encode(text: str) -> list[int]:
        if text in numbers:
            return [numbers[text]]
        sizes = range(min(longest, len(text)), 0, -1)
        first = next((numbers[text[:size]] for size in sizes if text[:size] in numbers), -1)
        return [first, -1]

    def decode(ids: list[int]) -> str:
        return "".join(texts[number] for number in ids if 0 <= number < len(texts))

    eos, bos = header.token("eos"), header.token("bos")
    return Tokens(encode, decode, "" if eos is None else eos[1], "" if bos is None else bos[1])


def read_onnx(path: Path, setting: TemplateSetting) -> StudentFacts:
    """The facts about an ONNX directory; `setting` is the template to use instead of its own.

    Raises: EngineError when a file is missing or damaged; StudentError when the template does not suit it.
    """
    directory = OnnxDirectory.read(path, setting)
    tokenizer, template = directory.tokenizer, directory.template
    tokens = Tokens.of(tokenizer, template.eos_token, template.bos_token)
    first = tokenizer.token_to_id(template.eos_token)
    ends = sorted(directory.end_ids, key=lambda number: (number != first, number))
    return StudentFacts(
        path=path,
        architecture=directory.settings.model.type,
        config={},
        context_length=directory.context_length,
        bytes=sum(file.stat().st_size for file in path.iterdir() if file.is_file() and ".onnx" in file.name),
        dtypes={},
        vocabulary=tokenizer.get_vocab_size(),
        tied=None,
        own_head=None,
        end_tokens={number: tokens.decode([number]) for number in ends},
        templates=("default",),
        template_name=template.name,
        template=template,
        has_token=tokens.has,
    )
