"""The journal's flush: what many tasks commit, in one transaction and one statement of each kind.

The fence comes first: it locks every task's row and reads its epoch, so that what is decided here
still holds at COMMIT. Entries whose claim is lost drop out and change no row in any table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zart.models import Status
from zart.scheduler.entries import Entry, Finish, FinishStep, NewExecution, Park, Receipt
from zart.scheduler.sql.transaction import Transaction
from zart.scheduler.sql.transitions.schedule import insert_executions

__all__ = ["commit", "parent_step_row"]

_PARENT_OUTCOME = {
    Status.COMPLETED: "ok",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


async def commit(tx: Transaction, entries: Sequence[Entry]) -> list[Receipt]:
    """Write what still may be written; gives each entry's receipt."""
    await _lock_parents(tx, entries)
    receipts = await _fence(tx, entries)
    accepted = [e for e, r in zip(entries, receipts, strict=True) if r is Receipt.COMMITTED]
    if accepted:
        batch = _Batch()
        for entry in accepted:
            batch.add(entry)
        await batch.write(tx)
    return receipts


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


async def _fence(tx: Transaction, entries: Sequence[Entry]) -> list[Receipt]:
    keys = {(e.claim.execution_id, e.claim.run, e.claim.step) for e in entries}
    rows = await tx.fetch("fence", entries=sorted(keys))
    held = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
    receipts: list[Receipt] = []
    for entry in entries:
        claim = entry.claim
        epoch, wake = held.get((claim.execution_id, claim.run, claim.step), (None, None))
        if epoch != claim.epoch:
            receipts.append(Receipt.FENCED)
        elif entry.unless_woken is not None and entry.unless_woken != wake:
            receipts.append(Receipt.WOKEN)
        else:
            receipts.append(Receipt.COMMITTED)
    return receipts


class _Batch:
    """The rows of one flush, gathered by statement."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, int, str], tuple[Any, ...]] = {}
        self.attempts: list[tuple[Any, ...]] = []
        self.distributed: list[tuple[Any, ...]] = []
        self.children: list[NewExecution] = []
        self.taken: list[tuple[Any, ...]] = []
        self.erased: list[tuple[str, int, str]] = []
        self.parked: list[tuple[Any, ...]] = []
        self.finished: list[tuple[Any, ...]] = []
        self.ended: list[tuple[str, int, str]] = []
        self.groups: list[tuple[str]] = []
        self.runs: list[tuple[str, int]] = []
        self.mailboxes: list[tuple[str]] = []
        self.countdowns: dict[tuple[str, int], tuple[int, int]] = {}

    def add(self, entry: Entry) -> None:
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
        match entry.ending:
            case None:
                pass
            case Park() as park:
                self._park(entry, park)
            case Finish() as finish:
                self._finish(entry, finish)
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

    def _finish(self, entry: Entry, end: Finish) -> None:
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
        if end.has_events:
            self.mailboxes.append((claim.execution_id,))
        if end.parent is not None:
            row = parent_step_row(end.parent, end.status, end.output or end.failure)
            self.steps[row[0], row[1], row[2]] = row
            self._count_down(end.parent[0], end.parent[1], end.status != Status.COMPLETED)

    def _finish_step(self, entry: Entry, end: FinishStep) -> None:
        claim = entry.claim
        self.steps[claim.execution_id, claim.run, claim.step] = (
            claim.execution_id,
            claim.run,
            claim.step,
            "distributed",
            0,
            end.outcome,
            end.value,
            None,
            end.started_at,
        )
        self.ended.append((claim.execution_id, claim.run, claim.step))
        self._count_down(claim.execution_id, claim.run, end.outcome != "ok")

    def _count_down(self, execution_id: str, run: int, failed: bool) -> None:
        ended, failures = self.countdowns.get((execution_id, run), (0, 0))
        self.countdowns[execution_id, run] = (ended + 1, failures | failed)

    async def write(self, tx: Transaction) -> None:
        if self.erased:
            await tx.execute("erase_steps", entries=self.erased)
            await tx.execute("erase_attempts", entries=self.erased)
            await tx.execute("erase_taken_events", entries=self.erased)
        if self.steps:
            await tx.execute("record_steps", entries=list(self.steps.values()))
        if self.attempts:
            await tx.execute("record_attempts", entries=self.attempts)
        if self.distributed:
            await tx.execute("insert_distributed", entries=sorted(self.distributed))
        if self.children:
            await self._start_children(tx)
        if self.taken:
            await tx.execute("take_events", entries=self.taken)
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
                entries=sorted((*key, *value) for key, value in self.countdowns.items()),
            )

    async def _start_children(self, tx: Transaction) -> None:
        """A child that is there already was started by a commit whose answer was lost."""
        rows = await tx.fetch("existing_executions", entries=[(c.id,) for c in self.children])
        known = {row[0] for row in rows}
        new = [child for child in self.children if child.id not in known]
        if new:
            await insert_executions(tx, new)


def parent_step_row(
    parent: tuple[str, int, str], status: str, value: str | None
) -> tuple[Any, ...]:
    """The row that tells a parent how its child execution ended."""
    outcome = _PARENT_OUTCOME[Status(status)]
    return (*parent, "child", 0, outcome, value, None, None)
