"""The transformers engine: any Hugging Face causal LM behind the engine protocol, with our own decode loop.

It drives the model's own `forward` with a cache object and re-implements no architecture. Compared with `generate`:
the KV cache is kept between turns, identical prompts (the rollouts of a group) are prefilled once, and rows that have
finished are dropped. `tests/test_transformers_engine.py` holds it to `generate` token by token.

Relied on upstream (transformers 5.23): a 4-D attention mask is used as it is (`masking_utils`), attention layers take
keys and values from `past_key_values.update(keys, values, layer_idx)`, and `logits_to_keep=1` scores the last column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.errors import StudentError

_PREFILL_TOKENS = 16384
"""Most padded tokens of one prefill forward: bounds its activations whatever the batch."""
_COMPACT_BELOW = 0.75
"""Finished rows are dropped once fewer than this part of the decoded rows is active: dropping copies the cache."""


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudentError(
            f"cannot load the student {name!r}: {first_line}",
            "give a directory with config.json, model.safetensors and a tokenizer (a hub id needs a reachable hub)",
        ) from error


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a student, checked for a chat template.

    Raises: StudentError when it cannot be loaded or has no chat template.
    """
    name = str(path)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.chat_template:
        raise StudentError(
            f"the student {name!r} has no chat template",
            "a tool-calling student needs one: add chat_template.jinja or use an instruct model",
        )
    if tokenizer.eos_token is None:
        raise StudentError(f"the student {name!r} has no end-of-turn token (eos_token)")
    return tokenizer


def load_student(path: str | Path, *, four_bit: bool = False) -> tuple[Any, Any]:
    """Load a local Hugging Face directory (or, where a hub is reachable, a hub id) as (model, tokenizer).

    Weights are float32 on a CPU and bfloat16 on a GPU; `four_bit` keeps them as NF4 with double quantization (QLoRA).

    Raises: StudentError when it cannot be loaded or its tokenizer has no chat template.
    """
    name = str(path)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    quantization = None
    if four_bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    tokenizer = load_tokenizer(name)
    with _loading(name):
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, quantization_config=quantization
        )
    return model, tokenizer


def template_of(tokenizer: Any) -> ChatTemplate:
    return ChatTemplate(tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token or "")


class _RaggedLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, kv heads, slots, head size], written at each row's own positions.

    Slot 0 takes the padding; token position p lives in slot p + 1.
    """

    is_sliding = False

    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (key_states.shape[0], key_states.shape[1], self._cache.slots)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, slots, span = self._cache.rows, self._cache.write_slots, self._cache.span
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        return self.keys[:, :, :span], self.values[:, :, :span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.span, 0

    def get_seq_length(self) -> int:
        return self._cache.span

    def get_max_length(self) -> int:
        return -1


class RaggedCache(Cache):
    """A cache whose rows have different lengths. `aim` says where the next forward writes; `slots` is the capacity."""

    def __init__(self, layers: int, slots: int = 0) -> None:
        self.slots = slots
        self.span = 0
        self.rows = self.write_slots = torch.zeros(0)
        super().__init__(layers=[_RaggedLayer(self) for _ in range(layers)])

    def aim(self, write_slots: torch.Tensor) -> None:
        """`write_slots` is [rows, columns]; capacity grows in steps of 64, so that it is rarely copied."""
        self.rows = torch.arange(write_slots.shape[0], device=write_slots.device)[:, None]
        self.write_slots = write_slots
        self.span = int(write_slots.max()) + 1
        self.grow(-(-self.span // 64) * 64)

    def grow(self, slots: int) -> None:
        """Make room for at least `slots` slots."""
        missing = slots - self.slots
        if missing <= 0:
            return
        self.slots = slots
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, missing))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, missing))

    def take(self, rows: torch.Tensor) -> RaggedCache:
        """A copy that holds the given rows, in that order."""
        taken = RaggedCache(len(self.layers), self.slots)
        for source, target in zip(self.layers, taken.layers, strict=True):
            target.keys, target.values = source.keys[rows], source.values[rows]
            target.is_initialized = True
        return taken

    def put(self, rows: torch.Tensor, source: RaggedCache) -> None:
        """Store all rows of `source` as the given rows."""
        self.grow(source.slots)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.keys[rows, :, : source.slots] = theirs.keys
            mine.values[rows, :, : source.slots] = theirs.values


class TransformersEngine:
    """A Hugging Face causal LM as an engine. Greedy at temperature 0, else sampling from torch's global generator.

    Raises: StudentError when the model has layers without a plain KV cache (sliding windows, state spaces).
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 64, context_length: int | None = None) -> None:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise StudentError(
                f"the decode loop supports full attention only, this model has {', '.join(sorted(kinds))} layers",
                "set rollout.engine to trl, which decodes with transformers' generate",
            )
        self.model = model
        self.tokenizer = tokenizer
        self.template = template_of(tokenizer)
        self.batch_size = batch_size
        limit = config.max_position_embeddings
        self.context_length = limit if context_length is None else min(limit, context_length)
        eos = model.generation_config.eos_token_id
        self.eos_token_ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}

    @classmethod
    def load(cls, path: str | Path, *, batch_size: int = 64) -> TransformersEngine:
        """Raises: StudentError."""
        model, tokenizer = load_student(path)
        return cls(model.eval(), tokenizer, batch_size=batch_size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in token_ids]

    @contextmanager
    def open(self, size: int) -> Iterator[_TorchConversations]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield _TorchConversations(self, size)
        finally:
            self.model.train(training)


