"""The tasks of the model: handlers that play the program they are given, and tell the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import zart
from tests.chaos.model_ledger import Life
from tests.chaos.model_programs import Op, Program
from zart.duration import seconds
from zart.models import Failure
from zart.testing.conformance.rows import on_driver

__all__ = ["LIFE", "REGISTERED", "WRITES"]

LIFE: ContextVar[Life] = ContextVar("life")
"""The life that the present code belongs to."""
WRITES = "model_writes"
"""The user's own table."""
EARLY = 2.0
"""Seconds by which a worker's idea of the database's time may lag behind on a busy machine."""

Lines: TypeAlias = list[list[str]]


class BusinessError(Exception):
    """What a step lists in ``raises``."""


class StumbledError(Exception):
    """The workflow's own failure."""


@dataclass(frozen=True)
class At:
    """Where an operation stands: its name, the loop's rounds around it, its branch."""

    name: str
    scope: str = ""
    branch: str = ""

    @property
    def full(self) -> str:
        return self.scope + self.name


class Player:
    """Plays a program in one life; gives what the workflow saw, line by line."""

    def __init__(self, ctx: zart.TaskContext, life: Life) -> None:
        self.ctx = ctx
        self.life = life
        self.ledger = life.ledger

    async def play(self, program: Program, at: At) -> Lines:
        lines: Lines = []
        for number, op in enumerate(program):
            lines += await getattr(self, op["op"])(op, replace(at, name=f"{at.name}{number}"))
        return lines

    def _begin(self, at: At, *, soft: bool = False) -> Callable[[], int]:
        """Made where the step is called; to be called where its function begins."""
        before = list(self.life.softs.items())

        def begin() -> int:
            times = self.ledger.begin(self.life, at.full, at.branch, soft=soft)
            if not soft:
                self.ledger.settle(self.life, before)
            return times

        return begin

    def _saw(self, at: At, value: str, *, soft: bool = False) -> Lines:
        self.ledger.see(self.life, at.full, value, soft=soft, ok=not value.startswith("!"))
        return [[at.full, value]]

    # -- steps --------------------------------------------------------------------------------

    async def step(self, op: Op, at: At) -> Lines:
        begin, takes = self._begin(at, soft=op["soft"]), op["takes"] / 1000

        async def work() -> str:
            begin()
            await asyncio.sleep(takes)
            return self.ledger.value(at.full)

        def plain() -> str:
            begin()
            time.sleep(takes)
            return self.ledger.value(at.full)

        if op["plain"]:
            value = await self.ctx.step(at.name, plain, idempotent=op["soft"])
        else:
            value = await self.ctx.step(at.name, work, idempotent=op["soft"])
        return self._saw(at, value, soft=op["soft"])

    async def fail(self, op: Op, at: At) -> Lines:
        begin, how = self._begin(at), op["how"]

        async def work() -> None:
            begin()
            if how == "late":
                await asyncio.sleep(60)
            raise (BusinessError if how == "business" else ValueError)(self.ledger.value(at.full))

        try:
            await self.ctx.step(
                at.name,
                work,
                retry=zart.RetryConfig.fixed(op["retries"], op["pause"]),
                timeout="30ms" if how == "late" else None,
                raises=(BusinessError,),
            )
        except (zart.StepError, BusinessError) as error:
            return self._saw(at, f"!{type(error).__name__} {error}")
        self.ledger.wrong(f"{at.full} of {self.life.claim} cannot succeed, and did")
        return []

    def _failing(self, at: At, fails: int, takes: float = 0.0) -> Callable[[], Any]:
        begin = self._begin(at)

        async def work() -> str:
            times = begin()
            await asyncio.sleep(takes)
            value = self.ledger.value(at.full)
            if times <= fails:
                raise ValueError(value)
            return value

        return work

    async def flaky(self, op: Op, at: At) -> Lines:
        retry = zart.RetryConfig.fixed(op["fails"] + op["spare"], op["pause"])
        value = await self.ctx.step(at.name, self._failing(at, op["fails"]), retry=retry, type=str)
        return self._saw(at, value)

    async def trip(self, op: Op, at: At) -> Lines:
        try:
            value = await self.ctx.step(at.name, self._failing(at, op["fails"]), type=str)
        except zart.StepFailedError as error:
            self._saw(at, f"!{error}")
            raise
        return self._saw(at, value)

    async def write(self, op: Op, at: At) -> Lines:
        value = await self.ctx.transaction(at.name, self._insert, at.full, op["takes"] / 1000)
        return self._saw(at, value)

    async def _insert(self, connection: Any, full: str, takes: float) -> str:
        value = self.ledger.value(full)
        execution, run, _ = self.life.key(full)
        place = f"('{execution}', {run}, '{full}', '{value}')"
        await on_driver(connection, f"INSERT INTO {WRITES} VALUES {place}")
        await asyncio.sleep(takes)
        return value

    async def capture(self, op: Op, at: At) -> Lines:
        begin = self._begin(at)

        def look() -> str:
            begin()
            return self.ledger.value(at.full)

        return self._saw(at, await self.ctx.capture(at.name, look))

    async def draw(self, op: Op, at: At) -> Lines:
        value = str(self.ctx.uuid())
        key = self.life.key(at.full)
        if self.ledger.seen.setdefault(key, value) != value:
            self.ledger.wrong(f"{key} drew {self.ledger.seen[key]} and then {value}")
        return [[at.full, value]]

    async def stumble(self, op: Op, at: At) -> Lines:
        if self.ctx.attempt <= op["times"]:
            raise StumbledError(at.full)
        return []

    # -- waits --------------------------------------------------------------------------------

    async def sleep(self, op: Op, at: At) -> Lines:
        self.ledger.reach(self.life, at.full)
        await self.ctx.sleep(at.name, op["duration"])
        slept = self.ledger.elapsed(self.life, at.full)
        if slept < seconds(op["duration"]) - EARLY:
            self.ledger.wrong(f"{at.full} of {self.life.claim} woke after {slept} s: {op}")
        return []

    async def event(self, op: Op, at: At) -> Lines:
        self.ledger.reach(self.life, at.full)
        self.ledger.waiting[self.life.key(at.full)] = op["event"]
        try:
            number = await self.ctx.wait_for_event(
                op["event"], type=int, timeout=op["timeout"], name=at.name
            )
        except zart.EventTimedOutError:
            return self._waited(at, "!timed out")
        return self._waited(at, f"{op['event']} {number}", taken=number)

    def _waited(self, at: At, value: str, *, taken: int | None = None) -> Lines:
        self.ledger.wait_over(self.life, at.full, value, taken=taken)
        return [[at.full, value]]

    # -- work beside the handler --------------------------------------------------------------

    async def locals(self, op: Op, at: At) -> Lines:
        places = [replace(at, name=f"{at.name}m{n}") for n in range(len(op["members"]))]
        handles = [
            self.ctx.schedule_step(
                each.name,
                self._failing(
                    replace(each, branch=f"{at.branch}/{each.name}"),
                    member["fails"],
                    member["takes"] / 1000,
                ),
                retry=zart.RetryConfig.fixed(1, "5ms"),
                type=str,
            )
            for each, member in zip(places, op["members"], strict=True)
        ]
        return await self._all(op, at, places, handles)

    async def group(self, op: Op, at: At) -> Lines:
        places = [replace(at, name=f"{at.name}m{n}") for n in range(len(op["members"]))]
        handles = [
            self.ctx.schedule_step(
                each.name, far, each.full, member["fails"], member["takes"] / 1000
            )
            for each, member in zip(places, op["members"], strict=True)
        ]
        return await self._all(op, at, places, handles)

    async def _all(
        self, op: Op, at: At, places: list[At], handles: list[zart.StepHandle[str]]
    ) -> Lines:
        try:
            results: list[Any] = await self.ctx.wait_all(handles, return_exceptions=op["all"])
        except zart.StepFailedError as error:
            return self._waited(at, f"!{error.step}")
        values = [f"!{each}" if isinstance(each, BaseException) else each for each in results]
        for each, value in zip(places, values, strict=True):
            self._saw(each, value)
        return [[at.full, "|".join(values)]]

    # -- structure ----------------------------------------------------------------------------

    async def gather(self, op: Op, at: At) -> Lines:
        plays = [
            self.play(
                branch, replace(at, name=f"{at.name}g{n}.", branch=f"{at.branch}/{at.name}g{n}")
            )
            for n, branch in enumerate(op["branches"])
        ]
        if not op["strict"]:
            found = await asyncio.gather(*plays)
        else:
            async with asyncio.TaskGroup() as group:
                branches = [group.create_task(play) for play in plays]
            found = [branch.result() for branch in branches]
        return [line for lines in found for line in lines]

    async def loop(self, op: Op, at: At) -> Lines:
        kept: Lines = []
        loop = self.ctx.loop(at.name, range(op["rounds"]), state=kept, type=Lines)
        async for number in loop:
            inside = At(f"{at.name}b", f"{at.full}[{number}]/", at.branch)
            loop.state = loop.state + await self.play(op["body"], inside)
        return loop.state

    async def child(self, op: Op, at: At) -> Lines:
        handle = self.ctx.start_child(op["task"], op["program"], name=at.name)
        self.ledger.children[handle.id] = (self.life.execution, self.life.claim.run)
        try:
            await handle
        except zart.ChildFailedError as error:
            return self._waited(at, f"!{error.child} {error.error_type}")
        return self._waited(at, handle.id)


