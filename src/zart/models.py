"""The facts that travel between the layers, as frozen data.

Times are microseconds since 1970-01-01 UTC by the database's clock wherever a field ends in
``_at``; the public records (`Execution`, `StepRecord`, `Attempt`, `WorkerRecord`) show them as
aware datetimes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

__all__ = [
    "Attempt",
    "Claim",
    "ClaimedTask",
    "Event",
    "Execution",
    "Failure",
    "Outcome",
    "Status",
    "StepRecord",
    "TaskDefinition",
    "WorkerRecord",
    "as_datetime",
    "as_microseconds",
    "new_stride",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def as_datetime(microseconds: int | None) -> datetime | None:
    """The aware datetime of a stored time; None stays None."""
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def as_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime; a naive one is read as local time."""
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


class Status(StrEnum):
    """Where an execution stands; each is its text too: ``Status.FAILED == "failed"``.

    ``pending``: ready, no worker has it yet; ``running``: a worker does; ``waiting``: for a time,
    an event, parallel steps or a child, also before a delayed start and between two tries;
    ``completed``, ``failed``, ``cancelled``: it has ended.
    """

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """True for ``completed``, ``failed`` and ``cancelled``, which only a restart changes."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Outcome(StrEnum):
    """How a step ended; each is its text too: ``Outcome.OK == "ok"``.

    ``timed_out`` also for a wait whose event did not come; ``cancelled`` where the workflow itself
    cut the step off, or ended before it.
    """

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it is recorded: text, no exception.

    ``type`` is the class with its module (``"shop.NoStock"``; built-in ones without), or what zart
    itself has to say: ``TimeoutError`` of a step, ``ExecutionTimedOut`` and ``CrashLoop`` of an
    execution. ``message`` is cut after 16,000 characters, ``traceback`` to the last 16,000.
    ``arguments`` is the JSON list of a business error's arguments, from which it is raised again.
    ``retryable`` is False for a business error.

    ``step`` names the step that it comes of: the one whose function raised it, and for an
    execution the one whose error its handler let out, or raised another ``from``. ``step_type`` is
    then the type that the step's function raised, where ``type`` says what left the handler
    (``"zart.errors.StepFailedError"``). Both are empty where no step, or more than one, has failed.
    """

    type: str
    message: str
    traceback: str = ""
    arguments: str | None = None
    step: str = ""
    retryable: bool = True
    step_type: str = ""


class Claim(msgspec.Struct, frozen=True):
    """Proof of ownership: the task's key and the epoch that its writes are checked against."""

    execution_id: str
    run: int
    step: str
    epoch: int


# Of its own: a program that seeds the module would have the same strides in all of its workers.
_strides = random.Random()
os.register_at_fork(after_in_child=_strides.seed)


def new_stride() -> int:
    """How far a claim moves the epochs of its tasks.

    A random number, because a database may forget: after a failover to a standby that had not
    all, a task that was claimed is ready again, and by steps of one its next owner would get the
    very epoch that the forgotten one still writes under.
    """
    return _strides.getrandbits(31) + 1


# What a run holds while it waits is left to no garbage collector (gc=False), which would take a
# quarter of a busy worker's time: nothing in it goes round in a circle.