class _TorchConversations:
    """A batch of conversations on one RaggedCache; see `Conversations`."""

    def __init__(self, engine: TransformersEngine, size: int) -> None:
        self._engine = engine
        self._layers = engine.model.config.get_text_config().num_hidden_layers
        self._device = engine.model.device
        self._size = size
        self._cache: RaggedCache | None = None
        self._lengths = [0] * size
        self._unfed: list[list[int]] = [[] for _ in range(size)]  # sampled last, not in the cache yet

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        inputs = [self._unfed[row] + list(ids) for row, ids in zip(rows, token_ids, strict=True)]
        if self._cache is None:
            cache, logits = self._prefill_prompts(rows, inputs)
        else:
            cache = self._cache.take(self._tensor(rows))
            logits = self._forward(cache, inputs, [self._lengths[row] for row in rows])
        for row, ids in zip(rows, inputs, strict=True):
            self._lengths[row] += len(ids)
        return self._decode(rows, cache, logits, sampling)

    def _prefill_prompts(self, rows: Sequence[int], prompts: list[list[int]]) -> tuple[RaggedCache, torch.Tensor]:
        """Prefill each distinct prompt once and copy its cache to all rows that start with it."""
        if len(set(rows)) != self._size:
            raise ValueError("the first call of a batch must give every conversation its prompt")
        distinct = sorted(dict.fromkeys(map(tuple, prompts)), key=len)  # like lengths together: little padding
        index = {prompt: i for i, prompt in enumerate(distinct)}
        slots = -(-(len(distinct[-1]) + 1) // 64) * 64
        step = max(1, _PREFILL_TOKENS // len(distinct[-1]))
        caches, logits = [], []
        for start in range(0, len(distinct), step):
            chunk = distinct[start : start + step]
            caches.append(RaggedCache(self._layers, slots))
            logits.append(self._forward(caches[-1], chunk, [0] * len(chunk)))
        spread = self._tensor([index[tuple(prompt)] for prompt in prompts])
        cache = _concatenated(caches).take(spread)
        self._cache = cache.take(self._tensor(sorted(range(self._size), key=rows.__getitem__)))
        return cache, torch.cat(logits)[spread]

    def _forward(self, cache: RaggedCache, inputs: Sequence[Sequence[int]], starts: Sequence[int]) -> torch.Tensor:
        """Feed ragged inputs, right-aligned, at each row's own positions; the logits after each row's last token.

        Returns [rows, vocabulary].
        """
        width = max(len(ids) for ids in inputs)
        ids = torch.zeros((len(inputs), width), dtype=torch.long)
        positions = torch.zeros_like(ids)
        slots = torch.zeros_like(ids)
        for i, (row, start) in enumerate(zip(inputs, starts, strict=True)):
            ids[i, width - len(row) :] = torch.tensor(row)
            positions[i, width - len(row) :] = torch.arange(start, start + len(row))
            slots[i, width - len(row) :] = torch.arange(start + 1, start + len(row) + 1)
        return self._step(cache, ids.to(self._device), positions.to(self._device), slots.to(self._device))

    def _step(
        self, cache: RaggedCache, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor
    ) -> torch.Tensor:
        cache.aim(slots)
        keys = torch.arange(cache.span, device=self._device)
        visible = (keys >= 1) & (keys <= slots[:, :, None])  # slot 0 holds padding
        mask = torch.zeros(visible.shape, dtype=self._engine.model.dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)
        output = self._engine.model(
            input_ids=ids, attention_mask=mask[:, None], position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1].float()

    def _decode(
        self, rows: Sequence[int], cache: RaggedCache, logits: torch.Tensor, sampling: Sampling
    ) -> list[Generation]:
        assert self._cache is not None
        generated: list[list[int]] = [[] for _ in rows]
        finished = [False] * len(rows)
        decoded = list(range(len(rows)))  # indices into `rows`, in the order of the cache's rows
        alive = [True] * len(rows)
        for step in range(sampling.max_new_tokens):
            chosen = _choose(logits, sampling.temperature)
            tokens = chosen.tolist()
            for index, token in zip(decoded, tokens, strict=True):
                if not alive[index]:
                    continue
                generated[index].append(token)
                finished[index] = token in self._engine.eos_token_ids
                full = self._lengths[rows[index]] + 1 >= self._engine.context_length
                alive[index] = not finished[index] and not full
            keep = [i for i, index in enumerate(decoded) if alive[index]]
            if not keep or step == sampling.max_new_tokens - 1:
                break
            if len(keep) < _COMPACT_BELOW * len(decoded):
                kept = self._tensor(keep)
                self._cache.put(self._tensor([rows[index] for index in decoded]), cache)
                cache, chosen = cache.take(kept), chosen[kept]
                decoded = [decoded[i] for i in keep]
            starts = self._tensor([self._lengths[rows[index]] for index in decoded])
            logits = self._step(cache, chosen[:, None], starts[:, None], starts[:, None] + 1)
            for index in decoded:
                if alive[index]:
                    self._lengths[rows[index]] += 1
        self._cache.put(self._tensor([rows[index] for index in decoded]), cache)
        for row, ids in zip(rows, generated, strict=True):
            self._unfed[row] = ids[-1:]
        return [Generation(ids, done) for ids, done in zip(generated, finished, strict=True)]

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _concatenated(caches: Sequence[RaggedCache]) -> RaggedCache:
    """Caches of the same capacity, row after row."""
    whole = RaggedCache(len(caches[0].layers), caches[0].slots)
    for i, layer in enumerate(whole.layers):
        layer.keys = torch.cat([cache.layers[i].keys for cache in caches])
        layer.values = torch.cat([cache.layers[i].values for cache in caches])
        layer.is_initialized = True
    return whole


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token per row of [rows, vocabulary]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """Decode with LoRA deltas added to the base weights, and put the very same base tensors back afterwards.

    PEFT's own merge and unmerge subtract what they added, which drifts in floating point from step to step. Quantized
    layers keep their adapter live: merging into 4-bit weights would decode another model than the one trained.
    """
    from peft.tuners.lora import LoraLayer

    merged: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for layer in model.modules():
                if not isinstance(layer, LoraLayer) or type(layer.get_base_layer()) is not torch.nn.Linear:
                    continue
                weight = layer.get_base_layer().weight
                merged.append((layer, weight, weight.data))
                weight.data = weight.data + sum(
                    layer.get_delta_weight(name).to(weight.dtype) for name in layer.active_adapters
                )
                layer.merged_adapters.extend(layer.active_adapters)
        yield
    finally:
        for layer, weight, original in merged:
            weight.data = original
            layer.merged_adapters.clear()
