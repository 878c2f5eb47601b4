"""The outputs of an export's source in transformers: token ids, rendered conversations, logits and greedy turns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mentor_edge.chat import ChatTemplate
from mentor_edge.engines.base import Generation
from mentor_edge.errors import ExportError, StudentError
from mentor_edge.model_directory import stored_entry, stored_template
from mentor_edge.tool_calls import ParsedTurn, parse_turn

from .corpus import PROBES, TEXTS, Probe

TOLERANCE = 1e-3
"""Largest accepted difference of a logit between float32 implementations, which add in different orders. Layout errors
exceed 0.1."""
TABLE_TOLERANCE = 5e-3
"""The same for a model with GELU in llama.cpp, which looks GELU up in a table of 16-bit floats. If 16-bit GELU changes
the source's logits by more than half of this, the limit is twice that change."""
POSITIONS = 200
"""Number of random tokens whose logits are compared strictly, and the fewest positions to measure a divergence on."""
CONVERSATIONS, CONTEXT, SCORED = 8, 1024, 64
"""A divergence is measured on at most `CONVERSATIONS` conversations: on the last `SCORED` tokens of each, after at most
`CONTEXT` tokens. The stored logits are the cost: 300 MB for a vocabulary of 151,936."""
PROMPTS, NEW_TOKENS = 4, 48
"""Number of turns that are generated greedily, and the most tokens in each."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens, and the source's logits after the last of them: `[positions, vocabulary]`."""

    token_ids: list[int]
    logits: Logits


@dataclass(frozen=True, slots=True)
class Turn:
    """The source's greedy turn after `prompt`. `leads` is the margin of each token's logit over the second largest."""

    prompt: list[int]
    generation: Generation
    leads: list[float]
    parsed: ParsedTurn


