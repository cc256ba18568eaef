"""Which ids and names can be stored: the same in every database and readable in a log."""

from __future__ import annotations

import re

from zart.errors import InvalidIdError

__all__ = ["LONGEST", "checked", "checked_priority"]

LONGEST = 200
"""Characters."""

_USUAL = re.compile(rf"[!-~]{{1,{LONGEST}}}")
"""Nearly all that there are; nothing else has to be asked of these."""
_STORABLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")


def checked(value: object, what: str) -> str:
    """The value itself, if it can be an id or name; raises `InvalidIdError` with the mend.

    It is text of 1 to 200 characters, without control characters, and does not begin or end with
    white space, which some databases drop when they compare.
    """
    if isinstance(value, str) and _USUAL.fullmatch(value):
        return value
    if not isinstance(value, str):
        raise InvalidIdError(f"{what} must be a str, not {type(value).__name__} ({value!r:.80})")
    if not value:
        raise InvalidIdError(f"{what} must not be empty")
    if len(value) > LONGEST:
        raise InvalidIdError(
            f"{what} {value[:40]!r}... has {len(value)} characters, {LONGEST} are allowed:"
            " use a digest of the long part"
        )
    if not _STORABLE.fullmatch(value):
        raise InvalidIdError(f"{what} {value!r} has control characters or half a surrogate pair")
    if value != value.strip():
        raise InvalidIdError(f"{what} {value!r} begins or ends with white space: strip it")
    return value


def checked_priority(value: object) -> int:
    """The value itself, if it can be a priority: a whole number of 32 bits."""
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise ValueError(
            f"priority must be a whole number of 32 bits, not {value!r:.80}; lower goes first"
        )
    return value
