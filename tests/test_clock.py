"""The database's time, as a process knows it between two answers."""

from __future__ import annotations

import pytest

from zart import clock
from zart.clock import DatabaseClock

SECOND = 1_000_000
NOON = 1_800_000_000 * SECOND


class Monotonic:
    """This machine's monotonic clock, which goes on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 500 * SECOND
        monkeypatch.setattr(clock.time, "monotonic_ns", lambda: self.at * 1000)


def test_a_late_answer_puts_no_time_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was true when it was given; a sleep that counts from it would end too early."""
    here, known = Monotonic(monkeypatch), DatabaseClock()
    known.observe(NOON)
    here.at += SECOND
    known.observe(NOON + SECOND - 300_000)  # under way for 0.3 s
    assert known.now_at() == NOON + SECOND
    known.observe(NOON + SECOND + 2)  # a quicker one than ever
    assert known.now_at() == NOON + SECOND + 2


def test_a_clock_that_was_set_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back or forward, at once; and before the first answer the machine's own date stands in."""
    here, known = Monotonic(monkeypatch), DatabaseClock()
    known.observe(NOON)
    known.observe(NOON - 3600 * SECOND)
    assert known.now_at() == NOON - 3600 * SECOND
    known.observe(NOON + 3600 * SECOND)
    here.at += 5
    assert known.now_at() == NOON + 3600 * SECOND + 5


def test_clocks_that_drift_apart_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest answer counts for a while, and not for ever."""
    here, known = Monotonic(monkeypatch), DatabaseClock()
    known.observe(NOON)
    here.at += clock.TRUSTED + 1
    known.observe(NOON + clock.TRUSTED - 300_000)
    assert known.now_at() == NOON + clock.TRUSTED - 300_000
