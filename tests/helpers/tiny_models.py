"""Models and tokenizers made during a test: random weights, real formats.

To add a model family, add it to `FAMILIES`. The tests of conversion, calibration, export, parity and engines then run
on a tiny model of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
EMBEDDING_ROWS = 448  # more than the tokenizer has, as in Qwen's checkpoints

CORPUS = (
    "What is the sum of 12 and 30? The answer is \\boxed{42}.",
    '{"name": "add", "arguments": {"a": 12, "b": 30}}',
    '{"name": "get_weather", "arguments": {"city": "Zürich"}}',
    "system\nYou can call tools: add(a, b) adds two numbers, multiply(a, b) multiplies them.",
    "user\nThere are 7 boxes with 6 apples each. How many apples are there?",
    "assistant\nThere are 42 apples, don't worry.",
)


@dataclass(frozen=True)
class TinyFamily:
    """`model` and `config` are classes of transformers, `sizes` entries of the config that differ from the defaults."""

    model: str
    config: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    norms_add_one: bool = False
    """Whether norms multiply by 1 + weight."""


_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
FAMILIES: Mapping[str, TinyFamily] = {
    "qwen2": TinyFamily("Qwen2ForCausalLM", "Qwen2Config"),
    # The head size is not width / heads, as in Qwen3-0.6B.
    "qwen3": TinyFamily("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 128}),
    "llama": TinyFamily("LlamaForCausalLM", "LlamaConfig"),
    # Every fourth layer has no rotary embedding.
    "smollm3": TinyFamily("SmolLM3ForCausalLM", "SmolLM3Config", {"num_hidden_layers": 4}),
    "gemma3": TinyFamily(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 6,  # every sixth layer attends to all positions, the others to a window
            "head_dim": 128,
            "query_pre_attn_scalar": 128,
            "sliding_window": 64,
            "rope_parameters": {"full_attention": _ROPE | {"rope_theta": 1e6}, "sliding_attention": _ROPE},
        },
        norms_add_one=True,
    ),
}


def families(*quick: str) -> list[Any]:
    """The names of `FAMILIES` as parameters of a test that takes long: all but the quick ones are marked slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in FAMILIES]


TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool.function | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}{% if not loop.first %}
{% endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_tokenizer(split: str | None = QWEN2_SPLIT, *, normalizer: Any = None, ignore_merges: bool = False) -> Any:
    """A byte-level BPE tokenizer, as a class of transformers.

    `split` is a regex, "digits" for SmolLM's split (single digits, then GPT-2's), or None for GPT-2's own.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split is None:
        tokenizer.pre_tokenizer = gpt2
    elif split == "digits":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    else:
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        steps = [pre_tokenizers.Split(Regex(split), "isolated"), bytes_only]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def make_sentencepiece_tokenizer(style: str = "gemma", corpus: Sequence[str] = CORPUS, size: int = 420) -> Any:
    """A tokenizer like SentencePiece's BPE in transformers: spaces are written `▁`, unknown characters fall back to
    bytes, and the merges are all that the vocabulary allows.

    `style` is "gemma" or "llama" (the classes of these names; llama without a leading space), or "llama-2", which adds
    a space before every text, as the files of that time do. `size` is that of the vocabulary without added tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    special = ("<pad>", "<unk>", "<s>", *SPECIAL)
    vocabulary = {token: i for i, token in enumerate((*special, *(f"<0x{byte:02X}>" for byte in range(256))))}
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=size - len(vocabulary), initial_alphabet=["▁"], show_progress=False)
    trained.train_from_iterator(corpus, trainer)
    pieces = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda entry: entry[1])]
    # Gemma's runs of spaces, which all have the same score, as in its SentencePiece model.
    runs = ["▁" * length for length in range(2, 8)] if style == "gemma" else []
    pieces += [run for run in runs if run not in pieces]
    vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(pieces)}
    scores = {piece: 0.0 if piece in runs else -1.0 - i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, scores)
    names: dict[str, Any] = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if style == "gemma":
        tokenizer: Any = GemmaTokenizer(vocab=vocabulary, merges=merges, mask_token=None, **names)
    elif style == "llama":
        tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=False, **names)
    else:
        fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = decoders.Strip(" ", left=1)
        fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
        fast.add_special_tokens([AddedToken(token, normalized=False) for token in names.values()])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, clean_up_tokenization_spaces=False, **names)
    more = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_student(
    directory: Path,
    family: str = "qwen3",
    *,
    tied: bool = True,
    tokenizer: Any = None,
    dtype: str = "float32",
    shard_size: str = "1GB",
    **changes: Any,
) -> Path:
    """A model directory with seeded random weights: two layers of width 256, two query heads per key head.

    `family` is a key of `FAMILIES`; `changes` are entries of its configuration. Gemma 3 and SmolLM3, whose layers
    differ, have one period of their pattern.

    Weights are larger than at initialization, so that attention is not uniform and errors in the layout become visible.
    """
    import torch
    import transformers

    tokenizer = tokenizer or make_tokenizer()
    kind = FAMILIES[family]
    sizes: dict[str, Any] = {
        "vocab_size": EMBEDDING_ROWS,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    sizes |= {**kind.sizes, **changes}
    # For models of this size on a shared machine, two threads that wait for each other are far slower than one.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(transformers, kind.model)(getattr(transformers, kind.config)(**sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
            if kind.norms_add_one:
                parameter.data -= 1
        else:
            torch.nn.init.normal_(parameter, std=0.08)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard_size)
    tokenizer.save_pretrained(directory)
    return directory
