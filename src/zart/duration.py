"""Lengths of time as people write them: ``"1h30m"``, a number of seconds, a timedelta."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import TypeAlias, cast

from zart.errors import DurationError

__all__ = ["Duration", "describe", "moment", "seconds"]

Duration: TypeAlias = timedelta | float | int | str
"""Whatever zart accepts where it asks for a length of time."""

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_LONGEST = 1000 * 365 * 86_400
"""A thousand years: much later there is no date, and in the end no number in the database."""
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[wdhms])\s*")
_ACCEPTED = (
    "Write seconds as a number (30, 0.5), a timedelta, or text of numbers with the units w, d, h, "
    'm, s and ms, each at most once: "30s", "500ms", "1h30m", "2d12h".'
)


def seconds(value: Duration, *, what: str = "duration") -> float:
    """Give a duration in seconds.

    Args:
        value: a ``timedelta``, a number of seconds, or text such as ``"1h30m"``.
        what: the name of the setting the value was given for; it opens the error's message.

    Returns:
        The length in seconds, never negative, and a thousand years at most.

    Raises:
        DurationError: the value is negative, longer than that, or not a duration at all.

    Example:
        >>> seconds("1h30m")
        5400.0
        >>> seconds(timedelta(minutes=1), what="timeout")
        60.0
    """
    given = cast(object, value)  # callers without a type checker may give anything
    if isinstance(given, str):
        length = _read(given, what)
    elif isinstance(given, timedelta):
        length = given.total_seconds()
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        try:
            length = float(given)
        except OverflowError:
            length = math.inf
    else:
        raise _refusal(given, what, f"a {type(given).__name__} is no length of time")
    if 0.0 <= length <= _LONGEST:  # false for NaN as well
        return length
    if _LONGEST < length < math.inf:
        raise _refusal(value, what, "it is longer than a thousand years")
    raise _refusal(value, what, "it is negative" if length < 0 else "it is not a finite number")


def moment(value: object, *, what: str) -> datetime:
    """The value itself, if it is a moment; raises `TypeError` that begins with ``what``."""
    if not isinstance(value, datetime):
        raise TypeError(
            f"{what} takes a datetime, such as datetime(2030, 1, 31, 8, tzinfo=UTC), not"
            f" {value!r:.80}"
        )
    return value


def describe(seconds: float) -> str:
    """Give the short form of a length of time that people read, to the microsecond.

    Args:
        seconds: the length in seconds; a negative one is written with a leading minus.

    Example:
        >>> describe(5400)
        '1h30m'
        >>> describe(0.25)
        '250ms'
    """
    if not math.isfinite(seconds):
        return str(seconds)
    microseconds = round(abs(seconds) * 1_000_000)
    if microseconds == 0:
        return "0s"
    sign = "-" if seconds < 0 else ""
    if microseconds < 1_000_000:
        return f"{sign}{_decimal(microseconds, 1_000)}ms"
    minutes, rest = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    whole = ((days, "d"), (hours, "h"), (minutes, "m"))
    parts = [f"{count}{unit}" for count, unit in whole if count]
    if rest:
        parts.append(f"{_decimal(rest, 1_000_000)}s")
    return sign + "".join(parts)


def _read(text: str, what: str) -> float:
    parts = text.strip()
    total, position, seen = 0.0, 0, set[str]()
    while match := _PART.match(parts, position):
        number, unit = match.groups()
        if unit in seen:
            raise _refusal(text, what, f"the unit {unit!r} stands in it twice")
        seen.add(unit)
        # A division is exact to the last digit where a factor of 0.001 is not: 9 * 0.001 != 0.009.
        total += float(number) / 1_000 if unit == "ms" else float(number) * _UNITS[unit]
        position = match.end()
    if not parts:
        raise _refusal(text, what, "it is empty")
    if position < len(parts):
        raise _refusal(text, what, f"{parts[position : position + 20]!r} is no number with a unit")
    return total


def _decimal(count: int, one: int) -> str:
    """Write ``count / one`` without an exponent and without idle zeros."""
    whole, fraction = divmod(count, one)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).zfill(len(str(one)) - 1).rstrip('0')}"


def _refusal(value: object, what: str, reason: str) -> DurationError:
    try:
        shown = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        shown = f"of type {type(value).__name__}"
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return DurationError(f"{what} {shown} cannot be read: {reason}. {_ACCEPTED}")
