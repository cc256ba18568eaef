"""The plain model of the guarantees: what each execution may be in, and how all must end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

import zart
from tests.chaos.model_hosts import MAX_CRASHES, database_of
from tests.chaos.model_ledger import Key, Ledger, Recording
from tests.chaos.model_programs import ALWAYS, Op, Program, operations
from tests.chaos.model_tasks import WRITES
from zart.models import Failure
from zart.scheduler.sql.transaction import Row
from zart.testing.conformance.rows import on_driver

__all__ = ["BrokenPromiseError", "Case", "Model", "Oracle", "Picture"]

TERMINAL = ("completed", "failed", "cancelled")
FAILURES = {
    "tests.chaos.model_tasks.StumbledError",
    "zart.errors.StepFailedError",
    "ExceptionGroup",
}


class BrokenPromiseError(AssertionError):
    """The database and the ledger tell of something that must not be."""


class Execution(msgspec.Struct, frozen=True):
    """A row of the executions, as far as the model looks at it."""

    id: str
    task: str
    status: str | None
    output: str | None
    failure: str | None
    run: int
    crashes: int
    parent: str | None


class Task(msgspec.Struct, frozen=True):
    """A row of the live tasks."""

    execution: str
    run: int
    step: str
    worker: str | None
    ready_at: int | None
    due_at: int | None
    pending: int

    @property
    def parked(self) -> bool:
        return self.worker is None and self.ready_at is None


@dataclass(frozen=True)
class Picture:
    """The database at one moment."""

    executions: dict[str, Execution]
    tasks: list[Task]
    recorded: list[Recording]
    open: list[tuple[str, int, str, str]]
    """execution, run, step, kind of what has no outcome"""

    @property
    def alive(self) -> list[Execution]:
        return [each for each in self.executions.values() if each.status is None]


class Oracle:
    """Reads the tables by connections of its own, to which nobody does harm but the server."""

    def __init__(self, scheduler: zart.DurableScheduler) -> None:
        self._database = database_of(scheduler)

    async def ask(self, *queries: str) -> list[list[Row]]:
        """The rows of queries, or the effect of statements, in one transaction."""
        patience = time.monotonic() + 20
        named = [self._database.tables.fill(query) for query in queries]
        while True:
            try:
                async with self._database.own_transaction(1) as (_, connection):
                    return [await on_driver(connection, query) for query in named]
            except Exception as error:
                if not self._database.transient(error) or time.monotonic() > patience:
                    raise
                await asyncio.sleep(0.01)

    async def look(self) -> Picture:
        executions, tasks, steps = await self.ask(
            "SELECT id, task, status, output, failure, run, crashes, parent_id FROM {executions}",
            "SELECT execution_id, run, step, worker, ready_at, due_at, pending FROM {tasks}"
            " ORDER BY execution_id, run, step",
            "SELECT execution_id, run, name, kind, outcome, value FROM {steps}",
        )
        recorded: list[Any] = [tuple(row) for row in steps if row[4] is not None]
        return Picture(
            {row[0]: Execution(*row) for row in executions},
            [Task(*row) for row in tasks],
            recorded,
            [(row[0], row[1], row[2], row[3]) for row in steps if row[4] is None],
        )


@dataclass(eq=False)
class Case:
    """One execution that was scheduled, with all that was asked of it."""

    id: str
    task: str
    program: Program


@dataclass(frozen=True)
class Offer:
    """An event that was acknowledged; those of one burst were offered at once."""

    moment: int
    event: str
    number: int
    burst: int


@dataclass(eq=False)
class Model:
    """What was asked for and acknowledged, and what must hold in consequence."""

    ledger: Ledger
    cases: list[Case] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    offers: dict[tuple[str, int], list[Offer]] = field(default_factory=lambda: defaultdict(list))
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    deaths: int = 0
    _before: dict[str, Execution] = field(default_factory=dict)

    # -- what was asked -----------------------------------------------------------------------

    def cancel(self, execution: str) -> None:
        """A cancel has been acknowledged."""
        self.cancelled.add((execution, self.runs[execution]))
        self.ledger.over(execution, self.runs[execution])

    def restart(self, execution: str, run: int) -> None:
        """A restart has been acknowledged."""
        if run != self.runs[execution] + 1:
            self.ledger.wrong(f"{execution} began run {run} after {self.runs[execution]}")
        self.ledger.over(execution, self.runs[execution])
        self.runs[execution] = run

    def offered(self, execution: str, event: str, number: int, burst: int) -> None:
        moment = self.ledger.line(f"offered {execution} {event} {number}")
        offers = self.offers[execution, self.runs[execution]]
        offers.append(Offer(moment, event, number, burst))

    def untaken(self, execution: str, run: int, event: str) -> list[Offer]:
        """Acknowledged events of a name that no wait has taken."""
        taken = {number for key, number in self.ledger.taken.items() if key[:2] == (execution, run)}
        offers = self.offers.get((execution, run), [])
        return [each for each in offers if each.event == event and each.number not in taken]

    # -- what holds at every moment -----------------------------------------------------------

    def observe(self, picture: Picture) -> None:
        """Check a picture against those before it."""
        self.ledger.compare(picture.recorded)
        for now in picture.executions.values():
            self._check_status(now, self._before.get(now.id))
        for lost in self._before.keys() - picture.executions.keys():
            self.ledger.wrong(f"execution {lost} has vanished")
        for case in self.cases:
            if case.id not in picture.executions:
                self.ledger.wrong(f"execution {case.id} was scheduled and is lost")
        self._before = dict(picture.executions)
        self.tell()

    def tell(self) -> None:
        """Raise what the ledger has found wrong."""
        if self.ledger.violations:
            raise BrokenPromiseError("\n".join(self.ledger.violations[:5]))

    def _check_status(self, now: Execution, before: Execution | None) -> None:
        wrong = self.ledger.wrong
        if now.status not in (None, *TERMINAL):
            wrong(f"{now} has no such status")
        if now.run != self.runs[now.id]:
            wrong(f"{now} is not in run {self.runs[now.id]}, the one last asked for")
        if ((now.id, now.run) in self.cancelled) != (now.status == "cancelled"):
            wrong(f"{now}: cancelled is what was asked and acknowledged, and nothing else")
        if before and before.run == now.run and before.status and before != now:
            wrong(f"{before} had ended and is now {now}")
        if now.crashes > self.deaths:
            wrong(f"{now} counts more crashes than there were: {self.deaths}")

    # -- what holds in the end ----------------------------------------------------------------

    def check_end(self, picture: Picture, rows: dict[str, list[Row]]) -> None:
        """Everything has drained: nothing is left over, and every promise was kept."""
        self.observe(picture)
        self._check_leftovers(picture, rows)
        self._check_writes(picture, rows["writes"])
        self._check_attempts(rows["attempts"])
        for case in self.cases:
            self._check_case(case, picture.executions[case.id])
        for key in self.offers:
            self._check_events(*key)
        known = {case.id for case in self.cases} | self.ledger.children.keys()
        if strangers := picture.executions.keys() - known:
            self.ledger.wrong(f"nobody scheduled {strangers}")
        self.tell()

    def _check_leftovers(self, picture: Picture, rows: dict[str, list[Row]]) -> None:
        wrong = self.ledger.wrong
        if picture.alive or picture.tasks or rows["events"]:
            wrong(f"left over: {picture.alive}, {picture.tasks}, {rows['events']}")
        for execution, run, step, kind in picture.open:
            if kind != "loop":  # one that was left by an error stays open
                wrong(f"{execution} {run} {step}: a {kind} without an outcome is left")
        places = {(each.id, run) for each in picture.executions.values()
                  for run in range(1, each.run + 1)}  # fmt: skip
        for row in [*picture.recorded, *rows["attempts"]]:
            if (row[0], row[1]) not in places:
                wrong(f"an orphan: {row}")
        for each in picture.executions.values():
            kept = sorted(row[1] for row in rows["runs"] if row[0] == each.id)
            if kept != list(range(1, each.run)):
                wrong(f"{each.id} is in run {each.run} and has kept {kept}")

    def _check_writes(self, picture: Picture, rows: list[Row]) -> None:
        """The user's rows stand for recorded steps, each once."""
        written: Counter[Key] = Counter((row[0], row[1], row[2]) for row in rows)
        recorded = {row[:3]: row for row in picture.recorded if row[3] == "transaction"}
        for key, times in written.items():
            if times > 1 or (key not in recorded and "[" not in key[2]):
                self.ledger.wrong(f"{key} was written {times} times, recorded {recorded.get(key)}")
        for key, record in recorded.items():
            values = [row[3] for row in rows if tuple(row[:3]) == key]
            if record[4] != "ok" or values != [json.loads(record[5] or "null")]:
                self.ledger.wrong(f"{record} is recorded, the user's rows are {values}")

    def _check_attempts(self, rows: list[Row]) -> None:
        """The failed attempts of each step are all there: none skipped, none counted twice."""
        numbers: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for row in rows:
            numbers[tuple(row[:4])].append(row[4])
        for place, found in numbers.items():
            # Those of the run itself are one to each run attempt.
            if place[2] not in ("", "on_failure") and sorted(found) != list(
                range(1, len(found) + 1)
            ):
                self.ledger.wrong(f"{place} has the attempts {sorted(found)}")

    def _check_events(self, execution: str, run: int) -> None:
        """Events of one name were taken in the order of their offers, and timed out in none's
        favour: a wait does not time out over an event that was there when it began."""
        offers = self.offers[execution, run]
        known = {each.number: each for each in offers}
        taken = [n for key, n in self.ledger.taken.items() if key[:2] == (execution, run)]
        if strangers := set(taken) - known.keys():
            self.ledger.wrong(f"{execution} took events that nobody offered: {strangers}")
        for number in taken:
            late = known.get(number)
            for left in self.untaken(execution, run, late.event) if late else ():
                if late and left.burst < late.burst:
                    self.ledger.wrong(f"{execution} took {late} and left {left}")
        for key, value in self.ledger.seen.items():
            if key[:2] == (execution, run) and value == "!timed out":
                event, begun = self.ledger.waiting[key], self.ledger.reached[key][0]
                for left in self.untaken(execution, run, event):
                    if left.moment < begun:
                        self.ledger.wrong(f"{key} timed out although {left} was there")

    # -- how one execution ends ---------------------------------------------------------------

    def _check_case(self, case: Case, now: Execution) -> None:
        if now.status == "cancelled":
            return
        if now.status not in permitted(case) and not self._fell_otherwise(case, now):
            self.ledger.wrong(f"{now} may be {permitted(case)} for {case.program}")
        if now.status == "completed":
            lines = json.loads(now.output or "null")
            names = list(expected(case.program))
            if [name for name, _ in lines] != names:
                self.ledger.wrong(f"{now} gave {lines}, expected are {names}")
            for name, value in lines:
                seen = self.ledger.seen.get((now.id, now.run, name), value)
                if seen != value:
                    self.ledger.wrong(f"{now} gave {value!r} for {name}, seen was {seen!r}")
        otherwise = now.status != "failed" or self._fell_otherwise(case, now)
        if not otherwise and failure(now).type not in FAILURES:
            self.ledger.wrong(f"{now} failed for a reason of its own")

    def _fell_otherwise(self, case: Case, now: Execution) -> bool:
        """Whether it failed by its deadline, or for its crashes."""
        if now.status != "failed":
            return False
        kind = failure(now).type
        return (case.task == "hasty" and kind == "ExecutionTimedOut") or (
            kind == "CrashLoop" and now.crashes > MAX_CRASHES
        )


