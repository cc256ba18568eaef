"""The ledger: what step functions really did, written where no database can lose or change it.

Each worker process appends to a file of its own. Only processes die in these tests, not the
machine, so a line that was written stays without any flush. Lines carry CLOCK_MONOTONIC, which all
processes of one machine share: they can be put in order across processes.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

BEGIN = "begin"
END = "end"
RAISED = "raised"
COMMITTED = "committed"
"""Written by the workflow itself, right after the await of the step has given its value."""


class Line(msgspec.Struct, frozen=True):
    """One thing that happened; ``value`` is what the step returned, raised, or handed back."""

    at: int
    process: int
    mark: str
    execution: str
    step: str
    value: str = ""


class Ledger:
    """The file of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / f"{os.getpid()}.ledger"
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def write(self, mark: str, execution: str, step: str, value: str = "") -> None:
        line = Line(time.monotonic_ns(), os.getpid(), mark, execution, step, value)
        os.write(self._file, msgspec.json.encode(line) + b"\n")


def read(folder: Path, process: int | None = None) -> list[Line]:
    """All whole lines, or those of one process, in the order of time."""
    name = "*" if process is None else str(process)
    decoder = msgspec.json.Decoder(Line)
    texts = [path.read_bytes() for path in folder.glob(f"{name}.ledger")]
    return sorted(
        (decoder.decode(line) for text in texts for line in text.split(b"\n")[:-1]),
        key=lambda line: line.at,
    )


def in_flight(lines: Iterable[Line]) -> int:
    """How many step functions had begun and not ended."""
    marks = [line.mark for line in lines]
    return marks.count(BEGIN) - marks.count(END) - marks.count(RAISED)


class Story:
    """What the ledger tells of each step of each execution."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._steps: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in lines:
            self._steps[line.execution, line.step].append(line)

    def values(self, execution: str, step: str, mark: str = END) -> list[str]:
        """The values that runs of a step gave, in order."""
        return [line.value for line in self._steps[execution, step] if line.mark == mark]

    def runs(self) -> int:
        """How often a step function began."""
        return sum(line.mark == BEGIN for lines in self._steps.values() for line in lines)

    def reruns(self) -> int:
        """How often one began again; without a crash that happens to retries only."""
        return self.runs() - len(self._steps)

    def runs_without_need(self) -> list[tuple[str, str]]:
        """Steps that began again although no earlier run of them had failed."""
        return [
            key
            for key, lines in self._steps.items()
            if sum(line.mark == BEGIN for line in lines)
            > 1 + sum(line.mark == RAISED for line in lines)
        ]

    def violations(self) -> Iterator[str]:
        """Steps that ran again after their commit, or handed back different values."""
        for (execution, step), lines in self._steps.items():
            committed = [line for line in lines if line.mark == COMMITTED]
            if len({line.value for line in committed}) > 1:
                yield f"{execution} {step}: two values were handed back: {committed}"
            for line in lines:
                if committed and line.mark == BEGIN and line.at > committed[0].at:
                    yield f"{execution} {step}: ran again after its commit: {lines}"
