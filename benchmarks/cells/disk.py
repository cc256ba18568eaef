"""A slower disk: what group commit and idempotent steps are worth when each flush takes 2 ms."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cells.loads import load
from benchmarks.plan import Cell, Scale

STEPS = 10
LOADS = {
    1: ("zart", "dbos", "dbos tuned", "absurd"),
    32: ("zart", "dbos", "dbos tuned", "absurd"),
    256: ("zart", "dbos tuned", "absurd"),
}


def cells(scale: Scale) -> Iterator[Cell]:
    if scale.has("zart", "postgres"):
        yield Cell(
            "postgres",
            "one commit, ms",
            "commits",
            ("100",),
            lambda found: {"commit, ms": found["milliseconds"]},
            group="disk",
            slow_disk=True,
        )
    for at_once, systems in LOADS.items():
        if scale.quick and at_once == 256:
            continue
        for system in systems:
            if scale.has(system, "postgres"):
                yield _load(scale, system, at_once)
            if system == "zart" and scale.has(system, "postgres"):
                yield _load(scale, system, at_once, ", idempotent", ("--idempotent",))


def _load(
    scale: Scale, system: str, at_once: int, label: str = "", words: tuple[str, ...] = ()
) -> Cell:
    mode = "queue" if system == "absurd" else "direct"  # Absurd has no other
    return load(
        scale,
        "disk",
        system,
        "postgres",
        STEPS,
        at_once,
        label=label,
        mode=mode,
        words=words,
        slow_disk=True,
    )
