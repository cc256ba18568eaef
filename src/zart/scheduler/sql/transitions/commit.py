"""The journal's flush: what many tasks commit, in one transaction and one statement of each kind.

The fence comes first: it locks every task's row and reads its epoch, so that what is decided here
still holds at COMMIT. Entries whose claim is lost drop out and change no row in any table.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

from zart.models import Failure, Status
from zart.scheduler.entries import Entry, Finish, FinishStep, NewExecution, Park, Receipt
from zart.scheduler.sql.transaction import Row, Transaction
from zart.scheduler.sql.transitions.schedule import insert_executions, same_work

__all__ = ["commit", "commit_at_once", "parent_step_row", "plain"]

_PARENT_OUTCOME = {
    Status.COMPLETED: "ok",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


async def commit(tx: Transaction, entries: Sequence[Entry]) -> list[Receipt]:
    """Write what still may be written; gives each entry's receipt."""
    await _lock_parents(tx, entries)
    receipts, wakes = await _fence(tx, entries)
    if Receipt.COMMITTED in receipts:
        batch = _Batch()
        for entry, receipt, wake in zip(entries, receipts, wakes, strict=True):
            if receipt is Receipt.COMMITTED:
                batch.add(entry, wake)
        await batch.write(tx)
    return [
        _parked(entry.ending, wake) if receipt is Receipt.COMMITTED else receipt
        for entry, receipt, wake in zip(entries, receipts, wakes, strict=True)
    ]


def _parked(ending: object, wake: int) -> Receipt:
    """The receipt of what is written, whose task had this wake sequence under the lock."""
    if type(ending) is Park and (
        ending.ready or (ending.pending >= 0 and ending.wake_sequence != wake)
    ):
        return Receipt.READY
    return Receipt.COMMITTED


def plain(entry: Entry) -> bool:
    """True for an entry of steps' rows, taken events, and an end or park that concerns no other."""
    end = entry.ending
    if type(end) is Finish:
        if end.parent is not None or end.has_steps:
            return False
    elif end is not None and type(end) is not Park:
        return False
    return not (
        entry.attempts
        or entry.distributed
        or entry.children
        or entry.erased
        or entry.retried
        or entry.unless_woken is not None
        or entry.claim.step
    )


_NO_STEP = (None,) * 7
_NO_END = (None,) * 8
_NEITHER = (None, *_NO_END)
"""No taken event and no end."""


async def commit_at_once(tx: Transaction, entries: Sequence[Entry]) -> list[Receipt | None]:
    """Write plain entries in one statement; gives the receipts of those that were written.

    One without has lost its claim, or would end an execution that has just got an event:
    `commit` tells which. Where all do the same, a shorter statement does it in half the time: so
    it is for whoever goes step by step, and for many at the first and last of theirs.
    """
    if all(map(_records_only, entries)):
        return [await _record_at_once(tx, entries)] * len(entries)
    if all(map(_finishes_only, entries)):
        return await _finish_at_once(tx, entries)
    steps: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    others: list[tuple[Any, ...]] = []
    for number, entry in enumerate(entries):
        claim, end = entry.claim, entry.ending
        assert not isinstance(end, FinishStep)
        seen = 0 if end is None else end.wake_sequence
        ends = 1 if type(end) is Finish else 0
        key = (number, claim.execution_id, claim.run, claim.epoch, ends, seen)
        for row in entry.steps:
            # One row for a step, however often it comes in this flush: the last.
            steps[claim.execution_id, claim.epoch, row[2]] = (*key, *row[2:], *_NEITHER)
        for sequence, by in entry.taken:
            others.append((*key, by, *_NO_STEP[1:], sequence, *_NO_END))
        if end is not None:
            others.append((*key, *_ending_row(end)))
        elif not entry.steps and not entry.taken:
            others.append((*key, *_NO_STEP, *_NEITHER))
    ordered = sorted([*steps.values(), *others], key=_by_task)
    rows = await tx.fetch("commit_at_once", entries=ordered)
    wakes = {row[0]: row[1] for row in rows}
    return [
        _parked(entry.ending, wakes[number]) if number in wakes else None
        for number, entry in enumerate(entries)
    ]