class Event(msgspec.Struct, frozen=True, gc=False):
    """One payload in an execution's mailbox; ``sequence`` orders the mailbox."""

    sequence: int
    name: str
    payload: str


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A step as the history holds it; ``outcome`` is None while it has not ended."""

    name: str
    kind: str
    position: int
    outcome: str | None
    value: str | None
    due_at: int | None
    finished_at: int | None = None


class RecordedAttempt(msgspec.Struct, frozen=True, gc=False):
    """The last failed attempt of a step that has no outcome yet."""

    step: str
    attempt: int
    retry_at: int
    deadline_at: int | None
    error: str


class ClaimedTask(msgspec.Struct, gc=False):
    """Everything that a worker needs to run a task it has just claimed, in one answer.

    ``step`` is empty for an execution and names the step for a distributed one. ``now_at`` is the
    database's time of the claim, ``wake_sequence`` the last wake that the history includes.
    """

    claim: Claim
    task: str
    queue: str
    input: str
    seed: int
    attempt: int
    crashes: int
    wake_sequence: int
    started_at: int
    now_at: int
    parent: tuple[str, int, str] | None = None
    steps: Sequence[Recorded] = ()
    attempts: Sequence[RecordedAttempt] = ()
    events: Sequence[Event] = ()


class Claimed(list[ClaimedTask]):
    """What a claim has brought; ``more`` is True when it left tasks that are ready."""

    more: bool = False


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One execution as the database showed it; times are aware datetimes by the database's clock.

    ``input`` and ``output`` are JSON text, ``output`` and ``failure`` None until it has ended so.
    ``run`` and ``attempt`` count from 1; ``crashes`` is how often it took its worker down in this
    run. ``worker`` is the id of the one that runs it, ``parent`` the id of the execution that
    started it as a child. ``started`` is its run's first start, ``due`` when it wakes by itself.
    ``waiting_for`` has kind and name of all that it waits for: ``"sleep cool-off"``,
    ``"event shipped"``, ``"retry charge"`` for a step's next attempt, ``"retry"`` for that of the
    run itself, ``"start"`` before a delayed start.
    """

    id: str
    task: str
    queue: str
    status: Status
    input: str
    output: str | None
    failure: Failure | None
    run: int
    attempt: int
    crashes: int
    priority: int
    worker: str | None
    parent: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    due: datetime | None
    waiting_for: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One failed attempt at a step or at a run; times are aware datetimes by the database's clock.

    ``step`` is empty for an attempt at the run itself. ``attempt`` counts the tries at the step,
    ``run_attempt`` those at the run in which it was made; both from 1, and ``run_attempt`` is 0
    where a step of its own row was run by any worker. ``retry`` is when the next one was to
    begin, None where there was to be none.
    """

    step: str
    run_attempt: int
    attempt: int
    failure: Failure
    started: datetime | None
    failed: datetime | None
    retry: datetime | None


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an execution's timeline; times are aware datetimes by the database's clock.

    ``kind`` is one of step, transaction, distributed, sleep, event, child, loop, capture, patch,
    failure and cut-off (the handler was cut off at the step of this name, which had ended all the
    same). ``position`` orders the run's lines. ``outcome`` is None while it has not ended;
    ``value`` is the result or the event's payload as JSON text, ``failure`` what stands there
    instead. ``due`` is the end of a wait's time, or when the next attempt is made. ``attempts`` has
    the failed ones, the first first. What waits for its second attempt has no record yet: it
    comes last, and as a ``step`` even if it is a transaction.
    """

    name: str
    kind: str
    run: int
    position: int
    outcome: Outcome | None
    value: str | None
    failure: Failure | None
    started: datetime | None
    finished: datetime | None
    due: datetime | None
    attempts: tuple[Attempt, ...] = ()


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the database knows it: it lives, or has not been struck out yet.

    ``process`` is its process id on ``host``, ``concurrency`` its slots. Times are aware datetimes
    by the database's clock: it ``started``, gave its last ``beat``, its lease ``expires``, and this
    was ``seen``. ``session_lock`` is the key of the lock by which others see its death, None where
    there is none, ``locked`` when it was taken.
    """

    id: str
    host: str
    process: int
    concurrency: int
    session_lock: int | None
    locked: datetime | None
    started: datetime
    beat: datetime
    expires: datetime
    seen: datetime

    @property
    def expired(self) -> bool:
        """True when no beat came within the lease."""
        return self.expires < self.seen


D_contra = TypeVar("D_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)


class TaskDefinition(Generic[D_contra, O_co]):
    """What the scheduler needs to know of a task: its name and the types of its payloads.

    The base of `TaskHandler` and of functions decorated with ``@zart.durable``: annotate with it
    what takes either, by the types of input and output::

        async def enqueue(task: zart.TaskDefinition[Order, str], order: Order) -> None: ...
    """

    name: str
    data_type: Any
    output_type: Any

    def __zart_types__(self, data: D_contra, /) -> O_co:
        """Never called: it carries the types of input and output to the type checker."""
        raise NotImplementedError
