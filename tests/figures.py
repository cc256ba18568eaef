"""What the tests of a run have measured, shown together at its end.

    took("postgres killed: rate back", seconds)   # as often as it was measured
    figure("postgres: writes crashed at", "14 of 212")

They travel with the report of their test, so that those of xdist's workers reach the controller;
`tests/conftest.py` sends and shows them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

__all__ = ["FIGURE", "figure", "percentile", "shown", "take", "took"]

FIGURE = "figure"
"""The name under which a line stands in the properties of a test's report."""
_WIDTH = 58
_texts: list[tuple[str, str]] = []
_times: dict[str, list[float]] = defaultdict(list)


def figure(name: str, text: str) -> None:
    """Note what the present test has found out."""
    _texts.append((name, text))


def took(name: str, seconds: float) -> None:
    """Note how long something took; what is noted more than once is shown as percentiles."""
    _times[name].append(seconds)


def take() -> list[str]:
    """The lines of the test that has ended; the next one begins with none."""
    noted = [*_texts, *((name, _spread(times)) for name, times in _times.items())]
    _texts.clear()
    _times.clear()
    return [f"{name:<{_WIDTH}}  {text}" for name, text in noted]


def shown(reports: Sequence[object]) -> list[str]:
    """The lines of all these reports, sorted by name."""
    return sorted(
        str(value)
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == FIGURE
    )


def percentile(times: Sequence[float], share: float) -> float:
    """The time that this share of them does not exceed: ``0.99`` of 100 is the last but one."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


def _spread(times: Sequence[float]) -> str:
    if len(times) == 1:
        return f"{times[0]:.2f} s"
    p99 = f"p99 {percentile(times, 0.99):.2f} s, " if len(times) >= 100 else ""
    half = percentile(times, 0.5)
    return f"p50 {half:.2f} s, {p99}at most {max(times):.2f} s ({len(times)} times)"
