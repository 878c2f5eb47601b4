"""Models and tokenizers made on the spot: random weights, real formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "smollm3": "SmolLM3", "gemma3": "Gemma3"}
CLASSES = dict.fromkeys(FAMILIES, ("Config", "ForCausalLM")) | {"gemma3": ("TextConfig", "ForCausalLM")}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128},  # not hidden_size / heads, as in Qwen3-0.6B
    "smollm3": {"num_hidden_layers": 4},  # every fourth layer has no rotary embedding
    "gemma3": {
        "num_hidden_layers": 6,  # every sixth layer looks at everything, the others at a window
        "head_dim": 128,
        "query_pre_attn_scalar": 128,
        "sliding_window": 64,
        "rope_parameters": {"full_attention": _ROPE | {"rope_theta": 1e6}, "sliding_attention": _ROPE},
    },
}

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
    """A byte-level BPE tokenizer as transformers has it.

    `split` is a regex, "digits" for SmolLM's way (single digits, then GPT-2's), or None for GPT-2's own.
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
    """A BPE tokenizer with byte fallback over text whose spaces are written `▁`, with every merge that its vocabulary
    allows, which is how SentencePiece's BPE looks in transformers.

    `style` is "gemma" or "llama" (those classes; llama without a space before the text), or "llama-2": a space before
    every text, as in the files of that time. `size` is that of the vocabulary without added tokens.
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
    # Gemma's runs of spaces, all of the same score, as its SentencePiece model has them.
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

    `family` is a key of `FAMILIES`; `changes` are entries of its configuration. Gemma 3 and SmolLM3 have as many layers
    as their pattern of different layers is long.

    Weights are larger than an initialization's, so that attention is not uniform and layout errors show.
    """
    import torch
    import transformers

    tokenizer = tokenizer or make_tokenizer()
    config_class, model_class = (getattr(transformers, f"{FAMILIES[family]}{kind}") for kind in CLASSES[family])
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
    sizes |= DIFFERENCES.get(family, {}) | changes
    # Two threads that wait for each other on a shared machine are far slower than one on models of this size.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = model_class(config_class(**sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
            if family == "gemma3":  # which multiplies by 1 + weight
                parameter.data -= 1
        else:
            torch.nn.init.normal_(parameter, std=0.08)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard_size)
    tokenizer.save_pretrained(directory)
    return directory