@dataclass(frozen=True)
class ExpectedOutputs:
    """The outputs of a Hugging Face directory, computed in float32 with eager attention."""

    source: Path
    """The directory."""
    llama_cpp_tolerance: float
    """Largest accepted difference of a logit for float32 files in llama.cpp."""
    eos_token: str
    """The tokenizer's end token."""
    end_ids: frozenset[int]
    """Ids of the tokens that end a turn."""
    template: ChatTemplate | None
    """The chat template, if there is one."""
    texts: list[str]
    """The corpus."""
    token_ids: list[list[int]]
    """Ids of each text."""
    decoded: list[str]
    """The text that these ids decode to."""
    random: Scored
    """Seeded random tokens."""
    scored: list[Scored]
    """Texts to measure divergences on."""
    turns: list[Turn]
    """Greedy turns."""

    @classmethod
    def of(cls, model_dir: Path, conversations: Sequence[Sequence[int]] = ()) -> ExpectedOutputs:
        """Run the source.

        `conversations` are token ids of rendered conversations of the kind that the model is made for. If they have
        fewer than 200 positions to score, the random tokens are scored too. Texts are NFC-normalized first if the
        tokenizer does that, because llama.cpp does not.

        Raises: ExportError (stage template) when our renderer and transformers render a probe differently, or when the
        logits are not finite; StudentError when the model cannot be loaded completely.
        """
        import torch
        from transformers import AutoTokenizer

        from mentor_edge.engines.torch.loading import end_ids_of, load_model

        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
        stored = stored_template(model_dir, stored_entry(model_dir))  # of several, the one that is shipped
        tokenizer.chat_template = None if stored is None else stored.source
        model = load_model(
            model_dir, tokenizer, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        config = model.config.get_text_config()
        limit = config.max_position_embeddings
        template = _checked_template(tokenizer)
        texts = corpus_texts(tokenizer, model.get_input_embeddings().num_embeddings)
        token_ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        # With a sliding window, every scored position must have earlier positions outside the window.
        window = min(getattr(config, "sliding_window", None) or 0, CONTEXT)
        random = _score(model, _random_tokens(tokenizer, min(POSITIONS + window, limit)), POSITIONS)
        if not np.isfinite(random.logits).all():
            raise ExportError(
                f"{model_dir} computes logits that are not finite", "the model diverged in training or is damaged"
            )
        context = min(CONTEXT, limit)
        scored = [_score(model, list(ids)[-context:], SCORED) for ids in conversations[:CONVERSATIONS]]
        if sum(len(item.logits) for item in scored) < POSITIONS:
            scored.append(random)
        end_ids = end_ids_of(model, tokenizer)
        prompts = _prompts(tokenizer, template, conversations) or [random.token_ids]
        context = min(CONTEXT, limit - NEW_TOKENS)
        return cls(
            source=Path(model_dir),
            llama_cpp_tolerance=_llama_cpp_tolerance(model, random),
            eos_token=tokenizer.eos_token or "",
            end_ids=end_ids,
            template=template,
            texts=texts,
            token_ids=token_ids,
            decoded=[_text(tokenizer, ids) for ids in token_ids],
            random=random,
            scored=scored,
            turns=[_turn(model, tokenizer, end_ids, ids[-context:]) for ids in prompts[:PROMPTS]],
        )

    @cached_property
    def guess_divergence(self) -> float:
        """The divergence, in nats, of the single distribution that fits all scored positions best: that of a file that
        knows the model's favourite tokens but does not read the text."""
        rows = [row for item in self.scored for row in item.logits]
        mean = np.zeros(len(rows[0]))
        negative_entropy = 0.0
        for row in rows:
            log_probabilities = log_softmax(row)
            probabilities = np.exp(log_probabilities)
            mean += probabilities / len(rows)
            negative_entropy += float(probabilities @ log_probabilities) / len(rows)
        return negative_entropy - float(mean @ np.log(np.maximum(mean, np.finfo(np.float64).tiny)))


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities at one position, `[vocabulary]`. In double precision, because the sum has that many terms."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def render(template: ChatTemplate, probe: Probe) -> str | None:
    """The text of a probe, or None if the template refuses it."""
    try:
        return template.render(probe.messages, probe.tools, add_generation_prompt=probe.add_generation_prompt)
    except StudentError:
        return None


def first_difference(left: str | None, right: str | None) -> str:
    """Where two texts differ, for an error message that ends in "from ..."."""
    if left is None or right is None:
        return "one is refused"
    start = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return f"character {start} on, {left[start : start + 40]!r} is {right[start : start + 40]!r}"


def _checked_template(tokenizer: Any) -> ChatTemplate | None:
    from mentor_edge.engines.torch.loading import template_of

    if not tokenizer.chat_template:
        return None
    template = template_of(tokenizer)
    for number, probe in enumerate(PROBES):
        ours, theirs = render(template, probe), _render_as_transformers(tokenizer, template, probe)
        if ours != theirs:
            raise ExportError(
                f"template: conversation {number} is rendered differently than by transformers: from"
                f" {first_difference(theirs, ours)}",
                "the template uses a feature that only transformers offers; please report it",
            )
    return template


def _render_as_transformers(tokenizer: Any, template: ChatTemplate, probe: Probe) -> str | None:
    from mentor_edge.engines.torch.limited_rendering import limited_rendering

    try:
        with limited_rendering():
            text: str = tokenizer.apply_chat_template(
                template.conversation(probe.messages),
                tools=list(probe.tools) or None,
                add_generation_prompt=probe.add_generation_prompt,
                tokenize=False,
            )
    except Exception:  # a template may raise anything
        return None
    return text


def corpus_texts(tokenizer: Any, rows: int) -> list[str]:
    """The corpus, and every added token in context, for a tokenizer and a model with `rows` embeddings."""
    texts = list(TEXTS)
    for number, token in tokenizer.added_tokens_decoder.items():
        # Text never contains Gemma's tokens for runs of spaces, and its token for images has no embedding.
        if "▁" in token.content or number >= rows:
            continue
        texts += [token.content, f"a{token.content}b", f"1 {token.content} \n{token.content}{token.content}"]
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is not None and normalizer.normalize_str("e\u0301") == "\u00e9":
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    return texts


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _random_tokens(tokenizer: Any, count: int) -> list[int]:
    added = set(tokenizer.added_tokens_decoder)
    normal = [i for i in sorted(tokenizer.get_vocab().values()) if i not in added]
    return [int(i) for i in np.random.default_rng(0).choice(normal, count)]


def _score(model: Any, ids: list[int], last: int) -> Scored:
    import torch

    with torch.inference_mode():
        return Scored(ids, model(torch.tensor([ids]), logits_to_keep=last).logits[0].numpy())


def _llama_cpp_tolerance(model: Any, random: Scored) -> float:
    from transformers.activations import GELUTanh

    tables = [module for module in model.modules() if isinstance(module, GELUTanh)]
    if not tables:
        return TOLERANCE
    hooks = [module.register_forward_pre_hook(lambda _, inputs: (inputs[0].half().float(),)) for module in tables]
    hooks += [module.register_forward_hook(lambda _, inputs, output: output.half().float()) for module in tables]
    rounded = _score(model, random.token_ids, len(random.logits))
    for hook in hooks:
        hook.remove()
    return max(TABLE_TOLERANCE, 2 * float(np.abs(rounded.logits - random.logits).max()))


def _prompts(tokenizer: Any, template: ChatTemplate | None, conversations: Sequence[Sequence[int]]) -> list[list[int]]:
    """The conversations up to the model's first turn or, if none has one, the probes that end before a model turn."""
    if template is None:
        return []
    prompting = [probe for probe in PROBES if probe.add_generation_prompt and render(template, probe) is not None]
    texts = [render(template, probe) or "" for probe in prompting]
    before = render(template, replace(prompting[0], add_generation_prompt=False)) or ""
    opening = tokenizer.encode(texts[0].removeprefix(before), add_special_tokens=False)
    return list(_up_to(opening, conversations)) or [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def _up_to(opening: list[int], conversations: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    for ids in conversations:
        for end in range(len(opening), len(ids) + 1):
            if list(ids[end - len(opening) : end]) == opening:
                yield list(ids[:end])
                break


def _turn(model: Any, tokenizer: Any, end_ids: frozenset[int], prompt: list[int]) -> Turn:
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor([prompt])
    # The model's own settings may sample or penalize repetition.
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=sorted(end_ids) or None, pad_token_id=0
    )
    output = model.generate(ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True)
    generated = output.sequences[0, len(prompt) :].tolist()
    best, second = torch.cat(output.logits).topk(2).values.T
    finished = generated[-1] in end_ids
    parsed = parse_turn(_text(tokenizer, generated[:-1] if finished else generated))
    return Turn(prompt, Generation(generated, finished), (best - second).tolist(), parsed)
