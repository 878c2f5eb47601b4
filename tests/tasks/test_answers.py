from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.paths import ROOT
from mentor_edge.tasks.answers import formulas
from mentor_edge.tasks.answers.judge import answers_equal, as_number, boxed_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"so \boxed{ 42 }.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{{}}", "{}"),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\boxed{42", None),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed 42", None),
        (r"\fbox{42}", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box(text, answer):
    assert boxed_answer(text) == answer


@given(st.text(), st.text())
def test_a_box_with_balanced_braces_is_found_in_any_text(before, content):
    inner = content.replace("{", "").replace("}", "").replace("\\boxed", "")
    assert boxed_answer(before + r"\boxed{" + inner + "}") == (inner.strip() or None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,200", 1200), ("$5", 5), ("40%", 40), ("-$5", -5), (r"\frac{1}{2}", 0.5), ("1 1/2", 1.5), ("5 km", 5),
        ("1.5 million", 1_500_000), ("", None), ("Paris", None), ("1,2", None), ("5x", None), ("1e999", None),
        ("1/0", None), ("9" * 1000, None), ("3 apples and 5 pears", None), (r"\pi", None),
    ],
)  # a table  # fmt: skip
def test_as_number(text, value):
    assert as_number(text) == value


EQUAL = {
    "numbers": [
        ("72", "72.0"), ("1,000", "1000"), ("1,234,567.5", "1234567.50"), ("5.", "5"), (".5", "0.5"), ("1e3", "1000"),
        ("-0", "0"), ("+7", "7"), ("0.3333333333", "0.33333333"), (r"1\,000", "1000"), (r"1,\!000", "1000"),
        ("1{,}000", "1000"), ("1 000 000", "1000000"), ("007", "7"), ("\u22125", "-5"), ("- 5", "-5"), ("٣", "3"),
        ("5,", "5"), ("**5**", "5"), ("$5$", "5"), (r"\(5\)", "5"), ("(5)", "5"), ("{5}", "5"), ('"5"', "5"),
        (r"1.2 \times 10^{3}", "1200"), ("1.2 x 10^3", "1200"), ("10^3", "1000"), (r"5 \cdot 10^{-1}", "0.5"),
        ("0.30000000000000004", "0.3"), ("5e-17", "0"), ("9" * 400, "9" * 400 + " "), ("1" * 5000, "+" + "1" * 5000),
    ],
    "fractions": [
        ("1/2", "0.5"), (r"\frac{1}{2}", "1/2"), (r"\dfrac12", "0.5"), (r"\tfrac{1}{2}", r"\frac12"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"), ("2/4", "1/2"), ("½", "0.5"), ("1 / 2", "1/2"), (r"\frac{1,000}{2}", "500"),
        ("1 1/2", "1.5"), (r"1\frac{1}{2}", "3/2"), (r"-1\frac12", "-1.5"), ("1½", "1.5"), ("0.3333333", "1/3"),
        (r"\frac{1}{2}", r"\frac{1} {2}"),
    ],
    "percent and units": [
        ("40%", "40"), ("40%", r"40\%"), ("40 percent", "40%"), (r"\frac{1}{2}\%", "0.5"), ("18 dollars", "18"),
        ("$18", "18"), (r"\$18", "18"), ("$18", "18 dollars"), ("18$", "18"), ("-$5", "$-5"), ("€5", "5"),
        ("$1,200.50", "1200.5"), ("$18$ dollars", "18"), ("5 km", "5"), ("5km", "5 km"), ("5 kilometers", "5 km"),
        ("5 apples", "5"), ("5 apple", "5 apples"), (r"5\text{ cm}", "5"), (r"5 \text{ cm}^2", "5 cm^2"),
        ("5 square meters", r"5\text{ m}^2"), (r"5\ \mathrm{m}", "5"), ("5 km/h", "5 km per hour"), ("90°", "90"),
        (r"90^\circ", "90 degrees"), (r"90^{\circ}", "90°"), ("1.5 million", "1,500,000"), ("$2 million", "2000000"),
        ("3 dozen eggs", "36"), (r"2\sqrt{2}\text{ cm}", r"2\sqrt2"), ("18 dollars per hour", "18"), ("5 PM", "5"),
        (r"\text{5 km}", "5"), ("18 dollars.", "18"), ("1/2 cup", "0.5"),
    ],
    "words": [
        ("None", "none"), (" a  b", "AB"), ("Paris", "paris"), ("the Nile", "Nile"), ("A dog.", "dog"), ("Yes.", "yes"),
        ("No", "no"), ("True", "true"), ("New  York", "new york"), (r"\text{Yes}", "yes"), ("(C)", "C"), ("C.", "c"),
        (r"\text{C}", "(C)"), (r"\textbf{(C)}", "C"), ("\u201cParis\u201d", "Paris"), ("June 5, 2020", "june 5 2020"),
        ("x-ray", "X-Ray"), ("5:30 PM", "5:30 pm"), ("2020-06-05", " 2020-06-05"), ("3:4", "3 : 4"),
    ],
    "tuples, intervals and sets": [
        ("1,2", "1, 2"), ("(1,2)", "(1, 2)"), (r"\left(1,2\right)", "(1,2)"), ("(1/2, 3)", "(0.5,3)"),
        ("{1,2}", r"\{2,1\}"), (r"\{1,2,2\}", "{1,2}"), (r"\{\frac{1}{2},\sqrt{4}\}", "{2, 0.5}"), ("1,2", "2,1"),
        ("1 and 2", "1, 2"), ("1, 2, and 3", "1,2,3"), ("x=1, x=2", "1,2"), ("1,2", "(1,2)"), ("[0,1)", "[0, 1.0)"),
        (r"(-\infty, 5]", "(-inf,5]"), (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)"), (r"x\in[0,1]", "[0,1]"),
        ("{red, blue}", "{Blue, red}"), ("(x,y)=(1,2)", "(1,2)"), ("((1,2),(3,4))", "((1, 2), (3, 4))"),
        (r"(\frac{\pi}{2}, 1)", r"(\pi/2, 1)"),
    ],
    "formulas": [
        (r"\pi", "π"), (r"2\sqrt2", r"\sqrt{8}"), (r"\sqrt{2}/2", r"\frac{1}{\sqrt{2}}"), (r"2\pi r", r"2r\pi"),
        ("x^2+1", "1+x^2"), ("(a+b)^2", "a^2+2ab+b^2"), ("x=5", "5"), ("y = 2x+1", "2x+1"), ("x>5", "5<x"),
        ("2x>4", "x>2"), ("2x+3y=6", r"y=2-\frac{2x}{3}"), ("3.141593", r"\pi"), ("sqrt(2)", r"\sqrt{2}"),
        ("2**3", "8"), ("5!", "120"), ("48/2", "24"), (r"\dfrac{\pi}{4}", r"0.25\pi"), ("x**2", "x^2"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & \frac{8}{2} \end{pmatrix}"),
    ],
}  # a table  # fmt: skip

DIFFERENT = {
    "numbers": [
        ("72", "73"), ("-5", "5"), ("5", "15"), ("1,2", "12"), ("12,34", "1234"), ("nan", "0"), ("inf", "1e999"),
        ("1.001", "1"), ("100001", "100000"), ("12345678", "12345679"), ("1 2", "12"), ("1 1/2", "11/2"), ("1/2", "2"),
        ("1.5", "15"), ("9" * 400, "9" * 399 + "8"), ("1e-7", "2e-7"), ("1/0", "1"), ("5!", "5"),
        ("2 3/2", "3.5"),
    ],
    "percent and units": [
        ("40%", "0.4"), ("5 km", "5 m"), ("$5", "€5"), ("5%", "5 km"), ("5 apples", "5 pears"), ("5 cm", "5 cm^2"),
        ("5 AM", "5 PM"), ("3 apples and 5 pears", "5"), ("3 apples and 5 pears", "3"), ("5 million", "5"),
        ("5 and a half", "5"), ("5 squared", "5"), ("5 or less", "5"), ("5x", "5"), ("5m", "5"),
        ("2 hours 30 minutes", "2"),
        ("5 times", "5"), ("not 5", "5"), (r"5\text{ or more}", "5"), (r"2\sqrt{2}\text{ cm}", r"2\sqrt{2}\text{ m}"),
        ("5 x", "5"), ("-$5", "$5"),
    ],
    "words": [
        ("", "0"), ("", ""), (" ", " "), ("yes", "no"), ("A", "B"), ("vitamin A", "vitamin"), ("Paris", "London"),
        ("true", "yes"), ("B12", "12B"), ("H2O", "2HO"), ("2020-06-05", "2009"), ("6/5/2020", "0.000594"),
        ("5-10", "-5"), ("3:4", "0.75"), ("the", "a"), ("five", "4"), ("$", "%"),
    ],
    "tuples, intervals and sets": [
        ("(1,2)", "(2,1)"), ("{1,2}", "(1,2)"), ("[0,1)", "[0,1]"), ("(0,1)", "[0,1]"), ("{1,2}", "{1,2,3}"),
        ("(1,2)", "12"), ("(1,2)", "1"), ("1,2", "2"), ("[1,2)", "1,2"), ("{1,2}", "{1,3}"), ("(1,2,3)", "(1,2)"),
        ("x=1, x=2", "1,3"), ("1,1", "1"),
    ],
    "formulas": [
        (r"\pi", "3"), ("x^2", "x^3"), ("x", "y"), ("x=5", "y=5"), ("2x=10", "10"), ("x>5", "x<5"), ("x>5", r"x \ge 5"),
        ("x^2+y^2=-1", "x^2+y^2=-2"), (r"\sqrt{2}", r"\sqrt{3}"), ("x^2+1", "x^2-1"), ("2x>4", "-2x>-4"),
        (r"\Delta", r"\delta"), (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}2&1\end{pmatrix}"),
    ],
}  # a table  # fmt: skip


def pairs(table):
    return [pytest.param(*pair, id=f"{group}-{i}") for group, rows in table.items() for i, pair in enumerate(rows)]


@pytest.mark.parametrize(("given_answer", "accepted"), pairs(EQUAL))
def test_equal(given_answer, accepted):
    assert answers_equal(given_answer, accepted)
    assert answers_equal(accepted, given_answer)


@pytest.mark.parametrize(("given_answer", "accepted"), pairs(DIFFERENT))
def test_not_equal(given_answer, accepted):
    assert not answers_equal(given_answer, accepted)
    assert not answers_equal(accepted, given_answer)


# Pieces that the rules look for, so that random answers reach the later rules.
PIECES = st.sampled_from(
    [*"0123456789xyab.,;:!?()[]{}^_=<>+-*/|%$°€&~' ", "\\", "frac", "\\frac", "\\sqrt", "\\text{", "\\pi", "\\{", "\\}",
     "\\left", "\\cup", "\\infty", " and ", " km", "the ", "million", "\\begin{pmatrix}", "\\\\", "²", "½", "\0",
     "\ud800"]
)  # a table  # fmt: skip
ANSWERS = st.text() | st.lists(PIECES, max_size=12).map("".join)


@given(ANSWERS, ANSWERS)
def test_any_two_texts_are_compared_in_either_order(first, second):
    assert answers_equal(first, second) == answers_equal(second, first)
    assert answers_equal(first, first) == bool(first.strip())
    as_number(first)


@given(st.integers(-(10**9), 10**9))
def test_numbers_are_read_however_they_are_written(value):
    for written in (
        f"{value:,}",
        f"{value}.0",
        f" {value} ",
        f"${value}",
        f"{value} km",
        f"{value}%",
        rf"\text{{{value}}}",
    ):
        assert answers_equal(written, str(value))
    assert not answers_equal(str(value), str(value * 2 + (1 if value >= 0 else -1)))
    assert not answers_equal(str(value), str(value + 1))


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_further_apart_than_the_tolerance_differ(first, second):
    assume(abs(first - second) > 1.1e-6 * max(abs(first), abs(second)) + 1e-11)
    assert not answers_equal(repr(first), repr(second))
    assert answers_equal(repr(first), f" {first!r} ")


@given(st.lists(st.text("abcdefgh", min_size=4, max_size=8), min_size=1, max_size=4))
def test_words_are_equal_in_any_case_and_with_any_spaces(words):
    assert answers_equal(" ".join(words), "  ".join(words).upper() + " .")


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms())
def test_sets_have_no_order_and_tuples_do(items, rng):
    mixed = list(items)
    rng.shuffle(mixed)
    first, second = (", ".join(map(str, values)) for values in (items, mixed))
    assert answers_equal(f"{{{first}}}", rf"\{{{second}\}}")
    assert answers_equal(f"({first})", f"({second})") == (items == mixed)


def test_formulas_are_compared_in_any_thread():
    verdicts = []

    def compare():
        verdicts.append((answers_equal(r"\sqrt{50}", r"5\sqrt{2}"), answers_equal(r"\sqrt{50}", r"5\sqrt{3}")))

    threads = [threading.Thread(target=compare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [(True, False)] * 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers are POSIX")
def test_an_alarm_of_the_caller_fires(caplog):
    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 30)
        assert answers_equal(r"\sqrt{98}", r"7\sqrt{2}")
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 30 and not fired
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        assert answers_equal(r"(x+1)(x+2)(x+3)", "x^3+6x^2+11x+6")
        deadline = time.monotonic() + 5
        while not fired and time.monotonic() < deadline:
            time.sleep(0.01)
        assert fired == [True]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not caplog.records


def test_the_library_is_imported_before_the_time_limit_of_a_comparison_starts(monkeypatch):
    imported = []
    limit = formulas._deadline

    def observed_limit(seconds):
        imported.append(formulas._library.cache_info().currsize)
        return limit(seconds)

    monkeypatch.setattr(formulas, "_deadline", observed_limit)
    formulas._library.cache_clear()
    formulas.clear_caches()
    assert answers_equal(r"\sqrt{128}", r"8\sqrt{2}")
    assert imported == [1]


def test_plain_answers_import_no_mathematics():
    code = (
        "import sys; from mentor_edge.tasks.answers.judge import answers_equal as e;"
        "pairs = [('1,200', '1200'), ('72', '73'), ('18 dollars', '18'), ('Paris', 'the Nile'), ('yes', 'No.'),"
        " ('(C)', 'D'), ('1/2', '0.5'), ('(1,2)', '(2,1)'), ('40%', '41'), ('5 km', 'Paris'), ('x', 'y')];"
        "[e(*pair) for pair in pairs];"
        "print([name for name in ('math_verify', 'sympy', 'latex2sympy2_extended', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_comparing_formulas_prints_nothing():
    code = (
        "from mentor_edge.tasks.answers.judge import answers_equal as e;"
        r"print(e(r'\sqrt{8}', r'2\sqrt{2}'), e(r'\frac{x', '^x'), e(r'x^{', r'\pi'), e(r'\sqrt{}', '2^'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True False False False", "")


@pytest.mark.parametrize(
    "text",
    ["1" * 1_000_000 + "x", "1," * 500_000, "{" * 1_000_000, r"\boxed{" * 150_000, "9" * 1_000_000, r"\text{" * 150_000,
     "0." + "0" * 1_000_000 + "1", "- " * 500_000, "\ud800" * 1_000_000, "$" * 1_000_000],
)  # a table  # fmt: skip
def test_a_megabyte_is_compared_quickly(text):
    start = time.process_time()
    answers_equal(text, "5")
    answers_equal("5" + text, text)
    as_number(text)
    boxed_answer(r"\boxed{" + text)
    assert time.process_time() - start < 2.5


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9", "9^{9^{9^9}}", "(((9^{99})^{99})^{99})^{99}", r"2^{99\cdot 99\cdot 99\cdot 99}", "99999999!",
    "9!!!!!!!", "((9!)!)!",
     "(a+b+c+d+e+f)^{100}", "(a+b)(c+d)" * 20, "(" * 140 + "1" + ")" * 140, r"\frac{" * 40,
     r"\frac{" * 10_000,
     r"\sqrt{" * 40 + "2" + "}" * 40, r"\sin x\cos x\tan x\sin(x+y)=3", "x_" * 100, "||x|" * 50, "x^" * 100, "[(" * 400,
     r"\sum_{n=1}^{99999999} n", r"\binom{9999999}{999999}", "3^{17!}",
     r"\sqrt[\frac{1}{99999999}]{3}", r"\exp(\exp(\exp(99)))", r"(\sin(x+a-17))^{5}",
     r"\sqrt{\begin{pmatrix}0.5e&\cos^2{\theta}\\\cos^2{\theta}&0.5e\end{pmatrix}}^{1/3}",
     r"\int x^x dx", "x^{60}y^{60}=1", "1," * 450, "-" * 900],
)  # a table  # fmt: skip
@pytest.mark.parametrize("other", ["5", r"\frac{\pi}{2}", "x^2=4", "(1,x)"])
def test_towers_and_nested_formulas_are_refused_without_a_timer(text, other):
    taken = []

    def compare():
        start = time.thread_time()
        for first, second in ((text, other), (text, text + "+x"), (text + "1", other)):
            assert not answers_equal(first, second)
        taken.append(time.thread_time() - start)

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join(60)
    assert taken and taken[0] < 10
