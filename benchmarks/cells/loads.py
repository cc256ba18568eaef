"""The cell of a load on a system, as several groups make it."""

from __future__ import annotations

from typing import Any

from benchmarks.plan import Cell, Scale, Values

__all__ = ["load", "module", "named", "settings"]


def module(system: str) -> str:
    """Its adapter."""
    return "subject" if system == "zart" else f"peers.{system.split(maxsplit=1)[0]}"


def settings(system: str) -> tuple[str, ...]:
    """What its adapter is told: ``dbos tuned`` is DBOS with ``--tuned``."""
    return tuple(f"--{word}" for word in system.split()[1:])


def named(steps: int, concurrency: int, processes: int = 1) -> str:
    """``10 steps, 1,000 at once, 2 processes``."""
    name = f"{steps} step{'s' * (steps != 1)}, {concurrency:,} at once"
    return name + (f", {processes} processes" if processes > 1 else "")


def load(
    scale: Scale,
    group: str,
    system: str,
    kind: str,
    steps: int,
    concurrency: int,
    *,
    processes: int = 1,
    label: str = "",
    mode: str = "",
    words: tuple[str, ...] = (),
    slow_disk: bool = False,
) -> Cell:
    """So many executions at once: `direct`, or through the `queue`."""
    mode = mode or ("queue" if group == "queue" else "direct")
    arguments = [mode, str(steps), str(concurrency), str(scale.seconds)]
    if mode == "queue":
        arguments.append(str(processes))
    return Cell(
        kind,
        named(steps, concurrency, processes) + label,
        module(system),
        (*arguments, *settings(system), *words),
        _rate,
        group=group,
        system=system,
        patience=240,
        slow_disk=slow_disk,
    )


def _rate(found: dict[str, Any]) -> Values:
    if found["steps"]:
        return {"steps/s": [found["rate"] * found["steps"]]}
    return {"executions/s": [found["rate"]]}
