r"""Patterns of JSON Schemas: JavaScript's syntax and meaning, within limits."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.tools.schemas import patterns
from mentor_edge.tools.schemas.patterns import LENGTH_LIMIT, TooSlow, matches, pattern_problem

# pattern, text it is found in, text it is not found in
READ = [
    (r"^[\p{L} '-]+$", "Zoë d'Arc-Łę", "R2"),
    (r"^\p{Lu}\p{Ll}*$", "Éa", "éa"),
    (r"^\P{L}+$", "12", "a"),
    (r"^[^\p{L}\d]+$", "-!", "é"),
    (r"^\p{Script=Greek}+$", "αβ", "ab"),
    (r"^a$", "a", "a\n"),
    (r"^\d{3}$", "123", "١٢٣"),
    (r"^\w+$", "a_1", "é"),
    (r"^\s$", "\u00a0", "x"),
    (r"^\S+$", "é", "\ufeff"),
    (r"^\D$", "٣", "3"),
    (r"\bcat\b", "a cat!", "concat"),
    (r"\Bcat", "concat", "a cat"),
    (r"^.$", "é", "\u2028"),
    (r"^[.$(]$", "(", "x"),
    (r"^a\/b\-c\.$", "a/b-c.", "ab"),
    (r"^\cI\x41\u00e9\u{1F600}$", "\tAé😀", "A"),
    (r"^[\ud83d\ude00-\ud83d\ude02]$", "😁", "😎"),
    (r"^(?<y>\d\d)-\k<y>$", "20-20", "20-21"),
    (r"^(?P<y>\d\d)-(?P=y)$", "20-20", "20-21"),
    (r"^(a|b)\1$", "bb", "ab"),
    (r"^a++b$", "aab", "b"),
    (r"^(?>a|ab)c$", "ac", "abc"),
    (r"(?<=€)\d(?!0)", "€12", "€10"),
    (r"^(?i)ab$", "AB", "ac"),
    (r"\A[[:alpha:]]{1,3}\Z", "abc", "ab1"),
    (r"^[!--]$", "+", "a"),
    (r"^[a&&b~~c||d]$", "&", "e"),
    (r"^[[x]$", "[", "y"),
    (r"^[\d-x]$", "-", "5x"),
    (r"^[^]$", "\n", ""),
    (r"^x{2,3}$", "xxx", "x{2,3}"),
    (r"^{x}$", "{x}", "x"),
    (r"^x{e}$", "x{e}", "x"),
    (r"^]$", "]", "["),
    (r"^\0$", "\0", "0"),
    (r"^[\b]$", "\b", "b"),
    (r"^(?:\+\d{1,3})? ?\(?\d{2,4}\)?[\d -]{4,}$", "+49 (30) 901820", "call me"),
    (r"^[\w.+-]+@[\w-]+(?:\.[\w-]+)+$", "a.b+c@d-e.org", "a@b"),
]  # a table  # fmt: skip


@pytest.mark.parametrize(("pattern", "found", "not_found"), READ)
def test_a_pattern_means_what_its_author_meant(pattern, found, not_found):
    assert pattern_problem(pattern) is None
    assert matches(pattern, found) and not matches(pattern, not_found)


def test_an_empty_class_matches_nothing():
    assert pattern_problem("[]") is None and not matches("[]", "[]")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (r"(a", "missing )"),
        (r"[a", "a [ is not closed"),
        (r"a**", "multiple repeat"),
        (r"\p{Klingon}", "unknown property"),
        (r"(?R)", "'(?R)' is not supported"),
        (r"(?x) a", "is not supported"),
        (r"\Qa\E", r"\Q is not supported"),
        (r"\2", "invalid group reference"),
        ("\\", "\\ is not supported"),
        ("((a{1000}){1000}){1000}", "its repetitions make it larger than 20000"),
        ("a{99999999999999}", "its repetitions make it larger than 20000"),
        ("a" * (LENGTH_LIMIT + 1), "it has 4001 characters (limit 4000)"),
        ("(" * LENGTH_LIMIT, "it is nested too deeply"),
    ],
)  # a table  # fmt: skip
def test_a_pattern_that_cannot_be_read_says_why_and_matches_everything(pattern, problem):
    assert problem in str(pattern_problem(pattern))
    assert matches(pattern, "anything")


@pytest.mark.parametrize("pattern", [r"^(a|a)*$", r"^(a|aa)+$"])
def test_a_search_without_end_is_ended(pattern, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.1)
    start = time.process_time()
    with pytest.raises(TooSlow, match="cannot be compared with the pattern"):
        matches(pattern, "a" * 5000 + "?!")
    assert time.process_time() - start < 2


@given(st.text("ab\\[](){}^$.*+?|-,:=!<>&~pPdDwWkuxc0129{}", max_size=14), st.text("ab-[1", max_size=6))
def test_any_text_is_a_pattern_or_says_why_not(pattern, text):
    problem = pattern_problem(pattern)
    assert problem is None or problem
    assert isinstance(matches(pattern, text), bool)
