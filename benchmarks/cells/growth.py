"""What millions of rows that are not their business cost a claim, a look and throughput."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import DATABASES, Cell, Scale, Values

__all__ = ["CLAIM", "LOOK", "MEASURED", "PLACES", "RATE", "SLEEPING", "STATISTICS", "cells", "unit"]

MILLION = 1_000_000
QUICK = 1000
"""A quick run has so many times fewer, and no filling that is part of another."""
EXECUTIONS = 3000
"""Of each measurement of throughput."""
SAMPLES = 60
"""Of each latency."""

SLEEPING = "1,000,000 sleeping"
FILLINGS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    SLEEPING: (DATABASES, {"sleeping": MILLION}),
    "1,000,000 ready, of an unknown name": (DATABASES, {"unknown": MILLION}),
    "1,000,000 waiting, 1,000,000 finished": (
        ("sqlite", "mysql"),
        {"sleeping": MILLION // 2, "expecting": MILLION // 2, "finished": MILLION},
    ),
    "1,000,000 waiting, 10,000,000 finished": (
        ("postgres",),
        {"sleeping": MILLION // 2, "expecting": MILLION // 2, "finished": 10 * MILLION},
    ),
}
"""What the database is filled with, and in which databases."""

CLAIM, LOOK, RATE = "claim of 10, ms", "idle look, ms", "1 step, 256 at once, executions/s"
MEASURED = {CLAIM: "claim_ms", LOOK: "look_ms", RATE: "executions_per_second"}
PLACES = ("empty", "full")
STATISTICS = {"as_it_is": "as filled", "analyzed": "analyzed"}


def unit(what: str, place: str, statistics: str) -> str:
    """The unit of one figure: what it is, of which tables, with which statistics."""
    return f"{what}: {place}, {statistics}"


def cells(scale: Scale) -> Iterator[Cell]:
    for label, (kinds, amounts) in FILLINGS.items():
        if scale.quick and "finished" not in amounts:
            continue
        for kind in kinds:
            if scale.has("zart", kind):
                yield _filled(scale, kind, label, amounts)


def _filled(scale: Scale, kind: str, label: str, amounts: dict[str, int]) -> Cell:
    samples, executions = SAMPLES, EXECUTIONS
    if scale.quick:
        label = f"{label}, a thousandth of it"
        amounts = {what: amount // QUICK for what, amount in amounts.items()}
        samples, executions = scale.samples, EXECUTIONS // 5
    wanted = ",".join(f"{what}={amount}" for what, amount in amounts.items())
    return Cell(
        kind,
        label,
        "growth",
        (wanted, str(samples), str(executions)),
        _figures,
        group="growth",
        once=True,
        patience=3600,
    )


def _figures(found: dict[str, Any]) -> Values:
    return {
        unit(what, place, words): found[statistics][name][place]
        for statistics, words in STATISTICS.items()
        for what, name in MEASURED.items()
        for place in PLACES
    }
