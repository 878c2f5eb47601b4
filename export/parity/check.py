"""Does an exported file compute what its source computes? Compares template, tokens, logits and turns in the
real runtime.

`ExpectedOutputs.of` runs the source once. `check_conversion` then compares a float32 file strictly, and
`check_quantized` measures how far a quantized file deviates. A failure names its stage: template, tokenizer,
conversion or quantization.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mentor_edge.engines.base import Generation, Sampling
from mentor_edge.engines.llama_cpp.engine import LlamaCppEngine
from mentor_edge.engines.onnx.engine import OnnxEngine
from mentor_edge.errors import EngineError, ExportError
from mentor_edge.messages import ToolCall
from mentor_edge.results import ConversionParity, QuantizedParity, TextParity, TurnParity
from mentor_edge.tool_calls import ParsedTurn, parse_turn

from .corpus import PROBES
from .expected import NEW_TOKENS, PROMPTS, TOLERANCE, ExpectedOutputs, Logits, first_difference, log_softmax, render

__all__ = ["ExpectedOutputs", "check", "check_conversion", "check_quantized"]

EIGHT_BITS = frozenset({"f32", "f16", "bf16", "q8_0", "fp32", "int8"})
"""The quantizations of eight bits and more."""
MAX_DIVERGENCE, MIN_TOP1 = 0.1, 0.8
"""Limits for these quantizations. Models with random weights are a hard case, because many tokens are almost equally
likely; the worst of five families and two formats kept 0.004 nats and 88%. A layer of zeros costs 0.3 to 1.9 nats."""

ExportedEngine = LlamaCppEngine | OnnxEngine
_Turns = list[tuple[Generation, ParsedTurn]]
_EXPORT_AGAIN = "export the model again; if that does not help, please report its architecture"


def check(source: Path | ExpectedOutputs, path: Path) -> ConversionParity:
    """Run `check_conversion` on a float32 GGUF file or ONNX directory, with llama.cpp set to compute in float32.

    `source` is a model directory, or its outputs if they were computed already.

    Raises: ExportError, EngineError.
    """
    with OnnxEngine(path) if path.is_dir() else LlamaCppEngine(path, kv="f32", batch_size=PROMPTS) as engine:
        return check_conversion(source if isinstance(source, ExpectedOutputs) else ExpectedOutputs.of(source), engine)


def check_conversion(expected: ExpectedOutputs, engine: ExportedEngine) -> ConversionParity:
    """Compare a float32 file with its source. Stages, in order:

    - tokenizer: the end tokens;
    - template: stored byte for byte, and rendered to the same text for every probe;
    - tokenizer: the ids of every text of the corpus and of every added token in context, and the text of these ids;
    - conversion: the logits of random tokens differ by at most 1e-3 (Gemma 3 in llama.cpp: 5e-3) and agree on the
      likeliest token wherever the source prefers one by more than that; every greedy turn equals the source's until
      the source's two likeliest tokens are that close.

    llama.cpp must run with an F32 cache and without flash attention: each costs 1e-2.

    Raises: ExportError naming the stage and the first difference; EngineError when the runtime fails.
    """
    text = _check_text(expected, engine)
    tolerance = expected.llama_cpp_tolerance if isinstance(engine, LlamaCppEngine) else TOLERANCE
    logits = expected.random.logits
    actual = engine.logits(expected.random.token_ids, last=len(logits))
    _check_shape("conversion", actual, logits)
    difference = np.abs(actual - logits)
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    same = (actual.argmax(1) == logits.argmax(1))[best - second > tolerance]
    top1 = float(same.mean()) if same.size else 1.0
    # `not <=` also catches NaN.
    if not difference.max() <= tolerance or top1 < 1:
        raise ExportError(
            f"conversion: logits differ by up to {difference.max():.2g} (mean {difference.mean():.2g}, limit"
            f" {tolerance:g}) and agree on the likeliest token at {top1:.1%} of {len(same)} positions"
            f" between {engine.path} and {expected.source}",
            "the file belongs to another model, or does not compute what the model computes: " + _EXPORT_AGAIN,
        )
    turns = _greedy_turns(expected, engine)
    for number, (generation, _) in enumerate(turns):
        _check_turn(expected, number, generation, engine, tolerance)
    return ConversionParity(
        text=text,
        turns=_turn_parity(expected, turns),
        positions=len(actual),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        top1_agreement=top1,
    )


def check_quantized(expected: ExpectedOutputs, engine: ExportedEngine, kind: str | None = None) -> QuantizedParity:
    """Measure a quantized file against its source, on the positions and turns of the expected outputs.

    Template and tokenizer are checked as in `check_conversion`. The stage quantization fails if logits are not finite,
    or if the divergence is as large as that of a guess that does not read the text: the file is then broken, or belongs
    to another model. `kind` is the quantization's name ("q8_0", "int4"). Quantizations of eight bits and more
    (`EIGHT_BITS`) must also stay within 0.1 nats on average and keep the likeliest token at 80% of the positions.

    The gate decides the rest: a divergence measures how far a file deviates, not whether it lost a skill, and no single
    limit fits two, four and six bits.

    Raises: ExportError naming the stage; EngineError when the runtime fails.
    """
    text = _check_text(expected, engine)
    divergences: list[float] = []
    same: list[bool] = []
    for item in expected.scored:
        actual = engine.logits(item.token_ids, last=len(item.logits))
        _check_shape("quantization", actual, item.logits)
        if not np.isfinite(actual).all():
            raise ExportError(f"quantization: {engine.path} computes logits that are not finite", _EXPORT_AGAIN)
        same += (actual.argmax(1) == item.logits.argmax(1)).tolist()
        divergences += [_divergence(*rows) for rows in zip(item.logits, actual, strict=True)]
    mean, guess, top1 = float(np.mean(divergences)), expected.guess_divergence, float(np.mean(same))
    measured = f"{engine.path} diverges from {expected.source} by {mean:.3g} nats and agrees at {top1:.1%} of positions"
    if not mean < guess:
        raise ExportError(
            f"quantization: {measured}; a guess that does not read the text diverges by {guess:.3g}",
            "leave this type out or choose one with more bits; if eight bits fail too, the file is broken",
        )
    if kind in EIGHT_BITS and not (mean <= MAX_DIVERGENCE and top1 >= MIN_TOP1):
        raise ExportError(
            f"quantization: {measured}; {kind} must keep {MAX_DIVERGENCE} nats and {MIN_TOP1:.0%}", _EXPORT_AGAIN
        )
    return QuantizedParity(
        text=text,
        turns=_turn_parity(expected, _greedy_turns(expected, engine)),
        positions=len(same),
        kl_mean=mean,
        kl_p99=float(np.quantile(divergences, 0.99)),
        kl_guess=guess,
        top1_agreement=top1,
    )


def _check_text(expected: ExpectedOutputs, engine: ExportedEngine) -> TextParity:
    """Stages template and tokenizer. The end tokens come first: a template cannot be rendered without them."""
    if expected.eos_token != engine.eos_token:
        raise ExportError(
            f"tokenizer: the end token is {expected.eos_token!r} in {expected.source}, {engine.eos_token!r} in"
            f" {engine.path}",
            _EXPORT_AGAIN,
        )
    if unknown := sorted(expected.end_ids - engine.end_ids):
        raise ExportError(
            f"tokenizer: {expected.source} stops at {unknown}, {engine.path} does not",
            "make the token that ends a turn the tokenizer's eos_token",
        )
    _check_template(expected, engine)
    _check_tokens(expected, engine)
    return TextParity(
        template_sha256=None if expected.template is None else expected.template.sha256,
        rendered_cases=0 if expected.template is None else len(PROBES),
        token_cases=len(expected.texts),
        extra_end_tokens=tuple(engine.decode([[token] for token in sorted(engine.end_ids - expected.end_ids)])),
    )


def _check_template(expected: ExpectedOutputs, engine: ExportedEngine) -> None:
    try:
        stored = engine.template
    except EngineError as error:
        if expected.template is None:
            return
        raise ExportError(f"template: {error.problem}", _EXPORT_AGAIN) from error
    if expected.template is None or stored.source != expected.template.source:
        raise ExportError(f"template: {engine.path} stores a different template than {expected.source}", _EXPORT_AGAIN)
    for number, probe in enumerate(PROBES):
        ours, theirs = render(stored, probe), render(expected.template, probe)
        if ours != theirs:
            raise ExportError(
                f"template: {engine.path} renders conversation {number} differently: from"
                f" {first_difference(theirs, ours)}",
                _EXPORT_AGAIN,
            )


def _check_tokens(expected: ExpectedOutputs, engine: ExportedEngine) -> None:
    for text, ours, theirs in zip(expected.texts, expected.token_ids, engine.encode(expected.texts), strict=True):
        if ours != theirs:
            raise ExportError(
                f"tokenizer: {text!r} is {ours} in {expected.source} and {theirs} in {engine.path}",
                "the model would see other tokens: the file belongs to another model, or cannot store this tokenizer",
            )
    decoded = engine.decode(expected.token_ids)
    for ids, text, actual in zip(expected.token_ids, expected.decoded, decoded, strict=True):
        if text != actual:
            raise ExportError(
                f"tokenizer: {ids} decodes to {text!r} in {expected.source} and to {actual!r} in {engine.path}",
                _EXPORT_AGAIN,
            )


def _check_shape(stage: str, actual: Logits, expected: Logits) -> None:
    if actual.shape != expected.shape:
        raise ExportError(f"{stage}: the logits have shape {actual.shape} instead of {expected.shape}", _EXPORT_AGAIN)


def _divergence(expected: Logits, actual: Logits) -> float:
    """KL(expected || actual) in nats, at one position."""
    log_probabilities = log_softmax(expected)
    return float(np.exp(log_probabilities) @ (log_probabilities - log_softmax(actual)))


def _greedy_turns(expected: ExpectedOutputs, engine: ExportedEngine) -> _Turns:
    """The engine's greedy turns after the expected outputs' prompts."""
    prompts = [turn.prompt for turn in expected.turns]
    generations: list[Generation] = []
    for start in range(0, len(prompts), engine.batch_size):
        wave = prompts[start : start + engine.batch_size]
        with engine.open(len(wave)) as batch:
            generations += batch.extend(range(len(wave)), wave, Sampling(NEW_TOKENS))
    texts = engine.decode([g.token_ids[:-1] if g.finished else g.token_ids for g in generations])
    return [(generation, parse_turn(text)) for generation, text in zip(generations, texts, strict=True)]


def _check_turn(
    expected: ExpectedOutputs, number: int, generation: Generation, engine: ExportedEngine, tolerance: float
) -> None:
    """The file must generate the same tokens until the two likeliest are too close to call, or until an end token that
    only this runtime knows."""
    turn = expected.turns[number]
    wanted, actual = turn.generation.token_ids, generation.token_ids
    index = next((i for i, (a, b) in enumerate(zip(wanted, actual, strict=False)) if a != b), len(actual))
    stopped = index == len(actual) and generation.finished
    if wanted == actual or stopped or (index < len(wanted) and turn.leads[index] <= 2 * tolerance):
        return
    raise ExportError(
        f"conversion: after prompt {number}, {engine.path} generates {actual[: index + 1][-8:]} instead of"
        f" {wanted[: index + 1][-8:]} as {expected.source} at token {index}",
        "the logits of a whole text agree, but those of step-by-step decoding do not: the runtime's cache is at fault; "
        + _EXPORT_AGAIN,
    )


def _turn_parity(expected: ExpectedOutputs, turns: _Turns) -> TurnParity:
    pairs = list(zip(expected.turns, turns, strict=True))
    stops = [turn.generation.finished == generation.finished for turn, (generation, _) in pairs]
    calls = [_calls(turn.parsed) == _calls(parsed) for turn, (_, parsed) in pairs]
    return TurnParity(
        turns=len(pairs),
        ended=sum(turn.generation.finished for turn in expected.turns),
        with_calls=sum(bool(turn.parsed.message.tool_calls) for turn in expected.turns),
        stop_agreement=sum(stops) / len(pairs),
        calls_agreement=sum(calls) / len(pairs),
    )


def _calls(turn: ParsedTurn) -> tuple[tuple[ToolCall, ...], bool]:
    return turn.message.tool_calls, turn.malformed