def failure(execution: Execution) -> Failure:
    return msgspec.json.decode(execution.failure or "null", type=Failure)


def permitted(case: Case) -> set[str]:
    """How a case may end that nobody cancels."""
    stumbles = [op["times"] for op in reached(case.program) if op["op"] == "stumble"]
    trips = [op["fails"] for op in reached(case.program) if op["op"] == "trip"]
    if not stumbles and not trips:
        return {"completed"}
    if ALWAYS in stumbles or ALWAYS in trips:
        return {"failed"}
    if case.task != "stubborn":
        # A crash may have swallowed the failure of a step, but never an attempt at the run.
        return {"failed"} if stumbles else {"failed", "completed"}
    if max(stumbles, default=0) + sum(trips) <= 2:  # its retries
        return {"completed"}
    return {"failed", "completed"}


def reached(program: Program) -> Iterator[Op]:
    """The operations that are played, those in loops once for each round."""
    for op in program:
        if op["op"] == "loop":
            for _ in range(op["rounds"]):
                yield from reached(op["body"])
        elif op["op"] == "gather":
            yield op
            for branch in op["branches"]:
                yield from reached(branch)
        else:
            yield from operations([op])


def expected(program: Program, name: str = "", scope: str = "") -> Iterator[str]:
    """The names of the lines that a program's output has, in order."""
    for number, op in enumerate(program):
        here = f"{name}{number}"
        match op["op"]:
            case "sleep" | "stumble":
                pass
            case "gather":
                for n, branch in enumerate(op["branches"]):
                    yield from expected(branch, f"{here}g{n}.", scope)
            case "loop":
                for n in range(op["rounds"]):
                    yield from expected(op["body"], f"{here}b", f"{scope}{here}[{n}]/")
            case _:
                yield scope + here


END_QUERIES = {
    "events": "SELECT * FROM {events}",
    "runs": "SELECT execution_id, run, status FROM {runs}",
    "attempts": "SELECT execution_id, run, step, run_attempt, attempt FROM {step_attempts}",
    "writes": f"SELECT execution, run, step, value FROM {WRITES}",
}
