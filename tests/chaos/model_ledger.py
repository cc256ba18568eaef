"""The ledger: what really happened in this process, whatever the database says.

Handlers and step functions write here, and each line is checked against those before it. What is
wrong is kept as a violation: an exception would be taken for the workflow's own.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from zart.models import Claim, ClaimedTask

__all__ = ["Key", "Ledger", "Life", "Recording"]

Key: TypeAlias = tuple[str, int, str]
"""execution, run, step"""
Recording: TypeAlias = tuple[str, int, str, str, str, str | None]
"""execution, run, step, kind, outcome, value: a row of the steps' table that has an outcome"""


@dataclass(eq=False)
class Health:
    """Whether anything has been done to a worker that may make its claims another's."""

    sound: bool = True
    ending: set[Claim] = field(default_factory=set)
    """Claims whose handlers have ended, and whose last entry is being written."""


@dataclass(eq=False)
class Life:
    """One claim at work: a handler's run from its start to its end, or a distributed step's."""

    ledger: Ledger
    claim: Claim
    attempt: int
    health: Health
    began: int
    softs: dict[str, str] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Steps that each branch began after the execution's end from outside was known."""

    @property
    def execution(self) -> str:
        return self.claim.execution_id

    def key(self, step: str) -> Key:
        return (self.claim.execution_id, self.claim.run, step)


