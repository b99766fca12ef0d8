"""Numbers against examples worked by hand; the doctests hold more."""

import doctest

import pytest

from bertpress.report import comparison, numerals, reading
from bertpress.report.numerals import NOT_MEASURED


@pytest.mark.parametrize("module", [numerals, reading, comparison])
def test_the_examples_in_the_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1, "1.00"),
        (0.1, "0.100"),
        (0.09996, "0.100"),  # rounds up into the next decade
        (9.994, "9.99"),
        (99.96, "100"),
        (123456, "123,000"),
        (-0.0123, "-0.0123"),
        (2.4e-7, "2.40e-7"),
    ],
)
def test_three_significant_digits(value, shown):
    assert numerals.significant(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_994, "999.99 k"),
        (999_996, "1.00 M"),
        (22_713_216, "22.71 M"),
        (23_837_184, "23.84 M"),
        (1_234_567_890, "1.23 G"),
    ],
)
def test_counts_have_two_decimals(value, shown):
    assert numerals.count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_600, "1.00 MB"),
        (437_928_960, "438 MB"),
        (1_250_000_000, "1.25 GB"),
    ],
)
def test_sizes_are_decimal(value, shown):
    assert numerals.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min")],
)
def test_durations(seconds, shown):
    assert numerals.duration(seconds) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.0996, "10 %"), (0.0005, "0.1 %"), (0.0004, "<0.1 %"), (-0.02, "-2 %")],
)
def test_percentages(share, shown):
    assert numerals.percent(share) == shown


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (9.94, "9.9x faster"),
        (9.96, "10x faster"),
        (1.04, "same"),
        (1 / 1.04, "same"),
        (0.8, "1.2x slower"),
        (None, NOT_MEASURED),
        (0, NOT_MEASURED),
    ],
)
def test_ratios_in_words(ratio, words):
    assert numerals.change(ratio, "faster", "slower", "same") == words


def test_a_drop_turns_its_sign_and_swaps_its_bounds():
    assert numerals.points(-0.5, -1.0, 0.04) == "+0.5 points [0.0, +1.0]"
    assert numerals.points(0.04) == "0.0 points"
    assert numerals.points(None, 1, 2) == NOT_MEASURED


@pytest.mark.parametrize(
    "shown",
    [
        numerals.count, numerals.quantity, numerals.size, numerals.milliseconds, numerals.duration,
        numerals.rate, numerals.percent, numerals.times, numerals.interval,
    ],
)  # fmt: skip
def test_nothing_is_not_measured(shown):
    assert shown(None) == NOT_MEASURED


@pytest.mark.parametrize(
    ("ascii_text", "typeset"),
    [
        ("3.9x smaller, -0.4 points [-1.2, +0.3]", "3.9× smaller, −0.4 points [−1.2,\u00a0+0.3]"),
        ("23.3 MB", "23.3\u00a0MB"),
        ("3 min 12 s", "3\u00a0min 12\u00a0s"),
        ("5.3 %", "5.3\u00a0%"),
        ("2.40e-7", "2.40e-7"),
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    ],
)
def test_typesetting_touches_numbers_only(ascii_text, typeset):
    assert numerals.typeset(ascii_text) == typeset
