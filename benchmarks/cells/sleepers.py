"""Executions that sleep for a month: how soon they all do, and the memory that each holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cells.loads import settings
from benchmarks.plan import Cell, Scale, Values

__all__ = ["BYTES_EACH", "cells", "named"]

BYTES_EACH = "memory of the process for each, bytes"
MEASURED = (
    ("zart", "postgres", 1_000_000),
    ("zart", "postgres", 10_000),
    ("zart", "sqlite", 10_000),
    ("zart", "mysql", 10_000),
    ("dbos", "postgres", 10_000),
    ("dbos tuned", "postgres", 10_000),
)
QUICK = 200
SECONDS = {
    "asleep_seconds": "until all sleep, s",
    "taken_up_seconds": "until another process has taken all up, s",
}


def named(amount: int) -> str:
    """``10,000 sleepers``."""
    return f"{amount:,} sleepers"


def cells(scale: Scale) -> Iterator[Cell]:
    for system, kind, usual in MEASURED:
        if not scale.has(system, kind) or (scale.quick and usual > 10_000):
            continue
        amount = QUICK if scale.quick else usual
        yield Cell(
            kind,
            named(amount),
            "sleepers" if system == "zart" else "peers.dbos_sleepers",
            (str(amount), *settings(system)),
            _figures,
            group="sleepers",
            system=system,
            once=True,
            patience=3600 if usual > 10_000 else 1200,
        )


def _figures(found: dict[str, Any]) -> Values:
    seconds = {unit: [found[name]] for name, unit in SECONDS.items() if name in found}
    return {**seconds, BYTES_EACH: [found["bytes_each"]]}
