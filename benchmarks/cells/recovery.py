"""How soon another worker goes on with what a killed one had under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import DATABASES, Cell, Scale, Values

__all__ = ["GONE_ON", "LABEL", "cells"]

LABEL = "10,000 executions of a killed worker"
CONCURRENCY = 1000
"""Of the worker that goes on."""
GONE_ON = "all gone on past where they stood, s after that"
UNITS = {
    "noticed": "kill until noticed, s",
    "taken_over": "tasks taken over, s after that",
    "gone_on": GONE_ON,
    "all_completed": "all completed, s after that",
}


def cells(scale: Scale) -> Iterator[Cell]:
    amount, label = (300, "300 executions of a killed worker") if scale.quick else (10_000, LABEL)
    for kind in DATABASES:
        if scale.has("zart", kind):
            yield Cell(
                kind,
                label,
                "recovery",
                (str(amount), str(CONCURRENCY)),
                _seconds,
                group="recovery",
                patience=300,
            )


def _seconds(found: dict[str, Any]) -> Values:
    return {unit: [found[name]] for name, unit in UNITS.items()}
