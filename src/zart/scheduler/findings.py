"""What an examination of the database has shown."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Finding", "FindingLevel"]


class FindingLevel(StrEnum):
    """How much a finding matters; each is its text too: ``FindingLevel.OK == "ok"``."""

    OK = "ok"
    WARNING = "warning"
    """It costs something, or will; nothing is lost by it."""
    PROBLEM = "problem"
    """Work stands still, or what counts as recorded may be lost."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that `DurableScheduler.doctor` looked at.

    ``check`` names what, ``found`` how it stands; ``meaning`` and ``advice`` say what that costs
    and what to do about it, and are empty when all is well.
    """

    level: FindingLevel
    check: str
    found: str
    meaning: str = ""
    advice: str = ""
