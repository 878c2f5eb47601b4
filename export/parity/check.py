"""Does an exported file compute what its source computes? Template, tokens, logits and turns, on the real runtime.

`Reference.of` asks the source once. `check_conversion` then holds a float32 file to it strictly, `check_quantized`
measures how far a quantized one has moved. A failure names its stage: template, tokenizer, conversion or quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.messages import ToolCall
from mentor_edge.tool_calls import ParsedTurn, parse_turn

from .corpus import PROBES
from .expected import NEW_TOKENS, PROMPTS, TOLERANCE, Logits, Reference, first_difference, log_softmax, render

__all__ = ["ConversionParity", "QuantizedParity", "Reference", "check", "check_conversion", "check_quantized"]

EIGHT_BITS = frozenset({"f32", "f16", "bf16", "q8_0", "fp32", "int8"})
"""The quantizations of eight bits and more."""
MAX_DIVERGENCE, MIN_TOP1 = 0.1, 0.8
"""What these must keep. Models with random weights, whose many likely tokens are a hard case, kept 0.004 nats and 88%
in the worst of five families and two formats; a layer of zeros costs 0.3 to 1.9 nats."""

ExportedEngine = LlamaCppEngine | OnnxEngine
_Said = list[tuple[Generation, ParsedTurn]]
_AGAIN = "export the model again; if that does not help, please report its architecture"


@dataclass(frozen=True, slots=True)
class TextParity:
    """What template and tokenizer were compared on. `extra_end_tokens` end a turn in this runtime and not in the source
    (llama.cpp adds some by their names)."""

    template_sha256: str | None
    rendered_cases: int
    token_cases: int
    extra_end_tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TurnParity:
    """How greedy turns went. `ended` and `with_calls` are counts of the source's turns; `stop_agreement` is the share
    that the file ended, or did not, as the source, `calls_agreement` that in which the one parser found the same."""

    turns: int
    ended: int
    with_calls: int
    stop_agreement: float
    calls_agreement: float


@dataclass(frozen=True, slots=True)
class ConversionParity:
    """Differences of raw logits over `positions` positions and the whole vocabulary. `top1_agreement` is over the
    positions where the source prefers one token by more than the tolerance."""

    text: TextParity
    turns: TurnParity
    positions: int
    max_difference: float
    mean_difference: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class QuantizedParity:
    """KL(source || file) in nats over `positions` positions, its 99th percentile, and `kl_guess`, which a guess reaches
    that does not read the text; the share of positions with the same likeliest token."""

    text: TextParity
    turns: TurnParity
    positions: int
    kl_mean: float
    kl_p99: float
    kl_guess: float
    top1_agreement: float


def check(source: Path | Reference, path: Path) -> ConversionParity:
    """`check_conversion` of a float32 GGUF file or ONNX directory, with llama.cpp set to compute in float32.

    `source` is a model directory, or what is known of one already.

    Raises: ExportError, EngineError.
    """
    with OnnxEngine(path) if path.is_dir() else LlamaCppEngine(path, kv="f32", batch_size=PROMPTS) as engine:
        return check_conversion(source if isinstance(source, Reference) else Reference.of(source), engine)


def check_conversion(reference: Reference, engine: ExportedEngine) -> ConversionParity:
    """Compare a float32 file with its source. Stages, in order:

    - tokenizer: the end tokens;
    - template: stored byte for byte, and rendered to the same text for every probe;
    - tokenizer: the ids of every text of the corpus and of every added token in context, and the text of these ids;
    - conversion: the logits of random tokens differ by at most 1e-3 (Gemma 3 in llama.cpp: 5e-3), and name the same
      likeliest token wherever the source prefers one by more than that; every greedy turn goes as the source's does
      until two tokens lie that close.

    llama.cpp must run with an F32 cache and without flash attention: each costs 1e-2.

    Raises: ExportError naming the stage and the first difference; EngineError when the runtime fails.
    """
    text = _check_text(reference, engine)
    tolerance = reference.llama_cpp_tolerance if isinstance(engine, LlamaCppEngine) else TOLERANCE
    expected = reference.random.logits
    actual = engine.logits(reference.random.token_ids, last=len(expected))
    _check_shape("conversion", actual, expected)
    difference = np.abs(actual - expected)
    second, best = np.partition(expected, -2, axis=1)[:, -2:].T
    same = (actual.argmax(1) == expected.argmax(1))[best - second > tolerance]
    top1 = float(same.mean()) if same.size else 1.0
    # `not <=` also catches NaN.
    if not difference.max() <= tolerance or top1 < 1:
        raise ExportError(
            f"conversion: logits differ by up to {difference.max():.2g} (mean {difference.mean():.2g}, limit"
            f" {tolerance:g}) and agree on the likeliest token at {top1:.1%} of {len(same)} positions"
            f" between {engine.path} and {reference.source}",
            "the file is another model's, or does not compute what the model computes: " + _AGAIN,
        )
    said = _say(reference, engine)
    for number, (generation, _) in enumerate(said):
        _check_turn(reference, number, generation, engine, tolerance)
    turns, mean = _turn_parity(reference, said), float(difference.mean())
    return ConversionParity(text, turns, len(actual), float(difference.max()), mean, top1)


def check_quantized(reference: Reference, engine: ExportedEngine, kind: str | None = None) -> QuantizedParity:
    """Measure a quantized file against its source, on the positions and turns that the reference holds.

    Template and tokenizer are checked as in `check_conversion`. The stage quantization fails when logits are not
    finite, and when the divergence reaches that of a guess which does not read the text: the file is broken, or another
    model's. `kind` is the quantization's name ("q8_0", "int4"); those of eight bits and more (`EIGHT_BITS`) must also
    stay within 0.1 nats on average, and keep the likeliest token at 80% of the positions.

    Everything else is for the gate to judge by what the file can do: a divergence says how far a file has moved, not
    whether it lost a skill, and no limit on it fits two, four and six bits.

    Raises: ExportError naming the stage; EngineError when the runtime fails.
    """
    text = _check_text(reference, engine)
    divergences: list[float] = []
    same: list[bool] = []
    for item in reference.scored:
        actual = engine.logits(item.token_ids, last=len(item.logits))
        _check_shape("quantization", actual, item.logits)
        if not np.isfinite(actual).all():
            raise ExportError(f"quantization: {engine.path} computes logits that are not finite", _AGAIN)
        same += (actual.argmax(1) == item.logits.argmax(1)).tolist()
        divergences += [_divergence(*rows) for rows in zip(item.logits, actual, strict=True)]
    mean, guess, top1 = float(np.mean(divergences)), reference.guess_divergence, float(np.mean(same))
    seen = f"{engine.path} diverges from {reference.source} by {mean:.3g} nats and agrees at {top1:.1%} of positions"
    if not mean < guess:
        raise ExportError(
            f"quantization: {seen}; a guess that reads no text diverges by {guess:.3g}",
            "leave this type out or take one with more bits; if eight bits fail too, the file is broken",
        )
    if kind in EIGHT_BITS and not (mean <= MAX_DIVERGENCE and top1 >= MIN_TOP1):
        raise ExportError(f"quantization: {seen}; {kind} must keep {MAX_DIVERGENCE} nats and {MIN_TOP1:.0%}", _AGAIN)
    turns, p99 = _turn_parity(reference, _say(reference, engine)), float(np.quantile(divergences, 0.99))
    return QuantizedParity(text, turns, len(same), mean, p99, guess, top1)


def _check_text(reference: Reference, engine: ExportedEngine) -> TextParity:
    """Stages template and tokenizer. The end tokens come first, because a template cannot be rendered without."""
    if reference.eos_token != engine.eos_token:
        raise ExportError(
            f"tokenizer: the end token is {reference.eos_token!r} in {reference.source}, {engine.eos_token!r} in"
            f" {engine.path}",
            _AGAIN,
        )
    if unknown := sorted(reference.end_ids - engine.end_ids):
        raise ExportError(
            f"tokenizer: {reference.source} stops at {unknown}, where {engine.path} goes on",
            "make the token that ends a turn the tokenizer's eos_token",
        )
    _check_template(reference, engine)
    _check_tokens(reference, engine)
    extra = engine.decode([[token] for token in sorted(engine.end_ids - reference.end_ids)])
    if reference.template is None:
        return TextParity(None, 0, len(reference.texts), tuple(extra))
    return TextParity(reference.template.sha256, len(PROBES), len(reference.texts), tuple(extra))


def _check_template(reference: Reference, engine: ExportedEngine) -> None:
    try:
        stored = engine.template
    except EngineError as error:
        if reference.template is None:
            return
        raise ExportError(f"template: {error.problem}", _AGAIN) from error
    if reference.template is None or stored.source != reference.template.source:
        raise ExportError(f"template: {engine.path} stores another than {reference.source} has", _AGAIN)
    for number, probe in enumerate(PROBES):
        ours, theirs = render(stored, probe), render(reference.template, probe)
        if ours != theirs:
            raise ExportError(
                f"template: {engine.path} renders conversation {number} otherwise: from"
                f" {first_difference(theirs, ours)}",
                _AGAIN,
            )


def _check_tokens(reference: Reference, engine: ExportedEngine) -> None:
    for text, ours, theirs in zip(reference.texts, reference.token_ids, engine.encode(reference.texts), strict=True):
        if ours != theirs:
            raise ExportError(
                f"tokenizer: {text!r} is {ours} in {reference.source} and {theirs} in {engine.path}",
                "the model would see other tokens: the file is another model's, or cannot hold this tokenizer",
            )
    read = engine.decode(reference.token_ids)
    for ids, text, other in zip(reference.token_ids, reference.decoded, read, strict=True):
        if text != other:
            raise ExportError(
                f"tokenizer: {ids} reads {text!r} in {reference.source} and {other!r} in {engine.path}", _AGAIN
            )


def _check_shape(stage: str, actual: Logits, expected: Logits) -> None:
    if actual.shape != expected.shape:
        raise ExportError(f"{stage}: the logits have shape {actual.shape}, transformers' {expected.shape}", _AGAIN)


def _divergence(reference: Logits, other: Logits) -> float:
    """KL(reference || other) in nats, of one position."""
    expected = log_softmax(reference)
    return float(np.exp(expected) @ (expected - log_softmax(other)))


def _say(reference: Reference, engine: ExportedEngine) -> _Said:
    """The engine's own turns after the reference's prompts."""
    prompts = [turn.prompt for turn in reference.turns]
    generations: list[Generation] = []
    for start in range(0, len(prompts), engine.batch_size):
        wave = prompts[start : start + engine.batch_size]
        with engine.open(len(wave)) as batch:
            generations += batch.extend(range(len(wave)), wave, Sampling(NEW_TOKENS))
    texts = engine.decode([g.token_ids[:-1] if g.finished else g.token_ids for g in generations])
    return [(generation, parse_turn(text)) for generation, text in zip(generations, texts, strict=True)]


def _check_turn(
    reference: Reference, number: int, generation: Generation, engine: ExportedEngine, tolerance: float
) -> None:
    """The file must say the same until two tokens lie too close to call, or an end token comes that it alone has."""
    turn = reference.turns[number]
    expected, actual = turn.generation.token_ids, generation.token_ids
    place = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), len(actual))
    stopped = place == len(actual) and generation.finished
    if expected == actual or stopped or (place < len(expected) and turn.leads[place] <= 2 * tolerance):
        return
    raise ExportError(
        f"conversion: decoding prompt {number}, {engine.path} says {actual[: place + 1][-8:]} and {reference.source}"
        f" {expected[: place + 1][-8:]} at token {place}",
        "the logits of a whole text agree, those of token after token do not: the runtime's cache is at fault; "
        + _AGAIN,
    )


def _turn_parity(reference: Reference, said: _Said) -> TurnParity:
    pairs = list(zip(reference.turns, said, strict=True))
    stops = [turn.generation.finished == generation.finished for turn, (generation, _) in pairs]
    calls = [_calls(turn.parsed) == _calls(parsed) for turn, (_, parsed) in pairs]
    return TurnParity(
        turns=len(pairs),
        ended=sum(turn.generation.finished for turn in reference.turns),
        with_calls=sum(bool(turn.parsed.message.tool_calls) for turn in reference.turns),
        stop_agreement=sum(stops) / len(pairs),
        calls_agreement=sum(calls) / len(pairs),
    )


def _calls(turn: ParsedTurn) -> tuple[tuple[ToolCall, ...], bool]:
    return turn.message.tool_calls, turn.malformed
