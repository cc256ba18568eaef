"""What a benchmark is made of: cells, each of them one measurement in a process of its own.

A group of cells is a module of ``benchmarks/cells`` with one function::

    def cells(scale: Scale) -> Iterator[Cell]: ...

and a line in ``GROUPS`` of ``benchmarks/cells/__init__.py``; its name is what ``--groups`` takes.
The function yields what `scale` asks for, in any order: cells are interleaved by system when run.

A cell runs ``python -m benchmarks.MODULE URL ARGUMENTS...`` against an empty database of its own,
with the interpreter of its system, and prints one line of JSON as the last of its output; `take`
picks the figures out of it: the values of each unit. Cells are run once in each round, or, the
heavy ones, `once` in all, after the rounds. What a cell prints on standard error is shown when it
fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DATABASES", "SYSTEMS", "Cell", "Scale"]

DATABASES = ("postgres", "sqlite", "mysql")
SYSTEMS = ("zart", "dbos", "dbos tuned", "absurd", "pgqueuer", "procrastinate")

Values = dict[str, list[float]]
"""What a cell found, by unit: one value, or many samples of a latency."""


@dataclass(frozen=True)
class Scale:
    """How much is to be measured."""

    databases: tuple[str, ...] = DATABASES
    systems: tuple[str, ...] = SYSTEMS
    seconds: float = 0.8
    """How long a throughput is measured."""
    samples: int = 40
    """Of each latency, in each round."""
    minutes: float = 2.0
    """How long a steady load lasts; the long form is an hour."""
    quick: bool = False
    """A look at everything in a minute or two: a heavy group is small, or gives nothing."""

    def has(self, system: str, database: str) -> bool:
        return system in self.systems and database in self.databases


@dataclass(frozen=True)
class Cell:
    """One measurement: the module that makes it, its arguments, and what to take of its answer."""

    kind: str
    """The database: one of `DATABASES`."""
    label: str
    """What is measured, the same for every system and database that does the same."""
    module: str
    arguments: tuple[str, ...]
    take: Callable[[dict[str, Any]], Values]
    group: str = "throughput"
    system: str = "zart"
    once: bool = False
    patience: float = 120.0
    """Seconds until it counts as hung."""
    slow_disk: bool = False
    """On a PostgreSQL whose commits take as long as on a slower disk."""
