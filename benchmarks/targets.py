"""The targets, each as a ratio of two figures of the same run or as a bound of a latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cells import growth, latency, recovery, sleepers
from benchmarks.cells.loads import named
from benchmarks.found import Figure, Found
from benchmarks.plan import DATABASES

__all__ = ["Target", "targets"]

SLEEPER_BYTES = 16
"""Of the process's memory, at most, for each of a million sleepers. Nothing that stands for a
sleeper is as small as that: a reference to it and an entry in a list take as much. What a process
keeps of its own accord, a few MiB more or less, comes to some bytes for each.
"""


@dataclass(frozen=True)
class Target:
    """One target and what came of it; `reached` is None where a figure is missing."""

    name: str
    needed: str
    found: str = ""
    reached: bool | None = None


def targets(found: Found) -> Iterator[Target]:
    """All of them, in the order of the issue that set them."""
    default, tuned = "dbos", "dbos tuned"
    for name, group, steps, at_once, peer, needed in (
        ("10 steps, 256 at once, against DBOS default", "throughput", 10, 256, default, 100),
        ("10 steps, 32 at once, against DBOS tuned", "throughput", 10, 32, tuned, 45),
        ("the same through the queue", "queue", 10, 32, tuned, 45),
        ("no steps, 256 at once, against DBOS default", "throughput", 0, 256, default, 50),
        ("10 steps, one at a time, against DBOS default", "throughput", 10, 1, default, 7),
        ("10 steps, one at a time, against DBOS tuned", "throughput", 10, 1, tuned, 7),
    ):
        label, unit = named(steps, at_once), "steps/s" if steps else "executions/s"
        ours, theirs = (found.get(group, "postgres", label, s, unit) for s in ("zart", peer))
        yield _ratio(name, ours, theirs, needed)
    yield _ratio(
        "10 steps, 32 at once, queue, the best of each, against Absurd",
        _best_of_processes(found, "zart", 10, 32),
        _best_of_processes(found, "absurd", 10, 32),
        14,
    )
    once = named(10, 1)
    ordinary, idempotent = (
        found.get("disk", "postgres", label, "zart", "steps/s")
        for label in (once, once + ", idempotent")
    )
    yield _ratio("slow disk, one at a time: idempotent to ordinary steps", idempotent, ordinary, 5)
    yield _ratio(
        "plain queue, no steps, the best of each, against PgQueuer",
        _best(found, "zart", "postgres", "queue", "0 steps", "executions/s"),
        _best(found, "pgqueuer", "postgres", "queue", "0 steps", "executions/s"),
        1.2,
    )
    for kind, connections, needed in (
        ("postgres", "2 connections", 0.12),
        ("sqlite", "1 connection", 0.3),
        ("mysql", "2 connections", 0.12),
    ):
        yield _ratio(
            f"{kind}: the best rate of steps against bare inserts, {connections}",
            _best(found, "zart", kind, "throughput", "10 steps", "steps/s"),
            found.get("throughput", kind, f"bare inserts, {connections}", "zart", "rows/s"),
            needed,
        )
    for kind, median, worst in (("postgres", 3, 10), ("sqlite", 5, 20), ("mysql", 30, 100)):
        for unit in ("schedule to first step, ms", "event to resume, ms"):
            figure = found.get("latency", kind, latency.LABEL, "zart", unit)
            yield _bound(f"{kind}: {unit}, p50 / p99", figure, median, worst)
    yield from _of_many_rows(found)


def _of_many_rows(found: Found) -> Iterator[Target]:
    """What must not grow with what sleeps in the database, or was under way in a killed worker."""
    many = sleepers.named(1_000_000)
    memory = found.get("sleepers", "postgres", many, "zart", sleepers.BYTES_EACH)
    bytes_each = memory and memory.median
    yield _at_most(f"{many}: {sleepers.BYTES_EACH}", bytes_each, SLEEPER_BYTES)
    for kind in DATABASES:
        name = f"{kind}: a claim at {growth.SLEEPING}, times that of an empty table"
        yield _at_most(name, _grown(found, kind), 1.2)
    for kind in DATABASES:
        gone_on = found.get("recovery", kind, recovery.LABEL, "zart", recovery.GONE_ON)
        name = f"{kind}: {recovery.LABEL}: {recovery.GONE_ON}"
        yield _at_most(name, gone_on and gone_on.median, 3)


def _grown(found: Found, kind: str) -> float | None:
    """How many times as long a claim takes among sleepers; the worse of the two statistics."""
    times = []
    for statistics in growth.STATISTICS.values():
        empty, full = (
            found.get(
                "growth",
                kind,
                growth.SLEEPING,
                "zart",
                growth.unit(growth.CLAIM, place, statistics),
            )
            for place in growth.PLACES
        )
        if empty and full:
            times.append(full.median / empty.median)
    return max(times, default=None)


def _at_most(name: str, found: float | None, most: float) -> Target:
    needed = f"at most {most:g}"
    if found is None:
        return Target(name, needed)
    return Target(name, needed, f"{found:.2f}", found <= most)


def _ratio(name: str, ours: Figure | None, theirs: Figure | None, needed: float) -> Target:
    if ours is None or theirs is None:
        return Target(name, f"{needed:g}")
    ratio = ours.median / theirs.median
    shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return Target(name, f"{needed:g}", shown, ratio >= needed)


def _bound(name: str, figure: Figure | None, median: float, worst: float) -> Target:
    needed = f"{median:g} / {worst:g}"
    if figure is None:
        return Target(name, needed)
    half, most = figure.percentile(0.5), figure.percentile(0.99)
    return Target(name, needed, f"{half:.1f} / {most:.1f}", half <= median and most <= worst)


def _best_of_processes(found: Found, system: str, steps: int, at_once: int) -> Figure | None:
    """The faster of one worker process and of two that share the executions at once."""
    labels = [named(steps, at_once, processes) for processes in (1, 2)]
    figures = [found.get("queue", "postgres", label, system, "steps/s") for label in labels]
    return max(filter(None, figures), key=lambda figure: figure.median, default=None)


def _best(found: Found, system: str, kind: str, group: str, start: str, unit: str) -> Figure | None:
    """The fastest of a system's loads in one worker process."""
    loads = [
        figure
        for key, figure in found.of(group)
        if (key.system, key.kind, key.unit) == (system, kind, unit)
        and key.label.startswith(start)
        and "processes" not in key.label
    ]
    return max(loads, key=lambda figure: figure.median, default=None)
