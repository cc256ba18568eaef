"""Durations: every accepted form gives the same seconds, everything else a message that teaches."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zart.duration import Duration, describe, seconds
from zart.errors import DurationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("9ms", 0.009),
        ("1h30m", 5_400.0),
        ("2d12h", 216_000.0),
        ("1w", 604_800.0),
        ("1.5h", 5_400.0),
        (" 1h 30m ", 5_400.0),
        ("0s", 0.0),
    ],
)
def test_each_accepted_form_gives_seconds(value: Duration, expected: float) -> None:
    assert seconds(value) == expected
    assert type(seconds(value)) is float


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        "30",
        "s",
        "1x",
        "1h1h",
        "-1s",
        "1H",
        "1e3s",
        "1 s",
        "\uff11s",
        "9" * 400 + "s",
        -1,
        -0.1,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        pytest.param(10**5_000, id="thousands of digits"),
        True,
        False,
        None,
        b"1s",
        [1],
        timedelta(seconds=-1),
        timedelta.max,
        1e12,
        "1000000w",
    ],
)
def test_everything_else_is_refused(value: Any) -> None:
    with pytest.raises(DurationError):
        seconds(value)


def test_the_message_names_the_setting_the_value_and_the_accepted_forms() -> None:
    with pytest.raises(DurationError, match=r"timeout '1h1h' .*twice.* \"1h30m\""):
        seconds("1h1h", what="timeout")


def test_a_thousand_years_are_the_longest() -> None:
    """What ends later has no date, and what ends much later no number in the database."""
    assert seconds("365000d") == 31_536_000_000
    with pytest.raises(DurationError, match="longer than a thousand years"):
        seconds("365001d")


def test_a_duration_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no length of time"):
        seconds(True)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.0005, "0.5ms"),
        (1, "1s"),
        (90.5, "1m30.5s"),
        (5_400, "1h30m"),
        (216_000, "2d12h"),
        (864_000, "10d"),
        (59.999_999_9, "1m"),
        (-5, "-5s"),
        (1e-7, "0s"),
        (math.inf, "inf"),
    ],
)
def test_describe_gives_the_short_form(length: float, expected: str) -> None:
    assert describe(length) == expected


@given(st.floats(min_value=0, max_value=1e9))
def test_what_describe_writes_reads_back_to_the_microsecond(length: float) -> None:
    assert seconds(describe(length)) == pytest.approx(length, abs=1e-6)


@given(st.text())
def test_any_text_gives_a_finite_length_or_a_duration_error(text: str) -> None:
    try:
        length = seconds(text)
    except DurationError:
        return
    assert 0 <= length < math.inf