class Ledger:
    """Everything that steps did, of all executions of one run of the machine."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.lines: deque[str] = deque(maxlen=3000)
        self.begun: dict[Key, int] = defaultdict(int)
        self.committed: dict[Key, bool] = {}
        """Steps that are known to be recorded, and whether as ok."""
        self.seen: dict[Key, str] = {}
        """What the workflow got from a recorded step."""
        self.recorded: dict[Key, Recording] = {}
        self.escaped: set[Key] = set()
        self.reached: dict[Key, tuple[int, float]] = {}
        self.waiting: dict[Key, str] = {}
        """The event that a wait is for."""
        self.taken: dict[Key, int] = {}
        """The number of the event that a wait took."""
        self.activity = 0
        self.children: dict[str, tuple[str, int]] = {}
        self.moment = 0
        self._moments = itertools.count(1)
        self._lock = threading.RLock()
        self._lives: dict[Claim, Life] = {}
        self._claims: set[Claim] = set()
        self._over: dict[tuple[str, int], int] = {}
        self._late_lives: dict[Key, int] = defaultdict(int)
        self._shifts: list[tuple[float, float]] = []

    def line(self, text: str) -> int:
        with self._lock:
            self.moment = next(self._moments)
            self.lines.append(f"{self.moment:5} {time.monotonic():.3f} {text}")
            return self.moment

    def wrong(self, text: str) -> None:
        self.line(f"VIOLATION {text}")
        self.violations.append(text)

    def value(self, step: str) -> str:
        """A value that no other run of any step has."""
        return f"{step} {self.line(f'value of {step}')}"

    # -- lives --------------------------------------------------------------------------------

    def begin_life(self, task: ClaimedTask, health: Health) -> Life:
        """A worker has claimed a task and starts it."""
        claim = task.claim
        with self._lock:
            self.activity += 1
            self.line(f"life {claim} attempt {task.attempt} crashes {task.crashes}")
            if claim in self._claims:
                self.wrong(f"two claims with one epoch: {claim}")
            self._claims.add(claim)
            for other in self._lives.values():
                same = _place(other.claim) == _place(claim)
                working = other.health.sound and other.claim not in other.health.ending
                if same and working and not self._is_over(claim):
                    self.wrong(f"{claim} began while {other.claim} of a sound worker was at work")
            if self._is_over(claim):
                self._late_lives[_place(claim)] += 1
                if self._late_lives[_place(claim)] > 1:
                    self.wrong(f"{claim} was claimed after its execution had ended")
            self._check_history(task)
            life = self._lives[claim] = Life(self, claim, task.attempt, health, self.moment)
            return life

    def end_life(self, claim: Claim) -> None:
        with self._lock:
            if self._lives.pop(claim, None):
                self.activity += 1
                self.line(f"end of {claim}")

    @property
    def alive(self) -> int:
        return len(self._lives)

    def _check_history(self, task: ClaimedTask) -> None:
        """What is known to be recorded comes with the claim; finished rounds are dropped."""
        claim = task.claim
        if claim.step:
            return
        history = {step.name: step for step in task.steps}
        for key, ok in self.committed.items():
            if key[:2] != (claim.execution_id, claim.run) or "[" in key[2] or not ok:
                continue
            found = history.get(key[2])
            if found is None or found.outcome != "ok":
                self.wrong(
                    f"{claim} came without the recorded step {key[2]!r}: {history.get(key[2])}"
                )
            elif key in self.seen and json.loads(found.value or "null") != self.seen[key]:
                self.wrong(f"{claim} came with another {key[2]!r}: {found.value}, {self.seen[key]}")

    # -- steps --------------------------------------------------------------------------------

    def begin(self, life: Life, step: str, branch: str, *, soft: bool = False) -> int:
        """A step's function begins; gives how often it has."""
        with self._lock:
            key = life.key(step)
            self.activity += 1
            self.line(f"begin {key} epoch {life.claim.epoch}")
            self.begun[key] += 1
            if key in self.committed and (self.committed[key] or key not in self.escaped):
                self.wrong(f"{key} ran again after its commit (epoch {life.claim.epoch})")
            if self._is_over(life.claim) and not soft:
                life.late[branch] += 1
                if life.late[branch] > 1:
                    self.wrong(f"{key} began, a later step of an execution that had been ended")
            return self.begun[key]

    def settle(self, life: Life, softs: Iterable[tuple[str, str]]) -> None:
        """An ordinary step has begun: the idempotent ones before it are recorded by now."""
        with self._lock:
            for step, value in softs:
                self._commit(life.key(step), value)

    def see(
        self, life: Life, step: str, value: Any, *, soft: bool = False, ok: bool = True
    ) -> None:
        """The workflow got a step's outcome, which is recorded then, unless it is a soft one."""
        with self._lock:
            self.line(f"seen {life.key(step)} {value!r} epoch {life.claim.epoch}")
            if soft:
                life.softs[step] = value
                if life.key(step) in self.committed:
                    self._commit(life.key(step), value)
            else:
                self._commit(life.key(step), value, ok=ok)

    def _commit(self, key: Key, value: str, *, ok: bool = True) -> None:
        again = key in self.escaped and not self.committed.get(key, True)
        if not again and self.seen.setdefault(key, value) != value:
            self.wrong(f"{key} gave {self.seen[key]!r} and then {value!r}")
        self.seen[key] = value
        self.committed[key] = ok

    def escape(self, life: Life, steps: Iterable[str]) -> None:
        """These steps' failures have left the handler: its next attempt runs them again."""
        with self._lock:
            for step in steps:
                self.line(f"escaped {life.key(step)}")
                self.escaped.add(life.key(step))

    def compare(self, rows: list[Recording]) -> None:
        """What the database has recorded stays recorded, and is not run again from here on."""
        with self._lock:
            present = {row[:3]: row for row in rows}
            for key, before in self.recorded.items():
                now = present.get(key)
                # A failure that escaped is tried again, and so is what it cut off.
                again = key in self.escaped or before[4] == "cancelled"
                if now is None and "[" not in key[2] and not again:
                    self.wrong(f"the record of {key} has vanished: {before}")
                if now is not None and now != before and not again:
                    self.wrong(f"the record of {key} has changed: {before} is now {now}")
            self.recorded |= present
            for key, row in present.items():
                if row[3:5] == ("event", "ok"):
                    self._take(key, int(json.loads(row[5] or "null")))
                if row[3] in ("step", "capture", "distributed") and row[4] == "ok":
                    self.committed[key] = True
                    if key in self.escaped and self.seen.get(key, "").startswith("!"):
                        del self.seen[key]  # it was tried again, and nobody has seen that yet
                    if key in self.seen and json.loads(row[5] or "null") != self.seen[key]:
                        self.wrong(f"{key} gave {self.seen[key]!r} and recorded {row[5]}")

    def wait_over(self, life: Life, step: str, value: str, *, taken: int | None = None) -> None:
        """The workflow's wait has ended, with this; a replay must give the same."""
        with self._lock:
            key = life.key(step)
            self.line(f"waited {key} {value}")
            if self.seen.setdefault(key, value) != value:
                self.wrong(f"{key} gave {self.seen[key]!r} and then {value!r}")
            if taken is not None:
                self._take(key, taken)

    def _take(self, key: Key, number: int) -> None:
        if number in self.taken.values() and self.taken.get(key) != number:
            self.wrong(f"{key} took event {number}, which another wait had: {self.taken}")
        if self.taken.setdefault(key, number) != number:
            self.wrong(f"{key} took event {self.taken[key]} and then {number}")

    # -- ends from outside --------------------------------------------------------------------

    def over(self, execution: str, run: int) -> None:
        """This run is known to have been cancelled, or superseded by a restart."""
        with self._lock:
            self._over.setdefault((execution, run), self.line(f"over {execution} {run}"))

    def _is_over(self, claim: Claim) -> bool:
        return (claim.execution_id, claim.run) in self._over

    # -- time ---------------------------------------------------------------------------------

    def reach(self, life: Life, step: str) -> None:
        """The workflow has come to a wait; the first time counts."""
        with self._lock:
            moment = self.line(f"reached {life.key(step)}")
            self.reached.setdefault(life.key(step), (moment, time.monotonic()))

    def shift(self, seconds: float) -> None:
        with self._lock:
            self.line(f"{seconds} s pass")
            self._shifts.append((time.monotonic(), seconds))

    def elapsed(self, life: Life, step: str) -> float:
        """At most so many seconds have passed since a wait was first reached."""
        with self._lock:
            since = self.reached[life.key(step)][1]
            passed = sum(seconds for at, seconds in self._shifts if at >= since)
            return time.monotonic() - since + passed

    def of(self, execution: str) -> Iterator[str]:
        """The lines about an execution."""
        return (line for line in self.lines if execution in line)


def _place(claim: Claim) -> Key:
    return (claim.execution_id, claim.run, claim.step)
