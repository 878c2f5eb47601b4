r"""Whether two LaTeX formulas mean the same.

math-verify (https://github.com/huggingface/math-verify) compares them; it and sympy are imported at the first
comparison that needs them. Sympy computes every expression it is given, however long that takes. Formulas are therefore
measured first, and those with powers, factorials or products that grow out of bounds never reach it. In the main thread
a timer also stops formulas that are slow all the same; in other threads the measure is the only protection.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_LONGEST = 300
_SECONDS = 3.0
_TOLERANCE = 1e-6

# Sums, integrals and limits are left out: the text gives no bound for the time to evaluate them.
_COMMANDS = frozenset({
    r"\frac", r"\sqrt", r"\pi", r"\cdot", r"\times", r"\div", r"\pm", r"\infty", r"\cup", r"\cap", r"\setminus",
    r"\in", r"\le", r"\leq", r"\ge", r"\geq", r"\lt", r"\gt", r"\ne", r"\neq", r"\emptyset", r"\sin", r"\cos",
    r"\tan", r"\cot", r"\sec", r"\csc", r"\arcsin", r"\arccos", r"\arctan", r"\log", r"\ln", r"\mathbb",
    r"\begin", r"\end", r"\{", r"\}", r"\\",
})  # a table  # fmt: skip
_GREEK = frozenset({
    r"\alpha", r"\beta", r"\gamma", r"\delta", r"\epsilon", r"\theta", r"\lambda", r"\mu", r"\phi", r"\psi",
    r"\omega", r"\rho", r"\sigma", r"\tau",
})  # a table  # fmt: skip
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_PLAIN = re.compile(r"[A-Za-z0-9 .,+\-*/^_=<>()\[\]{}|!&\\]*")
_MATRIX = re.compile(r"\\(?:begin|end)\s*\{(?:[pbvBV]?matrix|array)\}")
_ONE_MATRIX = re.compile(r"\\begin\s*\{\w+\}(?:(?!\\begin|\\end).)*\\end\s*\{\w+\}", re.DOTALL)
_DIGITS = re.compile(r"\d+")
_BIG_FACTORIAL = re.compile(r"(?<!(?<!\d)\d)(?<!(?<!\d)1\d)!|!\s*!")
# math-verify drops the index of a number, which is its base.
_NUMBER_IN_BASE = re.compile(r"\d\s*[)}\]]{0,3}\s*_")
_ODD_ROOT = re.compile(r"\\sqrt\s*\[(?!\s*\d{1,2}\s*\])")
_RELATION = re.compile(r"[=<>]|\\[lg]e|\\[lg]t(?![A-Za-z])|\\ne")
_OPENING, _CLOSING = "([{", ")]}"

_WORD = re.compile(r"\\?[A-Za-z]+")
_SHORT_WORDS = frozenset({
    "and", "or", "by", "to", "of", "is", "if", "not", "per", "mod", "in", "at", "on", "no", "yes", "the", "an", "as",
    "vs", "for", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue",
    "wed", "thu", "fri", "sat", "sun",
})  # a table  # fmt: skip
_OPERATOR = re.compile(r"[\d\\^_=<>+*/|]")
# Numbers joined by dashes, slashes or colons are dates, scores, ranges and times, not arithmetic. "B12" is a name.
_NAMED = re.compile(r"\d+(?:[-:]\d+)+|\d+(?:/\d+){2,}|.*\d\s+\.?\d.*", re.DOTALL)
_NAME = re.compile(r"\\[A-Za-z]+|([A-Za-z]\d)")


class _TooSlow(BaseException):
    """Not an Exception: sympy and math-verify catch those."""


def is_formula(text: str) -> bool:
    """Whether a text may be mathematics, rather than words, a name or a date."""
    text = _MATRIX.sub(" ", text)
    if not _PLAIN.fullmatch(text) or _NAMED.fullmatch(text):
        return False
    words = [word for word in _WORD.findall(text) if word[0] != "\\"]
    if any(len(word) > 3 or word.lower() in _SHORT_WORDS for word in words):
        return False
    if any(match[1] for match in _NAME.finditer(text)):
        return False
    return _OPERATOR.search(text) is not None or ("-" in text and all(len(word) == 1 for word in words))


def symbolically_equal(first: str, second: str) -> bool:
    """Whether two LaTeX expressions mean the same. False if either cannot be read or would take too long.

    Order does not matter. Never raises.
    """
    if not (_is_bounded(first) and _is_bounded(second)):
        return False
    return _compared(*sorted((first, second)))


def clear_caches() -> None:
    """Forget all formulas compared so far, for measurements."""
    _compared.cache_clear()
    _parsed.cache_clear()


@functools.lru_cache(maxsize=8192)
def _compared(first: str, second: str) -> bool:
    try:
        _library()  # importing it takes seconds on a busy machine; do not charge them to the formula
        with _lock, _deadline(_SECONDS):
            left, right = _parsed(first), _parsed(second)
            return left is not None and right is not None and _same(left, right)
    except (_TooSlow, Exception):  # sympy raises nearly any exception on odd input
        return False


# The parser shares its tables between calls. Reentrant, because a caller's signal handler may compare answers too.
_lock = threading.RLock()


@functools.lru_cache(maxsize=1)
def _library() -> tuple[Any, Any, Any, Any]:
    """math-verify's `parse` and `verify` bound to our settings, and sympy's Float and Relational."""
    import math_verify
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    # It only logs that a timeout is disabled or was hit.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Units and number styles are handled before this. Its own clean-up would also drop lone letters as units.
    cleaning = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none")
    parse = functools.partial(
        math_verify.parse,
        extraction_config=[math_verify.LatexExtractionConfig(normalization_config=cleaning)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    # Without allow_set_relation_comp, 1 < x < 2 equals (1, 2) in one order only.
    verify = functools.partial(math_verify.verify, timeout_seconds=None, allow_set_relation_comp=True)
    return parse, verify, sympy.Float, sympy.core.relational.Relational


@functools.lru_cache(maxsize=4096)
def _parsed(latex: str) -> Any:
    expressions = _library()[0](f"${latex}$")
    return expressions[0] if expressions else None


def _same(first: Any, second: Any) -> bool:
    _, verify, inexact, relational = _library()
    left, right = _constant(first), _constant(second)
    if left is not None and right is not None and (first.has(inexact) or second.has(inexact)):
        return abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))
    if isinstance(first, relational) and isinstance(second, relational):
        return _same_relation(first, second)
    return bool(verify(first, second))


def _same_relation(first: Any, second: Any) -> bool:
    """Whether one is the other times a number.

    math-verify would solve them, and call any two without solutions equal.
    """
    import sympy

    larger = (sympy.StrictGreaterThan, sympy.GreaterThan)
    smaller = {sympy.StrictLessThan: larger[0], sympy.LessThan: larger[1]}
    kinds = [smaller.get(type(side), type(side)) for side in (first, second)]
    left, right = (side.rhs - side.lhs if type(side) in smaller else side.lhs - side.rhs for side in (first, second))
    ratio = sympy.simplify(left / right)
    return (
        kinds[0] is kinds[1] and bool(ratio.is_positive if kinds[0] in larger else ratio.is_nonzero) and ratio.is_number
    )


def _constant(expression: Any) -> complex | None:
    """The value of an expression without variables. None for all others, sets and matrices included."""
    if not getattr(expression, "is_number", False):
        return None
    value = complex(expression.doit().evalf())
    return value if math.isfinite(abs(value)) else None


def _is_bounded(latex: str) -> bool:
    """Whether sympy is sure to finish an expression soon, by a rough upper bound that needs only the text."""
    if (
        len(latex) > _LONGEST
        or not _PLAIN.fullmatch(latex)
        or _BIG_FACTORIAL.search(latex)
        or _NUMBER_IN_BASE.search(latex)
    ):
        return False
    bare = _MATRIX.sub(" ", latex)
    commands = _COMMAND.findall(bare)
    if not set(commands) <= _COMMANDS | _GREEK or len(commands) > 40:
        return False
    # Of what remains, trigonometric simplification is slowest; bars and subscripts are slow to parse.
    trigonometric = sum(bare.count(name) for name in (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc", r"\arc"))
    if trigonometric > 3 or bare.count("|") > 6 or bare.count("_") > 10:
        return False
    # Functions and powers of matrices take minutes, so a matrix must be the whole expression.
    if len(bare) < len(latex) and (trigonometric or not _ONE_MATRIX.fullmatch(latex)):
        return False
    if any(len(digits) > 40 for digits in _DIGITS.findall(bare)):
        return False
    # A factorial may be an exponent, and the index of a root is one too.
    if ("!" in bare and "^" in bare) or _ODD_ROOT.search(bare):
        return False
    shape = _groups(bare)
    if shape is None:
        return False
    sums, degree = shape
    variables = len(set(re.findall(r"[A-Za-z]", _COMMAND.sub(" ", bare)))) + len(_GREEK.intersection(commands))
    # Chains of relations are solved, and powers of functions rewritten, which takes far longer than expanding.
    relation = _RELATION.search(bare) is not None
    if (relation and trigonometric) or ((relation or trigonometric) and degree > 4):
        return False
    if variables == 0:
        return degree <= 1000
    # The terms of an expanded polynomial of this degree in so many variables, and of a product of so many sums.
    return variables <= 6 and sums <= 6 and degree <= 60 and math.comb(degree + variables, variables) <= 500


def _groups(latex: str) -> tuple[int, int] | None:
    """How many brackets contain a sum, and the highest degree.

    None if brackets do not match or nest too deeply, or if powers nest. The exponent of a bracket counts as if it
    applied to everything else.
    """
    sums, degree, highest, depth, exponents = 0, 1, 1, 0, 0
    open_sums: list[bool] = []
    open_powers: list[int] = []
    for position, character in enumerate(latex):
        if character in _OPENING:
            depth += 1
            open_sums.append(False)
            if latex[:position].rstrip(" \\").endswith("^"):
                open_powers.append(depth)
        elif character in _CLOSING:
            if depth == 0:
                return None
            sums += open_sums.pop()
            if open_powers and open_powers[-1] == depth:
                open_powers.pop()
            depth -= 1
        elif character in "+-" and open_sums:
            open_sums[-1] = True
        elif character == "^":
            exponents += 1
            if open_powers or exponents > 20 or latex[position + 1 : position + 2] == "^":
                return None
            value = _exponent(latex[position + 1 :].lstrip())
            if latex[:position].rstrip()[-1:] in (")", "]", "}"):
                degree *= value
            else:
                highest = max(highest, value)
        if depth > 8 or degree > 10_000:
            return None
    return (sums, degree * highest) if depth == 0 else None


def _exponent(text: str) -> int:
    """An upper bound of the exponent that a text starts with: the product of all numbers in it."""
    group, depth = text, 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        # Without brackets, LaTeX reads one character as the exponent; math-verify reads all digits of a number.
        if depth <= 0 and not (character.isdigit() or character in "-."):
            group = text[: position + 1]
            break
    return max(1, math.prod(int(digits) or 1 for digits in _DIGITS.findall(group)))


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _TooSlow inside when the time is up. Outside of the main thread, where timers do not work, do nothing.

    A timer that the caller has set still fires on time, or right after the block if it was due inside.
    """
    handler = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
    # None means a handler that Python did not set and cannot restore.
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    active, start = True, time.monotonic()

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if active:
            raise _TooSlow

    remaining, interval = signal.getitimer(signal.ITIMER_REAL)
    try:
        try:
            signal.signal(signal.SIGALRM, on_alarm)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            active = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            left = max(remaining - (time.monotonic() - start), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
