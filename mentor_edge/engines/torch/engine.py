"""The transformers engine: any Hugging Face causal LM behind the engine protocol, with our own decode loop.

It drives the model's own `forward` with a cache object and re-implements no architecture. Unlike `generate`, it keeps
the KV cache between turns, prefills identical prompts (the rollouts of a group) once, and drops rows that have
finished. Tests compare it with `generate` token by token, for every family in `attention.FAMILIES`.

Relied on upstream (transformers 5.23; tests/contracts/test_transformers.py): `logits_to_keep=1` scores the last column.
`attention` and `ragged_cache` name the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mentor_edge.chat.setting import OWN, TemplateSetting
from mentor_edge.engines.base import Generation, Sampling, encoding
from mentor_edge.engines.process.defaults import batch_size_for
from mentor_edge.engines.process.machine import default_threads
from mentor_edge.engines.torch.attention import FAMILIES, INSTEAD, attention_mask, attention_windows
from mentor_edge.engines.torch.loading import end_ids_of, load_student, template_of
from mentor_edge.engines.torch.ragged_cache import RaggedCache, concatenated
from mentor_edge.errors import EngineError, StudentError

_PREFILL_TOKENS = 16384
"""Most padded tokens of one prefill forward: bounds its activations for any batch."""
_COMPACT_BELOW = 0.75
"""Finished rows are dropped when less than this share of the rows is active: dropping copies the cache."""
_TOLERANCE = 0.25
"""Largest difference of logits from the model's own, in their standard deviations. Another order of additions changes
them by 1e-5 in float32, and 16 bits need more room; a wrong mask or position changes them by about one."""


class TransformersEngine:
    """A Hugging Face causal LM as an engine. Greedy at temperature 0, else sampling from torch's global generator.

    Args:
        model: a transformers model; it stays yours, and `open` restores its training mode.
        tokenizer: its tokenizer.
        batch_size: conversations decoded at once.
        context_length: tokens of one conversation; None is the model's own length.

    Raises:
        StudentError: when the decode loop cannot drive the model (state spaces, layers that share a cache, position
            biases). Either its configuration shows that, or the loop computes other logits for a few tokens than the
            model's own forward.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 64, context_length: int | None = None) -> None:
        config = model.config.get_text_config()
        self.windows = attention_windows(config)
        self.model = model
        self.tokenizer = tokenizer
        self.end_ids = end_ids_of(model, tokenizer)
        self.template = template_of(tokenizer, self.end_ids)
        self.batch_size = batch_size
        limit = getattr(config, "max_position_embeddings", None)
        if limit is None:
            raise StudentError(
                f"the decode loop cannot drive {config.model_type}: its config has no maximum context length", INSTEAD
            )
        self.context_length = limit if context_length is None else min(limit, context_length)
        if config.model_type not in FAMILIES:
            self._try_loop()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        batch_size: int | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        template: TemplateSetting = OWN,
    ) -> TransformersEngine:
        """Load a student and open it.

        Args:
            path: as in `load_student`.
            batch_size: conversations decoded at once; None is 64 for small models and on a GPU, else 8.
            context_length: tokens of one conversation; None is the model's own length.
            threads: torch's threads, for this process as a whole; None keeps torch's own number, or lowers it to
                `OMP_NUM_THREADS` or the physical cores that this process may use.
            template: as in `load_tokenizer`.

        Raises:
            StudentError: when it cannot be loaded or driven.
        """
        torch.set_num_threads(threads or min(torch.get_num_threads(), default_threads()))
        model, tokenizer = load_student(path, template=template)
        if batch_size is None:
            weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
            batch_size = batch_size_for(weights) if model.device.type == "cpu" else 64
        return cls(model.eval(), tokenizer, batch_size=batch_size, context_length=context_length)

    @property
    def threads(self) -> int:
        """Torch's threads on the CPU."""
        return torch.get_num_threads()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        with encoding():
            return list(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in token_ids]

    def _try_loop(self) -> None:
        """Compare the loop with the model's own forward, on two rows of different lengths, each fed in two parts."""
        rows = [[(7 * i + 3) % self.model.config.get_text_config().vocab_size for i in range(n)] for n in (14, 5)]
        cuts = (9, 2)
        name = type(self.model).__name__
        try:
            with self.open(2) as batch:
                expected = [self.model(input_ids=batch.tensor([row])).logits[0, -1].float() for row in rows]
                cache = RaggedCache(batch.layers)
                batch.forward(cache, [row[:cut] for row, cut in zip(rows, cuts, strict=True)], [0, 0])
                logits = batch.forward(cache, [row[cut:] for row, cut in zip(rows, cuts, strict=True)], cuts)
        except Exception as error:  # any architecture's forward may raise anything
            raise StudentError(
                f"the decode loop cannot drive {name}: {type(error).__name__}: {error}", INSTEAD
            ) from error
        difference = float(((logits - torch.stack(expected)).abs().amax(-1) / torch.stack(expected).std(-1)).max())
        if not difference < _TOLERANCE:
            raise StudentError(
                f"the decode loop cannot drive {name}: logits are off by {difference:.2g} standard deviations",
                INSTEAD,
            )

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
        self.layers = engine.model.config.get_text_config().num_hidden_layers
        self._device = engine.model.device
        self._size = size
        self._cache: RaggedCache | None = None
        self._lengths = [0] * size
        self._unfed: list[list[int]] = [[] for _ in range(size)]  # the last sampled token, not in the cache yet

    def extend(self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling) -> list[Generation]:
        generated = dict(self.stream(rows, token_ids, sampling))
        return [generated[row] for row in rows]

    def stream(
        self, rows: Sequence[int], token_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        """See `StreamingConversations.stream`."""
        inputs = [self._unfed[row] + list(ids) for row, ids in zip(rows, token_ids, strict=True)]
        if self._cache is None:
            cache, logits = self._prefill_prompts(rows, inputs)
        else:
            cache = self._cache.take(self.tensor(rows))
            logits = self.forward(cache, inputs, [self._lengths[row] for row in rows])
        for row, ids in zip(rows, inputs, strict=True):
            self._lengths[row] += len(ids)
        yield from self._decode(rows, cache, logits, sampling)

    def _prefill_prompts(self, rows: Sequence[int], prompts: list[list[int]]) -> tuple[RaggedCache, torch.Tensor]:
        """Prefill each distinct prompt once and copy its cache to all rows that start with it."""
        if len(set(rows)) != self._size:
            raise ValueError("the first call of a batch must contain the prompt of every conversation")
        distinct = sorted(dict.fromkeys(map(tuple, prompts)), key=len)  # similar lengths together: little padding
        index = {prompt: i for i, prompt in enumerate(distinct)}
        slots = -(-(len(distinct[-1]) + 1) // 64) * 64
        step = max(1, _PREFILL_TOKENS // len(distinct[-1]))
        caches, logits = [], []
        for start in range(0, len(distinct), step):
            chunk = distinct[start : start + step]
            caches.append(RaggedCache(self.layers, slots))
            logits.append(self.forward(caches[-1], chunk, [0] * len(chunk)))
        spread = self.tensor([index[tuple(prompt)] for prompt in prompts])
        cache = concatenated(caches).take(spread)
        self._cache = cache.take(self.tensor(sorted(range(self._size), key=rows.__getitem__)))
        return cache, torch.cat(logits)[spread]

    def forward(self, cache: RaggedCache, inputs: Sequence[Sequence[int]], starts: Sequence[int]) -> torch.Tensor:
        """Feed rows of different lengths, right-aligned, starting at each row's own position.

        Returns the logits after each row's last token, [rows, vocabulary].
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
        mask = attention_mask(self._engine.windows, slots, cache.span, self._engine.model.dtype)
        output = self._engine.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _decode(
        self, rows: Sequence[int], cache: RaggedCache, logits: torch.Tensor, sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        assert self._cache is not None
        generated: list[list[int]] = [[] for _ in rows]
        decoded = list(range(len(rows)))  # indices into `rows`, in the order of the cache's rows
        alive = [True] * len(rows)
        for step in range(sampling.max_new_tokens):
            chosen = _choose(logits, sampling.temperature)
            tokens = chosen.tolist()
            for index, token in zip(decoded, tokens, strict=True):
                if not alive[index]:
                    continue
                generated[index].append(token)
                finished = token in self._engine.end_ids
                full = self._lengths[rows[index]] + 1 >= self._engine.context_length
                alive[index] = not (finished or full or step == sampling.max_new_tokens - 1)
                if not alive[index]:
                    self._unfed[rows[index]] = [token]
                    yield rows[index], Generation(generated[index], finished)
            keep = [i for i, index in enumerate(decoded) if alive[index]]
            if not keep:
                break
            if len(keep) < _COMPACT_BELOW * len(decoded):
                selection = self.tensor(keep)
                self._cache.put(self.tensor([rows[index] for index in decoded]), cache)
                cache, chosen = cache.take(selection), chosen[selection]
                decoded = [decoded[i] for i in keep]
            starts = self.tensor([self._lengths[rows[index]] for index in decoded])
            logits = self._step(cache, chosen[:, None], starts[:, None], starts[:, None] + 1)
            for index in decoded:
                if alive[index]:
                    self._lengths[rows[index]] += 1
        self._cache.put(self.tensor([rows[index] for index in decoded]), cache)

    def tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token per row of [rows, vocabulary].

    Raises: EngineError when the logits of a row are not finite.
    """
    # A NaN or an infinity is the largest value of its row, so checking this one is enough.
    largest, best = logits.max(-1)
    if not largest.isfinite().all():
        raise EngineError(
            "the model computes logits that are not finite",
            "its weights are damaged, or it diverged in training: copy or train it again",
        )
    if temperature == 0:
        return best
    return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