def _records_only(entry: Entry) -> bool:
    return not (entry.ending is not None or entry.taken) and bool(entry.steps)


async def _record_at_once(tx: Transaction, entries: Sequence[Entry]) -> Receipt | None:
    """Record steps; the receipt of all when every row was written, or all are written again."""
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for entry in entries:
        epoch = entry.claim.epoch
        for row in entry.steps:
            rows[epoch, row[0], row[2]] = (epoch, *row)
    ordered = sorted(rows.values(), key=_by_task)
    written = await tx.execute("record_at_once", entries=ordered)
    return Receipt.COMMITTED if written == len(ordered) else None


def _finishes_only(entry: Entry) -> bool:
    """True for an end that nothing goes along with, of an execution that was never woken."""
    end = entry.ending
    return type(end) is Finish and not (end.wake_sequence or entry.steps or entry.taken)


async def _finish_at_once(tx: Transaction, entries: Sequence[Entry]) -> list[Receipt | None]:
    rows: list[tuple[Any, ...]] = []
    for number, entry in enumerate(entries):
        claim = entry.claim
        key = (number, claim.execution_id, claim.run, claim.epoch)
        rows.append((*key, *_facts(entry.ending)))
    rows.sort(key=_by_task)
    ended = {row[0] for row in await tx.fetch("finish_at_once", entries=rows)}
    return [Receipt.COMMITTED if n in ended else None for n in range(len(entries))]


def _facts(end: Any) -> tuple[Any, ...]:
    return (end.status, end.output, end.failure, end.attempt, end.crashes, end.started_at)


def _ending_row(end: Any) -> tuple[Any, ...]:
    """From the step's name on: the columns of an end or of a park."""
    if type(end) is Park:
        due = (*_NO_STEP[:5], end.due_at, None)
        return (*due, None, None, None, None, end.attempt, None, None, int(end.ready), end.pending)
    return (*_NO_STEP, None, *_facts(end), None, None)


_by_task = itemgetter(1, 2)
"""Execution and run of a row: transactions lock tasks in this order."""


