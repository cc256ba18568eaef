"""Executions that another process has scheduled, worked off by one worker process and by two."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cells.loads import load
from benchmarks.plan import Cell, Scale

Load = tuple[int, int, int]
"""Steps of an execution, executions at once in all processes, and worker processes."""

LOADS: dict[Load, tuple[tuple[str, str], ...]] = {
    (0, 1, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("pgqueuer", "postgres"),
        ("procrastinate", "postgres"),
        ("dbos tuned", "postgres"),
    ),
    (0, 32, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("pgqueuer", "postgres"),
        ("procrastinate", "postgres"),
        ("dbos", "postgres"),
        ("dbos tuned", "postgres"),
        ("zart", "sqlite"),
        ("zart", "mysql"),
    ),
    (0, 256, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("pgqueuer", "postgres"),
        ("procrastinate", "postgres"),
        ("dbos tuned", "postgres"),
        ("zart", "sqlite"),
        ("zart", "mysql"),
    ),
    (0, 1000, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("pgqueuer", "postgres"),
        ("procrastinate", "postgres"),
    ),
    (0, 256, 2): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("pgqueuer", "postgres"),
        ("procrastinate", "postgres"),
        ("zart", "sqlite"),
        ("zart", "mysql"),
    ),
    (1, 32, 1): (("zart", "postgres"), ("absurd", "postgres")),
    (1, 256, 1): (("zart", "postgres"),),
    (10, 1, 1): (("zart", "postgres"), ("absurd", "postgres")),
    (10, 32, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("dbos", "postgres"),
        ("dbos tuned", "postgres"),
        ("zart", "sqlite"),
        ("zart", "mysql"),
    ),
    (10, 256, 1): (
        ("zart", "postgres"),
        ("absurd", "postgres"),
        ("zart", "sqlite"),
        ("zart", "mysql"),
    ),
    (10, 1000, 1): (("zart", "postgres"),),
    (10, 32, 2): (("zart", "postgres"), ("absurd", "postgres")),
    (10, 256, 2): (("zart", "postgres"), ("absurd", "postgres"), ("zart", "sqlite")),
}
QUICK: frozenset[Load] = frozenset({(0, 256, 1), (10, 32, 1)})


def cells(scale: Scale) -> Iterator[Cell]:
    for (steps, at_once, processes), measured in LOADS.items():
        if scale.quick and (steps, at_once, processes) not in QUICK:
            continue
        for system, kind in measured:
            if scale.has(system, kind):
                yield load(scale, "queue", system, kind, steps, at_once, processes=processes)
