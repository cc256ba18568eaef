"""Workers and the queue."""

from __future__ import annotations

from collections.abc import Sequence

from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.doctor.check import Check, amount, fetch, graded, ok, problem, span, warning
from zart.scheduler.sql.transaction import Row
from zart.scheduler.sql.transitions.lease import WorkerRow

__all__ = ["CHECKS"]

_LAG = (30.0, 300.0)
"""Seconds that something may be ready until it is worth a word, and until it is a problem."""
_SHOWN = 5


async def workers(database: Database) -> Sequence[Finding]:
    rows = [WorkerRow(*row) for row in await fetch(database, "list_workers")]
    alive = [row for row in rows if not row.expired]
    findings: list[Finding] = []
    if alive:
        slots = sum(row.concurrency for row in alive)
        hosts = len({row.host for row in alive})
        findings.append(
            ok(
                "workers",
                f"{len(alive)} alive on {amount(hosts, 'machine')}, {amount(slots, 'slot')}",
            )
        )
    else:
        live = (await fetch(database, "doctor_live"))[0][0]
        make = problem if live else warning
        findings.append(
            make(
                "workers",
                "none is alive",
                f"{amount(live, 'execution')} alive and nobody to run what is ready"
                if live
                else "nothing will run",
                "start one: `zart worker MODULE`",
            )
        )
    if dead := [row for row in rows if row.expired]:
        since = max(row.now_at - row.expires_at for row in dead) / 1_000_000
        findings.append(
            warning(
                "dead workers",
                f"{amount(len(dead), 'worker')} without a beat, for up to {span(since)}",
                "what they were running stands still until a living worker takes it over",
                "a living worker does so within seconds: if they stay, look at its log (zart.lease)"
                if alive
                else "start a worker: it takes over what they were running",
            )
        )
    return findings


async def queue(database: Database) -> Sequence[Finding]:
    """How long the oldest ready row has waited, and whether anyone can run it."""
    groups = await fetch(database, "doctor_ready", amount=1000)
    if not groups:
        return [ok("queue", "nothing waits for a worker")]
    now = (await fetch(database, "doctor_now"))[0][0]
    waits = {(g[0], g[1]): max(0.0, (now - g[3]) / 1_000_000) for g in groups}
    amounts = {(g[0], g[1]): int(g[2]) for g in groups}
    alive = _Alive(
        [WorkerRow(*row) for row in await fetch(database, "list_workers")],
        await fetch(database, "doctor_running"),
    )
    slots = alive.slots
    findings: list[Finding] = []
    unknown = [key for key, wait in waits.items() if wait >= _LAG[0] and not alive.may_know(*key)]
    if unknown:
        findings.append(_unknown(unknown, amounts, waits))
    known = {key: wait for key, wait in waits.items() if key not in unknown}
    if known:
        oldest = max(known.values())
        total = sum(amounts[key] for key in known)
        findings.append(
            graded(
                "queue",
                f"{amount(total, 'row')} ready, the oldest for {span(oldest)}",
                oldest,
                _LAG,
                meaning=f"there is more to do than {amount(slots, 'slot')} can take"
                if slots
                else "there is no worker to take it",
                advice="start more workers, or raise their concurrency"
                if slots
                else "start a worker",
            )
        )
    return findings


class _Alive:
    """The workers that are alive, and what they are running."""

    def __init__(self, rows: Sequence[WorkerRow], running: Sequence[Row]) -> None:
        self._free = {row.id: row.concurrency for row in rows if not row.expired}
        self.slots = sum(self._free.values())
        self._running = {(row[1], row[2]) for row in running if row[0] in self._free}
        self._serving: dict[str, set[str]] = {}
        for worker, queue, _task, number in running:
            if worker in self._free:
                self._free[worker] -= number
                self._serving.setdefault(queue, set()).add(worker)

    def may_know(self, queue: str, task: str) -> bool:
        """False when someone who works on this queue could have taken a task of this name.

        Whoever knows the name takes it within a second when there is a free slot.
        """
        if (queue, task) in self._running:
            return True
        serving = self._serving.get(queue, self._free.keys())
        return not any(self._free[worker] > 0 for worker in serving)


def _unknown(
    keys: Sequence[tuple[str, str]],
    amounts: dict[tuple[str, str], int],
    waits: dict[tuple[str, str], float],
) -> Finding:
    names = ", ".join(
        f"{task!r} in queue {queue!r} ({amounts[queue, task]:,} for {span(waits[queue, task])})"
        for queue, task in keys[:_SHOWN]
    )
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return problem(
        "unknown tasks",
        f"no worker takes {names}{more}",
        "workers are alive and have slots free: none has this name in its registry, or none works"
        " on this queue",
        "start a worker with the code of these tasks, or cancel the executions: `zart list --status"
        " pending`",
    )


CHECKS: Sequence[Check] = (workers, queue)
