"""What an examination of the database has shown."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Finding", "Level"]


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """It costs something, or will; nothing is lost by it."""
    PROBLEM = "problem"
    """Work stands still, or what counts as recorded may be lost."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: how it stands, what that means, and what to do about it."""

    level: Level
    check: str
    found: str
    meaning: str = ""
    advice: str = ""
