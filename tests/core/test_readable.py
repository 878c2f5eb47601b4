from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentor_edge.readable import counted, duration, figure, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.0004, "0 s"), (0.042, "42 ms"), (0.42, "0.42 s"), (4.21, "4.2 s"), (9.94, "9.9 s"),
        (9.96, "10 s"), (42.4, "42 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min 1 s"), (423, "7 min 3 s"),
        (3599.6, "1 h"), (7_500, "2 h 5 min"), (360_000, "100 h"),
    ],
)  # a table  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1 KB"), (1_234_567, "1.2 MB"), (999_999, "1 MB"), (104_000_000, "104 MB"),
     (1_200_000_000, "1.2 GB"), (2_500_000_000_000, "2.5 TB"), (5 * 10**15, "5000 TB")],
)  # a table  # fmt: skip
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_345, "12,345"), (1e9, "1,000,000,000"), (0.42131, "0.4213"), (2e-5, "2e-05"), (999.96, "1000"),
     (-4200.4, "-4,200"), (7, "7")],
)  # a table  # fmt: skip
def test_figures(value, text):
    assert figure(value) == text


def test_counts_have_a_plural():
    assert [counted(count, "token") for count in (0, 1, 5012)] == ["0 tokens", "1 token", "5,012 tokens"]


@given(st.floats(0, 1e9), st.integers(0, 10**18))
def test_no_figure_has_a_positive_exponent(value, count):
    assert "e+" not in duration(value) + size(count) + figure(value)
