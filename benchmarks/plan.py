"""What is measured: the cells of the table, each run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import databases
from tests.servers import RunServers

ROOT = Path(__file__).parent.parent
PATIENCE = 120.0
"""Seconds until a cell counts as hung."""


@dataclass(frozen=True)
class Cell:
    """One measurement: the module that makes it, its arguments, and what to take of its answer."""

    kind: str
    label: str
    module: str
    arguments: tuple[str, ...]
    take: Callable[[dict[str, Any]], dict[str, list[float]]]


def cells(kind: str, seconds: float, samples: int) -> Iterator[Cell]:
    """Everything that is measured on one kind of database, in one round."""
    for connections in (1,) if kind == "sqlite" else (1, 2):  # SQLite has one writer at a time
        label = f"bare inserts, {connections} connection{'s' * (connections > 1)}"
        arguments = (str(connections), str(seconds))
        yield Cell(kind, label, "inserts", arguments, lambda found: {"rows/s": [*found.values()]})
    for steps in (0, 1, 10):
        for concurrency in (1, 32, 256):
            label = f"{steps} step{'s' * (steps != 1)}, {concurrency} at once"
            load = (str(steps), str(concurrency), str(seconds))
            yield Cell(kind, label, "throughput", load, _rates)
    if samples:
        yield Cell(kind, "latency at idle", "latency", (str(samples),), _latencies)


def _rates(found: dict[str, Any]) -> dict[str, list[float]]:
    rates = {"executions/s": [found["executions_per_second"]]}
    if found["steps_per_second"]:
        rates["steps/s"] = [found["steps_per_second"]]
    return rates


def _latencies(found: dict[str, Any]) -> dict[str, list[float]]:
    return {
        "schedule to start, ms": found["schedule_to_start"],
        "event to resume, ms": found["event_to_resume"],
    }


class CellError(Exception):
    """A cell that ended badly; the message holds the end of what it printed."""


def measured(cell: Cell, servers: RunServers) -> dict[str, list[float]]:
    """Run a cell against an empty database."""
    with _database(cell.kind, servers) as url:
        command = [sys.executable, "-m", f"benchmarks.{cell.module}", url, *cell.arguments]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CellError(f"{cell.kind}, {cell.label}: no end in {PATIENCE:g} s") from error
    if done.returncode:
        raise CellError(f"{cell.kind}, {cell.label}:\n{done.stderr[-2000:]}")
    return cell.take(json.loads(done.stdout))


@contextmanager
def _database(kind: str, servers: RunServers) -> Iterator[str]:
    if kind == "postgres":
        with databases.postgres_database(servers.url(kind)) as made:
            yield made.url
    elif kind == "mysql":
        with databases.mysql_database(servers.url(kind)) as made:
            yield made.url
    else:
        # Beside the repository rather than in /tmp, which may be no disk at all.
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
            yield databases.sqlite_database(Path(folder)).url
