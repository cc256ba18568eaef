"""Steady load: what claims, dead rows, sizes and the worker's memory come to while it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import Cell, Scale, Values

__all__ = ["cells"]

RATE = 100
QUICK = 0.1
"""Minutes of a quick run."""
PATIENCE = 900.0
"""Seconds beyond the load itself."""
MEBI, KIBI = 1 << 20, 1 << 10


def cells(scale: Scale) -> Iterator[Cell]:
    if not scale.has("zart", "postgres"):
        return
    minutes = min(scale.minutes, QUICK) if scale.quick else scale.minutes
    yield Cell(
        "postgres",
        f"{RATE} executions a second for {minutes:g} minutes",
        "steady",
        (str(minutes), str(RATE)),
        _figures,
        group="steady",
        once=True,
        patience=minutes * 60 + PATIENCE,
    )


def _figures(found: dict[str, Any]) -> Values:
    minutes = [each for each in found["minutes"] if each["under_load"]]
    first, last = minutes[0], minutes[-1]
    tasks = [each["tables"]["zart_tasks"] for each in minutes]
    sizes = [sum(table["bytes"] for table in each["tables"].values()) for each in minutes]
    figures = {
        f"{what}, {when} minute, {share}, ms": minute[name][share]
        for what, name in (("claim", "claim_ms"), ("schedule to first step", "start_ms"))
        for when, minute in (("first", first), ("last", last))
        for share in ("p50", "p99")
        if share in minute[name]  # none when the machine was too busy for a single one
    }
    figures |= {
        "not completed yet, most": max(each["started"] - each["completed"] for each in minutes),
        "zart_tasks, dead rows, most": max(each["dead"] for each in tasks),
        "zart_tasks, MiB, most": max(each["bytes"] for each in tasks) / MEBI,
        "all tables for each execution, KiB": sizes[-1] / last["started"] / KIBI,
        "worker's memory, first minute, MiB": first["worker_bytes"] / MEBI,
        "worker's memory, last minute, MiB": last["worker_bytes"] / MEBI,
    }
    return {unit: [float(value)] for unit, value in figures.items()}
