"""What was measured, and what failed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.plan import Cell, Values

__all__ = ["Figure", "Found", "Key", "percentile"]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies; they come in ascending order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Key:
    """Which figure it is."""

    group: str
    kind: str
    label: str
    system: str
    unit: str


@dataclass(frozen=True)
class Figure:
    """A figure's values, by round."""

    rounds: list[list[float]]

    @property
    def medians(self) -> list[float]:
        return [statistics.median(each) for each in self.rounds]

    @property
    def median(self) -> float:
        """The median of the rounds' medians."""
        return statistics.median(self.medians)

    @property
    def samples(self) -> list[float]:
        return sorted(value for each in self.rounds for value in each)

    def percentile(self, share: float) -> float:
        """Over the samples of all rounds."""
        return percentile(self.samples, share)

    @property
    def is_sampled(self) -> bool:
        """Whether a round gives many values, as of a latency."""
        return any(len(each) > 1 for each in self.rounds)


@dataclass
class Found:
    """All figures, in the order in which they came up first."""

    figures: dict[Key, Figure] = field(default_factory=dict)
    failures: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    """By group, database, label and system: the last line of the error."""

    def add(self, cell: Cell, values: Values) -> None:
        for unit, given in values.items():
            key = Key(cell.group, cell.kind, cell.label, cell.system, unit)
            self.figures.setdefault(key, Figure([])).rounds.append(given)

    def fail(self, cell: Cell, message: str) -> None:
        self.failures[cell.group, cell.kind, cell.label, cell.system] = message

    def get(self, group: str, kind: str, label: str, system: str, unit: str) -> Figure | None:
        return self.figures.get(Key(group, kind, label, system, unit))

    def of(self, *groups: str) -> Iterator[tuple[Key, Figure]]:
        for key, figure in self.figures.items():
            if key.group in groups:
                yield key, figure
