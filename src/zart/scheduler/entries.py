"""What a task commits: entries of the journal, decided above and written by an engine.

An entry is written whole or not at all, and only while its claim still holds. The tuples inside
are rows in the order of the statement that writes them, so that a flush needs no conversion.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

from zart.models import Claim

__all__ = [
    "AttemptRow",
    "Delivery",
    "DistributedRow",
    "Entry",
    "Finish",
    "FinishStep",
    "NewExecution",
    "Park",
    "Receipt",
    "StepRow",
    "characters",
]

StepRow: TypeAlias = tuple[str, int, str, str, int, str | None, str | None, int | None, int | None]
"""execution_id, run, name, kind, position, outcome, value, due_at, started_at"""

AttemptRow: TypeAlias = tuple[str, int, str, int, int, str, int, int | None, int | None]
"""execution_id, run, step, run_attempt, attempt, error, retry_at, deadline_at, started_at"""

DistributedRow: TypeAlias = tuple[str, int, str, str, str, int, str]
"""execution_id, run, step, queue, task, priority, input"""


class NewExecution(msgspec.Struct, frozen=True, gc=False):
    """An execution to be scheduled. ``delay`` is in microseconds; ``due_at`` is absolute.

    ``claimed`` has the worker that begins it at once, and the epoch that it is inserted with.
    """

    id: str
    task: str
    queue: str
    priority: int
    input: str
    seed: int
    chosen_id: bool = False
    delay: int | None = None
    due_at: int | None = None
    parent: tuple[str, int, str] | None = None
    claimed: tuple[str, int] | None = None

    @property
    def starts_at_once(self) -> bool:
        """True when it need not wait for a time."""
        return self.delay is None and self.due_at is None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event on its way; ``key`` tells a repeated delivery from a second event."""

    execution_id: str
    name: str
    payload: str
    key: str


class Park(msgspec.Struct, frozen=True, gc=False):
    """Give the claim back and wait.

    A wake past ``wake_sequence`` makes the task ready at once. ``pending`` children end the wait,
    -1 lets only ``due_at`` end it; ``ready`` hands the task to any worker at once.
    """

    wake_sequence: int
    attempt: int
    due_at: int | None = None
    pending: int = 0
    ready: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """End an execution: its result and the end of its task are one commit."""

    status: str
    output: str | None
    failure: str | None
    attempt: int
    crashes: int
    started_at: int
    parent: tuple[str, int, str] | None
    has_steps: bool = True
    """False when the run never had a distributed step or an open wait: nothing to clear."""
    wake_sequence: int = 0
    """The last wake that the run has seen."""


class FinishStep(msgspec.Struct, frozen=True, gc=False):
    """End a distributed step: its outcome, its row's end and the parent's countdown."""

    outcome: str
    value: str
    started_at: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """All that one task writes at once."""

    claim: Claim
    steps: tuple[StepRow, ...] = ()
    attempts: tuple[AttemptRow, ...] = ()
    distributed: tuple[DistributedRow, ...] = ()
    children: tuple[NewExecution, ...] = ()
    taken: tuple[tuple[int, str | None], ...] = ()
    """Events by sequence, and the waits that take them; None puts one back into the mailbox."""
    erased: tuple[str, ...] = ()
    """Steps that are dropped with all that belongs to them."""
    called_off: tuple[str, ...] = ()
    """Those of them that run elsewhere still: their tasks are dropped, and so what they write."""
    retried: tuple[str, ...] = ()
    """Steps whose outcome is dropped, so that they run again; their failed attempts are kept."""
    unless_woken: int | None = None
    """Refuse the entry when the wake sequence is past this: something came that may change it."""
    ending: Park | Finish | FinishStep | None = None


def characters(entry: Entry) -> int:
    """How long an entry's payloads are together."""
    total = 0
    for step in entry.steps:
        total += len(step[6] or "")
    if entry.ending or entry.attempts or entry.distributed or entry.children:
        total += _beside_steps(entry)
    return total


def _beside_steps(entry: Entry) -> int:
    total = sum(len(attempt[5]) for attempt in entry.attempts)
    total += sum(len(distributed[6]) for distributed in entry.distributed)
    total += sum(len(child.input) for child in entry.children)
    match entry.ending:
        case Finish() as end:
            return total + len(end.output or end.failure or "")
        case FinishStep() as end:
            return total + len(end.value)
        case _:
            return total


class Receipt(Enum):
    """What became of an entry."""

    COMMITTED = "committed"
    READY = "ready"
    """Committed, and the task that was parked is ready again: a wake came before the park."""
    FENCED = "fenced"
    """The claim is lost; nothing was written, and nothing of this run will be."""
    WOKEN = "woken"
    """A wake came first; nothing was written, read again."""
