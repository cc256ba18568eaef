"""The groups of cells, by the names that ``--groups`` takes, in the order of the report."""

from collections.abc import Callable, Iterator, Mapping

from benchmarks.cells import (
    disk,
    growth,
    idle,
    latency,
    queue,
    recovery,
    sleepers,
    steady,
    throughput,
)
from benchmarks.plan import Cell, Scale

GROUPS: Mapping[str, Callable[[Scale], Iterator[Cell]]] = {
    "throughput": throughput.cells,
    "queue": queue.cells,
    "latency": latency.cells,
    "disk": disk.cells,
    "recovery": recovery.cells,
    "idle": idle.cells,
    "sleepers": sleepers.cells,
    "growth": growth.cells,
    "steady": steady.cells,
}