async def _lock_parents(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Lock the rows that a child's end counts down, before the children's own rows."""
    parents: set[str] = set()
    for entry in entries:
        if type(entry.ending) is FinishStep:
            parents.add(entry.claim.execution_id)
        elif type(entry.ending) is Finish and entry.ending.parent is not None:
            parents.add(entry.ending.parent[0])
    if parents:
        await tx.fetch("lock_executions", entries=[(p,) for p in sorted(parents)])


async def _fence(tx: Transaction, entries: Sequence[Entry]) -> tuple[list[Receipt], list[int]]:
    """Each entry's receipt, and its task's wake sequence as it is under the lock."""
    keys = {(e.claim.execution_id, e.claim.run, e.claim.step, e.claim.epoch) for e in entries}
    # An end and a park change the task's row by themselves.
    ending = [e.claim for e in entries if e.ending and e.unless_woken is None]
    changed = {(c.execution_id, c.run, c.step, c.epoch) for c in ending}
    rows = await tx.fetch("fence", entries=sorted(keys), unchanged=keys - changed)
    held = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
    receipts: list[Receipt] = []
    wakes: list[int] = []
    for entry in entries:
        claim = entry.claim
        epoch, wake = held.get((claim.execution_id, claim.run, claim.step), (None, 0))
        wakes.append(wake)
        if epoch != claim.epoch:
            receipts.append(Receipt.FENCED)
        elif entry.unless_woken is not None and entry.unless_woken != wake:
            receipts.append(Receipt.WOKEN)
        else:
            receipts.append(Receipt.COMMITTED)
    return receipts, wakes


class _Batch:
    """The rows of one flush, gathered by statement."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, int, str], tuple[Any, ...]] = {}
        self.attempts: list[tuple[Any, ...]] = []
        self.distributed: list[tuple[Any, ...]] = []
        self.children: list[NewExecution] = []
        self.taken: list[tuple[Any, ...]] = []
        self.erased: list[tuple[str, int, str]] = []
        self.retried: list[tuple[str, int, str]] = []
        self.parked: list[tuple[Any, ...]] = []
        self.finished: list[tuple[Any, ...]] = []
        self.ended: list[tuple[str, int, str]] = []
        self.groups: list[tuple[str]] = []
        self.runs: list[tuple[str, int]] = []
        self.mailboxes: list[tuple[str]] = []
        self.countdowns: dict[tuple[str, int], tuple[int, int]] = {}
        self.ended_children: dict[str, Finish] = {}
        self.told: list[tuple[Any, ...]] = []
        """What executions are told of the ends of their distributed steps and their children."""

    def add(self, entry: Entry, wake: int) -> None:
        claim = entry.claim
        for row in entry.steps:
            self.steps[row[0], row[1], row[2]] = row
        if entry.attempts:
            self.attempts.extend(entry.attempts)
        if entry.distributed:
            self.distributed.extend(entry.distributed)
        if entry.children:
            self.children.extend(entry.children)
        if entry.taken:
            self.taken.extend((claim.execution_id, seq, by) for seq, by in entry.taken)
        if entry.erased:
            self.erased.extend((claim.execution_id, claim.run, name) for name in entry.erased)
        if entry.called_off:
            self.ended.extend((claim.execution_id, claim.run, name) for name in entry.called_off)
        if entry.retried:
            self.retried.extend((claim.execution_id, claim.run, name) for name in entry.retried)
        if entry.ending is not None:
            self._end(entry, entry.ending, wake)

    def _end(self, entry: Entry, ending: Park | Finish | FinishStep, wake: int) -> None:
        match ending:
            case Park() as park:
                self._park(entry, park)
            case Finish() as finish:
                self._finish(entry, finish, wake)
            case FinishStep() as finish:
                self._finish_step(entry, finish)

    def _park(self, entry: Entry, park: Park) -> None:
        claim = entry.claim
        self.parked.append(
            (
                claim.execution_id,
                claim.run,
                claim.step,
                park.wake_sequence,
                int(park.ready),
                park.due_at,
                park.pending,
                park.attempt,
            )
        )

    def _finish(self, entry: Entry, end: Finish, wake: int) -> None:
        claim = entry.claim
        self.finished.append(
            (
                claim.execution_id,
                end.status,
                end.output,
                end.failure,
                end.attempt,
                end.crashes,
                end.started_at,
            )
        )
        if end.has_steps:
            self.groups.append((claim.execution_id,))
            self.runs.append((claim.execution_id, claim.run))
        else:
            self.ended.append((claim.execution_id, claim.run, claim.step))
        if wake:  # something was delivered, perhaps after the run last looked
            self.mailboxes.append((claim.execution_id,))
        if end.parent is not None:
            self.ended_children[claim.execution_id] = end

    def _finish_step(self, entry: Entry, end: FinishStep) -> None:
        claim = entry.claim
        key = (claim.execution_id, claim.run, claim.step)
        self.told.append((*key, "distributed", 0, end.outcome, end.value, None, end.started_at))
        self.ended.append((claim.execution_id, claim.run, claim.step))
        self._count_down(claim.execution_id, claim.run, end.outcome != "ok")

    def _count_down(self, execution_id: str, run: int, failed: bool) -> None:
        ended, failures = self.countdowns.get((execution_id, run), (0, 0))
        self.countdowns[execution_id, run] = (ended + 1, failures | failed)

    async def write(self, tx: Transaction) -> None:
        await self._write_steps(tx)
        if self.children:
            await self._start_children(tx)
        if self.ended_children:
            await self._end_children(tx)
        if self.told:
            await tx.execute("end_steps", entries=sorted(self.told))
        await self._write_endings(tx)

    async def _write_steps(self, tx: Transaction) -> None:
        if self.taken:  # before what is erased, which takes its events with it
            await tx.execute("take_events", entries=self.taken)
        if self.erased or self.retried:
            await tx.execute("erase_steps", entries=self.erased + self.retried)
        if self.erased:
            await tx.execute("erase_attempts", entries=self.erased)
            await tx.execute("erase_taken_events", entries=self.erased)
        if self.steps:
            await tx.execute("record_steps", entries=list(self.steps.values()))
        if self.attempts:
            await tx.execute("record_attempts", entries=self.attempts)
        if self.distributed:
            await tx.execute("insert_distributed", entries=sorted(self.distributed))

    async def _write_endings(self, tx: Transaction) -> None:
        if self.parked:
            await tx.execute("park_tasks", entries=sorted(self.parked))
        if self.finished:
            await tx.execute("finish_executions", entries=sorted(self.finished))
        if self.ended:
            await tx.execute("delete_tasks", entries=sorted(self.ended))
        if self.groups:
            await tx.execute("cancel_open_steps", entries=sorted(self.runs))
            await tx.execute("delete_task_group", entries=sorted(self.groups))
        if self.mailboxes:
            await tx.execute("delete_events", entries=sorted(self.mailboxes))
        if self.countdowns:
            await tx.execute(
                "count_down",
                entries=sorted((*key, "", *value) for key, value in self.countdowns.items()),
            )

    async def _start_children(self, tx: Transaction) -> None:
        """Start children; one that is there already was started by a commit whose answer was lost.

        Or by an earlier run of the same parent: then it is this run's child from now on. An id
        that belongs to another execution is the child's failure: nobody else would tell the
        parent, which would wait for ever.
        """
        rows = await tx.fetch("existing_executions", entries=[(c.id,) for c in self.children])
        known = {row[0]: row for row in rows}
        new: dict[str, NewExecution] = {}
        adopted: dict[str, NewExecution] = {}
        for child in sorted(self.children, key=lambda c: c.id):
            found = known.get(child.id)
            if found is None:  # of two that begin at once under one id the first has it
                taken = new.setdefault(child.id, child).parent != child.parent
            elif _is_of_earlier_run(found, child):  # the same holds for two that meet it again
                taken = adopted.setdefault(child.id, child).parent != child.parent
                if not taken:
                    await self._adopt(tx, child)
            else:
                taken = found[3:] != child.parent
            if taken and child.parent is not None:
                self._refuse_child(child, child.parent)
        if new:
            await insert_executions(tx, list(new.values()))

    async def _adopt(self, tx: Transaction, child: NewExecution) -> None:
        """Make a child of an earlier run one of this run; its result, where it has ended, too.

        Its row is locked, as by its end: either the end is found here, or it finds this run.
        """
        assert child.parent is not None
        row = (await tx.fetch("lock_execution_row", id=child.id))[0]
        _, run, step = child.parent
        await tx.execute("adopt_child", id=child.id, run=run, step=step)
        if row[4] is not None:
            self._tell(child.parent, row[4], row[5] or row[6])

    def _refuse_child(self, child: NewExecution, parent: tuple[str, int, str]) -> None:
        failure = Failure(
            "ExecutionExistsError",
            f"the id {child.id!r} belongs to another execution, or has other input there: put the"
            " parent's id into it",
        )
        self._tell(parent, Status.FAILED, msgspec.json.encode(failure).decode())

    async def _end_children(self, tx: Transaction) -> None:
        """Tell the parents: the runs that the children belong to now, which may be later ones."""
        ids = [(execution_id,) for execution_id in sorted(self.ended_children)]
        for row in await tx.fetch("lock_children", entries=ids):
            end = self.ended_children[row[0]]
            self._tell(row[1:], end.status, end.output or end.failure)

    def _tell(self, parent: tuple[str, int, str], status: str, value: str | None) -> None:
        self.told.append(parent_step_row(parent, status, value))
        self._count_down(parent[0], parent[1], status != Status.COMPLETED)


def _is_of_earlier_run(found: Row, child: NewExecution) -> bool:
    """True for the child with the same input that an earlier run of this parent started."""
    if child.parent is None or found[3] != child.parent[0]:
        return False
    return bool(found[4] < child.parent[1]) and same_work(child, found[1], found[2])


def parent_step_row(
    parent: tuple[str, int, str], status: str, value: str | None
) -> tuple[Any, ...]:
    """The row that tells a parent how its child execution ended."""
    outcome = _PARENT_OUTCOME[Status(status)]
    return (*parent, "child", 0, outcome, value, None, None)