@zart.step(name="far", retry=zart.RetryConfig.fixed(1, "5ms"))
async def far(full: str, fails: int, takes: float) -> str:
    """A distributed step: a row that any worker may run."""
    life = LIFE.get()
    times = life.ledger.begin(life, full, full)
    await asyncio.sleep(takes)
    value = life.ledger.value(full)
    if times <= fails:
        raise ValueError(value)
    return value


async def _play(ctx: zart.TaskContext, program: Program) -> Lines:
    life = LIFE.get()
    try:
        return await Player(ctx, life).play(program, At(""))
    except Exception as error:
        life.ledger.escape(life, _steps(error))
        raise


def _steps(error: BaseException) -> Iterator[str]:
    """The steps whose failures an error holds."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _steps(each)
    elif isinstance(error, zart.StepError):
        yield error.step


class Plain(zart.TaskHandler[Program, Lines]):
    name = "plain"

    async def run(self, ctx: zart.TaskContext, data: Program) -> Lines:
        return await _play(ctx, data)


class Stubborn(zart.TaskHandler[Program, Lines]):
    """Tries again, and compensates in the end."""

    name = "stubborn"
    retry = zart.RetryConfig.fixed(2, "10ms")

    async def run(self, ctx: zart.TaskContext, data: Program) -> Lines:
        return await _play(ctx, data)

    async def on_failure(self, ctx: zart.TaskContext, failure: Failure) -> None:
        at = At("undo", "on_failure/")
        op = {"takes": 5, "plain": False, "soft": False}
        await Player(ctx, LIFE.get()).step(op, at)


class Hasty(zart.TaskHandler[Program, Lines]):
    """Must end within half an hour."""

    name = "hasty"
    timeout = "30m"

    async def run(self, ctx: zart.TaskContext, data: Program) -> Lines:
        return await _play(ctx, data)


REGISTERED: tuple[Any, ...] = (Plain(), Stubborn(), Hasty(), far)
