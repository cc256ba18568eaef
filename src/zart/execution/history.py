"""What a run has recorded, as replay reads it: in memory, complete, a miss is final."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

from zart.errors import DivergenceError, DuplicateStepError, InvalidIdError
from zart.models import ClaimedTask, Event, Outcome, Recorded, RecordedAttempt

__all__ = ["CUT_OFF", "FAILURE_RECORD", "History", "cut_off_at", "scope"]

CUT_OFF = "cut-off"
"""The kind of the record that the handler was cut off at a step which has ended all the same."""

FAILURE_RECORD = "on_failure"
"""The record that an execution has failed for good and is compensating."""

scope: ContextVar[str] = ContextVar("zart_scope", default="")
"""What stands before the names of steps here: a loop's iteration, or ``on_failure/``."""


_NO_NAMES: frozenset[str] = frozenset()


def cut_off_at(name: str) -> str:
    """The name of a step's cut-off: no name of a user's begins with a space."""
    return f" {name}"


def _refuse_kept(full: str) -> None:
    """Raises `InvalidIdError` for a name of zart's own record, outside of ``on_failure``."""
    if not scope.get() and (full == FAILURE_RECORD or full.startswith(f"{FAILURE_RECORD}/")):
        raise InvalidIdError(
            f"the name {full!r} is kept for the record of a failure and the steps that compensate:"
            " give the call another one"
        )


def _a(kind: str) -> str:
    noun = "distributed step" if kind == "distributed" else kind
    return f"an {noun}" if noun == "event" else f"a {noun}"


