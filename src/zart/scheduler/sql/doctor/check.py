"""What the checks have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from zart.scheduler.findings import Finding, FindingLevel
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.transaction import Row

__all__ = ["Check", "amount", "fetch", "graded", "ok", "problem", "span", "warning"]

Check: TypeAlias = Callable[[Database], Awaitable[Sequence[Finding]]]

_PATIENCE = 5.0
"""Seconds that a check tries again."""


async def fetch(database: Database, statement: str, **values: Any) -> list[Row]:
    """The rows of a named statement."""
    return await database.read(lambda tx: tx.fetch(statement, **values), patience=_PATIENCE)


def ok(check: str, found: str) -> Finding:
    return Finding(FindingLevel.OK, check, found)


def warning(check: str, found: str, meaning: str, advice: str) -> Finding:
    return Finding(FindingLevel.WARNING, check, found, meaning, advice)


def problem(check: str, found: str, meaning: str, advice: str) -> Finding:
    return Finding(FindingLevel.PROBLEM, check, found, meaning, advice)


def graded(
    check: str,
    found: str,
    value: float,
    limits: tuple[float, float],
    *,
    meaning: str,
    advice: str,
) -> Finding:
    """A warning from the first limit on, a problem from the second."""
    if value < limits[0]:
        return ok(check, found)
    level = FindingLevel.WARNING if value < limits[1] else FindingLevel.PROBLEM
    return Finding(level, check, found, meaning, advice)


def span(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def amount(number: int, one: str) -> str:
    """A number of things in words."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"
