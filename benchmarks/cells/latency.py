"""How soon an idle worker of another process goes on, and its callers hear of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cells.loads import module, settings
from benchmarks.plan import Cell, Scale, Values

MEASURED = (
    ("zart", "postgres"),
    ("zart", "sqlite"),
    ("zart", "mysql"),
    ("dbos", "postgres"),
    ("dbos tuned", "postgres"),
    ("absurd", "postgres"),
)
LABEL = "latency at idle"
SLOW = {"dbos": 6}
"""Samples are fewer where each takes about a second."""
UNITS = {
    "start": "schedule to first step, ms",
    "event": "event to resume, ms",
    "completion": "completion to caller, ms",
    "step": "step, ms",
}


def cells(scale: Scale) -> Iterator[Cell]:
    if scale.has("zart", "postgres"):
        yield Cell(
            "postgres",
            f"bare {LABEL}",
            "bare_latency",
            (str(scale.samples),),
            lambda found: {"bare insert to update elsewhere, ms": found["taken"]},
            group="latency",
        )
    for system, kind in MEASURED:
        if scale.has(system, kind):
            samples = min(scale.samples, SLOW.get(system, scale.samples))
            yield Cell(
                kind,
                LABEL,
                module(system),
                ("latency", str(samples), *settings(system)),
                _latencies,
                group="latency",
                system=system,
            )


def _latencies(found: dict[str, Any]) -> Values:
    return {unit: found[name] for name, unit in UNITS.items() if found[name]}