class History:
    """A run's recorded steps, failed attempts and mailbox, and the names it has used so far."""

    __slots__ = (
        "_attempts",
        "_mailbox",
        "_numbers",
        "_records",
        "_taken",
        "_used",
        "cut_off",
        "position",
        "wake",
    )

    def __init__(self, task: ClaimedTask) -> None:
        self._records: dict[str, Recorded] = {}
        self._attempts: dict[str, RecordedAttempt] = {}
        self._mailbox: list[Event] | None = [*task.events] if task.events else None
        self._taken: set[int] | None = None
        self._used: dict[str, None] = {}  # of texts, so not the garbage collector's as a set is
        self._numbers: dict[str, int] = {}
        self.position = 0
        self.wake = task.wake_sequence
        self.cut_off = _NO_NAMES
        """Names of the steps that the handler was cut off at although they may have ended."""
        if task.steps:
            self._records = {r.name: r for r in task.steps if r.kind != CUT_OFF}
            if len(self._records) < len(task.steps):
                self.cut_off = frozenset(r.name[1:] for r in task.steps if r.kind == CUT_OFF)
            self.position = max(r.position for r in task.steps)
        if task.attempts:
            self._attempts = {a.step: a for a in task.attempts}

    def refresh(self, task: ClaimedTask) -> None:
        """Take in what has come since: outcomes of distributed steps and children, events.

        Nothing else is new here: a record that this run does not know it has dropped with a loop's
        iteration, after this answer had been read.
        """
        for record in task.steps:
            known = self._records.get(record.name)
            if known is not None and known.outcome is None:
                self._records[record.name] = record
        taken = self._taken or ()
        # What lies here already stays: it was put back after this answer had been read, maybe.
        letters = {event.sequence: event for event in (*(self._mailbox or ()), *task.events)}
        self._mailbox = [letters[each] for each in sorted(letters) if each not in taken]
        self.wake = task.wake_sequence

    # -- names --------------------------------------------------------------------------------

    def name(self, explicit: str) -> str:
        """The full name of a step that the handler named; each may be used once in a run."""
        full = scope.get() + explicit
        if full.startswith(FAILURE_RECORD):
            _refuse_kept(full)
        if full in self._used:
            raise DuplicateStepError(
                f"step name {full!r} is used twice in this run. Each name stands for one recorded"
                " result: give the second step a name of its own, such as"
                f" {explicit + '-2'!r}, or put what it is about into the name"
            )
        self._used[full] = None
        return full

    def numbered(self, base: str) -> str:
        """The full name of a call without a name of its own: ``charge``, ``charge#2``, ..."""
        full = scope.get() + base
        if full.startswith(FAILURE_RECORD):
            _refuse_kept(full)
        number = self._numbers.get(full, 0) + 1
        self._numbers[full] = number
        name = full if number == 1 else f"{full}#{number}"
        if name in self._used:
            return self.name(name.removeprefix(scope.get()))
        self._used[name] = None
        return name

    def count(self, base: str) -> int:
        """The next number of something that is counted within the present scope, from 1."""
        full = scope.get() + base
        number = self._numbers.get(full, 0) + 1
        self._numbers[full] = number
        return number

    def forget(self, prefix: str) -> list[str]:
        """Drop all that is known under a prefix; gives the names of the steps that were there."""
        names = [name for name in self._used if name.startswith(prefix)]
        for number in [key for key in self._numbers if key.startswith(prefix)]:
            del self._numbers[number]
        for name in names:
            del self._used[name]
            self._records.pop(name, None)
            self._attempts.pop(name, None)
        cut_off = [name for name in self.cut_off if name.startswith(prefix)]
        self.cut_off = self.cut_off.difference(cut_off)
        return names + [cut_off_at(name) for name in cut_off]

    def keeps(self, name: str) -> bool:
        """False for a step that goes on beside a loop which has finished its iteration."""
        return name in self._used

    def elsewhere(self, prefix: str) -> list[str]:
        """The distributed steps under a prefix that are not known to have ended."""
        return [
            name
            for name, record in self._records.items()
            if record.kind == "distributed" and record.outcome is None and name.startswith(prefix)
        ]

    @property
    def prefix(self) -> str:
        """What stands before names here."""
        return scope.get()

    # -- records ------------------------------------------------------------------------------

    def find(self, name: str, kind: str) -> Recorded | None:
        """What is recorded under a name; raises `DivergenceError` for another kind of record."""
        record = self._records.get(name)
        if record is not None and record.kind != kind:
            raise DivergenceError(
                f"the history has {_a(record.kind)} under the name {name!r}, the code asks for"
                f" {_a(kind)}: the workflow has been changed under a running execution. Give the"
                " new call another name, or guard it with `patched`"
            )
        return record

    def add(self, record: Recorded) -> None:
        """Note what this run has recorded."""
        self._records[record.name] = record

    def append(
        self, name: str, kind: str, outcome: str | None, value: str | None, due_at: int | None
    ) -> int:
        """Note what this run records next; gives its place in the timeline."""
        self.position = position = self.position + 1
        self._records[name] = Recorded(name, kind, position, outcome, value, due_at)
        return position

    def unused(self) -> bool:
        """True while the history holds steps that this run has not come to yet."""
        return any(name not in self._used for name in self._records)

    def pass_by(self) -> None:
        """What is recorded outside of the present scope will not be come to: it is over."""
        here = scope.get()
        self._used |= {name: None for name in self._records if not name.startswith(here)}

    def attempt(self, name: str) -> RecordedAttempt | None:
        """The last failed attempt of a step without an outcome."""
        return self._attempts.get(name)

    def outcome_of(self, name: str) -> str | None:
        """The outcome under a name, None while there is none."""
        record = self._records.get(name)
        return None if record is None else record.outcome

    def kind_of(self, name: str) -> str | None:
        """The kind of record under a name, None where there is none."""
        record = self._records.get(name)
        return None if record is None else record.kind

    def open(self, names: Iterable[str]) -> list[str]:
        """Those of the names that have no outcome."""
        return [name for name in names if self.outcome_of(name) is None]

    def has_open(self) -> bool:
        """True while a wait or a distributed step has no outcome."""
        kinds = ("sleep", "event", "distributed")
        return any(r.outcome is None and r.kind in kinds for r in self._records.values())

    def failed(self, names: Iterable[str]) -> str | None:
        """The one of the names that failed first.

        Not the first in the caller's order: that one may have failed after the failure of another
        had been raised, and a replay must raise the same.
        """
        failed = [n for n in names if self.outcome_of(n) not in (None, Outcome.OK)]
        return min(failed, key=self._ended, default=None)

    def _ended(self, name: str) -> tuple[int, int]:
        """Orders records by their ends: here they are numbered as they end, elsewhere begun."""
        record = self._records[name]
        elsewhere = record.kind in ("distributed", "child")
        return (record.finished_at or 0) if elsewhere else 0, record.position

    # -- mailbox ------------------------------------------------------------------------------

    def take(self, event: str) -> Event | None:
        """The first event of a name, out of the mailbox."""
        mailbox = self._mailbox or []
        for index, letter in enumerate(mailbox):
            if letter.name == event:
                self._taken = self._taken or set()
                self._taken.add(letter.sequence)
                return mailbox.pop(index)
        return None

    def put_back(self, letter: Event, name: str) -> None:
        """The event that a wait had taken is in the mailbox again, in its old place."""
        self._records.pop(name, None)
        if self._taken:
            self._taken.discard(letter.sequence)
        letters = (*(self._mailbox or ()), letter)
        self._mailbox = sorted(letters, key=lambda each: each.sequence)

    def has_mail(self, event: str) -> bool:
        """True when an event of this name lies in the mailbox."""
        return any(letter.name == event for letter in self._mailbox or ())
