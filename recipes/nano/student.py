r"""The nano student: tokenizer, chat template and architecture of the embedded default model.

Qwen3-shaped, 886k parameters. The length of every weight row is a multiple of 256, so that K-quants are real: llama.cpp
silently stores other rows as other types. The tokenizer is a byte-level BPE with Qwen2's split pattern, which llama.cpp
knows by name, and has no normalizer, so both runtimes produce the same ids.
"""

from __future__ import annotations

import itertools
from typing import Any

from mentor_edge.chat import ChatTemplate
from mentor_edge.chat.own_templates import own_template
from mentor_edge.tasks.nano.suites import warm_start_stream

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# JSON punctuation of a call as single tokens: a one-call turn is 14 tokens long instead of 22.
_FRAGMENTS = ('\n{"name": "', '", "arguments": {"', '": ', ', "', "}}\n")
_VOCABULARY = 640
# The pattern llama.cpp calls "qwen2": letters, single digits, punctuation, line breaks, spaces.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEMPLATE = own_template("nano")
"""Compact, prefix-preserving, with Qwen's tool-call tags. Training, gate and device all use this template."""

# How TRL's own loop (rollout.engine: trl) parses a turn of this template.
_RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}  # a table  # fmt: skip


def build_tokenizer(seed: int = 0, conversations: int = 4000) -> Any:
    """Train the tokenizer on generated conversations (about 2 s) and attach the chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template = ChatTemplate(TEMPLATE, TURN_END)
    markers = (TURN_START, TURN_END, *_TAGS, *_FRAGMENTS)

    def corpus() -> Any:
        for task in itertools.islice(warm_start_stream(seed), conversations):
            assert task.reference is not None
            text = template.render((*task.prompt, *task.reference.messages), task.tool_schemas)
            for marker in markers:  # they are single tokens; merges across them would never be used
                text = text.replace(marker, "\x00")
            yield from text.split("\x00")

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(_TAGS) - len(_FRAGMENTS),
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in (*_TAGS, *_FRAGMENTS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = _RESPONSE_TEMPLATE
    return tokenizer


def build_model(tokenizer: Any, seed: int) -> Any:
    """The untrained model: 2 layers, width 256, 4 query heads and 1 key-value head of 64, tied embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)
