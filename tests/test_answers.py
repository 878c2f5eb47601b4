from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.tasks.answers import answers_equal, boxed_answer


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
    ("given_answer", "accepted"),
    [
        ("72", "72.0"), ("1,000", "1000"), ("1,234,567.5", "1234567.50"), ("$18", "18"), ("50%", "50"), ("5.", "5"),
        (".5", "0.5"), ("1e3", "1000"), ("-0", "0"), ("+7", "7"), ("0.3333333333", "0.33333333"), ("None", "none"),
        (" a  b", "AB"), (r"\frac{1}{2}", r"\frac{1} {2}"), ("1,2", "1, 2"),
    ],
)  # fmt: skip
def test_equal(given_answer, accepted):
    assert answers_equal(given_answer, accepted)
    assert answers_equal(accepted, given_answer)


@pytest.mark.parametrize(
    ("given_answer", "accepted"),
    [
        ("72", "73"), ("-5", "5"), ("3 apples and 5 pears", "5"), ("5 apples", "5"), ("1,2", "12"), ("12,34", "1234"),
        ("nan", "0"), ("inf", "1e999"), ("1.001", "1"), ("", "0"), ("100001", "100000"), ("{1,2}", "{2,1}"),
    ],
)  # fmt: skip
def test_not_equal(given_answer, accepted):
    assert not answers_equal(given_answer, accepted)
    assert not answers_equal(accepted, given_answer)


@given(st.text(), st.text())
def test_equality_is_reflexive_and_symmetric_on_any_text(first, second):
    assert answers_equal(first, first)
    assert answers_equal(first, second) == answers_equal(second, first)


@given(st.integers(-(10**9), 10**9))
def test_numbers_are_read_however_they_are_written(value):
    for written in (f"{value:,}", f"{value}.0", f" {value} ", f"${value}"):
        assert answers_equal(written, str(value))
    assert not answers_equal(str(value), str(value * 2 + 1))


@pytest.mark.parametrize("text", ["1" * 1_000_000 + "x", "1," * 500_000, "{" * 1_000_000, r"\boxed{" * 150_000])
def test_a_megabyte_is_compared_quickly(text):
    start = time.perf_counter()
    answers_equal(text, "5")
    boxed_answer(r"\boxed{" + text)
    assert time.perf_counter() - start < 1.5
