"""Executions started in the worker's own process, whose callers await them; and bare inserts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cells.loads import load
from benchmarks.plan import DATABASES, Cell, Scale

Load = tuple[int, int]
"""Steps of an execution, and executions at once."""

TIMES = (1, 32, 256, 1000)
LOADS: dict[tuple[str, str], frozenset[Load]] = {
    ("zart", "postgres"): frozenset((steps, at_once) for steps in (0, 1, 10) for at_once in TIMES),
    ("zart", "sqlite"): frozenset({(1, 256)} | {(s, c) for s in (0, 10) for c in (1, 32, 256)}),
    ("zart", "mysql"): frozenset({(1, 256)} | {(s, c) for s in (0, 10) for c in (1, 32, 256)}),
    # Ten steps of a thousand take DBOS the greater part of a minute: left out.
    ("dbos", "postgres"): frozenset(
        {(0, 1), (0, 32), (0, 256), (0, 1000), (1, 32), (10, 1), (10, 32), (10, 256)}
    ),
    ("dbos tuned", "postgres"): frozenset(
        {(0, 1), (0, 32), (0, 256), (1, 32), (10, 1), (10, 32), (10, 256)}
    ),
    ("dbos", "sqlite"): frozenset({(0, 32), (10, 1), (10, 32)}),
    ("dbos tuned", "sqlite"): frozenset({(10, 1), (10, 32)}),
}
QUICK = frozenset({(0, 256), (10, 1), (10, 32)})


def cells(scale: Scale) -> Iterator[Cell]:
    yield from _inserts(scale)
    for steps in (0, 1, 10):
        for at_once in TIMES:
            for (system, kind), loads in LOADS.items():
                wanted = loads & QUICK if scale.quick else loads
                if scale.has(system, kind) and (steps, at_once) in wanted:
                    yield load(scale, "throughput", system, kind, steps, at_once)


def _inserts(scale: Scale) -> Iterator[Cell]:
    for connections in (1, 2):
        for kind in DATABASES:
            if kind == "sqlite" and connections > 1:
                continue  # SQLite has one writer at a time
            if not scale.has("zart", kind):
                continue
            yield Cell(
                kind,
                f"bare inserts, {connections} connection{'s' * (connections > 1)}",
                "inserts",
                (str(connections), str(scale.seconds)),
                lambda found: {"rows/s": [*found.values()]},
            )
