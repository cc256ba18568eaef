"""One workflow that uses every feature, and tells the ledger what it really did.

What it gives back is the same after any crash (`Report.said`), or differs from run to run of a
step (`Report.values`): then the ledger knows the value, and which run of the step gave it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zart
from tests.crash.ledger import BEGIN, COMMITTED, END, RAISED, Ledger
from zart.testing.conformance.rows import on_driver

MOVES = "CREATE TABLE moves (execution varchar(200) NOT NULL, token varchar(200) NOT NULL)"


class Here:
    """What the present process writes to."""

    ledger: Ledger


@dataclass
class Place:
    """Where an execution's family runs: a queue that one worker process serves alone."""

    queue: str


@dataclass
class Report:
    """What is the same in every life, and what each step gave."""

    said: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


class Declined(Exception):
    """A failure that the workflow knows what to do about."""


def begin(execution: str, step: str) -> int:
    """Note that a step function has begun; gives how often it has by now, in any process."""
    Here.ledger.write(BEGIN, execution, step)
    path = Path(Here.ledger.folder / f"{execution} {step}.count")
    with path.open("ab") as counter:
        counter.write(b"x")
        return counter.tell()


def end(execution: str, step: str) -> str:
    value = f"{step} {secrets.token_hex(6)}"
    Here.ledger.write(END, execution, step, value)
    return value


def fail(execution: str, step: str) -> str:
    reason = f"not yet {secrets.token_hex(6)}"
    Here.ledger.write(RAISED, execution, step, reason)
    return reason


def committed(execution: str, step: str, value: str) -> str:
    Here.ledger.write(COMMITTED, execution, step, value)
    return value


# -- steps ------------------------------------------------------------------------------------


@zart.step
def plain(execution: str, step: str) -> str:
    begin(execution, step)
    return end(execution, step)


@zart.step
async def asynchronous(execution: str, step: str) -> str:
    begin(execution, step)
    return end(execution, step)


@zart.step(idempotent=True)
async def idempotent(execution: str, step: str) -> str:
    begin(execution, step)
    return end(execution, step)


@zart.step(retry=zart.RetryConfig.exponential(5, "5ms", factor=12))
async def unsteady(execution: str, step: str) -> str:
    if begin(execution, step) <= 2:
        raise ConnectionError(fail(execution, step))
    return end(execution, step)


@zart.step(retry=zart.RetryConfig.fixed(5, "5ms"))
async def member(execution: str, step: str) -> str:
    if begin(execution, step) == 1 and step == "member-1":
        raise ConnectionError(fail(execution, step))
    return end(execution, step)


@zart.step(raises=(Declined,), retry=zart.RetryConfig.fixed(5, "5ms"))
async def declined(execution: str, step: str) -> str:
    begin(execution, step)
    raise Declined("no funds")


@zart.step(timeout="20ms")
async def endless(execution: str, step: str) -> str:
    begin(execution, step)
    await asyncio.sleep(3600)
    return end(execution, step)


async def move(connection: Any, execution: str) -> str:
    """Runs inside zart's transaction: each token is a hex number, and the id is the test's own."""
    begin(execution, "move")
    token = end(execution, "move")
    await on_driver(connection, f"INSERT INTO moves VALUES ('{execution}', '{token}')")
    return token


# -- workflows --------------------------------------------------------------------------------


class Teller:
    """Takes steps and keeps what they gave."""

    def __init__(self) -> None:
        self.execution = zart.context().execution_id
        self.report = Report()

    def keep(self, name: str, value: str) -> str:
        self.report.values[name] = committed(self.execution, name, value)
        return value

    async def take(self, step: zart.Step[[str, str], str], name: str) -> str:
        return self.keep(name, await step.named(name)(self.execution, name))


@zart.durable("everything", retry=zart.RetryConfig.fixed(3, "5ms"), timeout="5m")
async def everything(place: Place) -> Report:
    teller = Teller()
    said = teller.report.said
    said["patched"] = str(await zart.patched("change"))
    await _facts(teller)
    await teller.take(plain, "pack")
    await teller.take(asynchronous, "walk")
    await teller.take(unsteady, "hail")
    await _failures(teller)
    for name in ("again-1", "again-2"):
        teller.report.values[name] = await idempotent.named(name)(teller.execution, name)
    await zart.sleep("rest", "30ms")
    await _events(teller)
    await _branches(teller)
    if zart.context().attempt == 1:
        raise RuntimeError("the first attempt")
    await _group(teller)
    await _rounds(teller)
    teller.keep("move", await zart.transaction("move", move, teller.execution))
    await _children(teller, place)
    await teller.take(plain, "home")
    return teller.report


async def _facts(teller: Teller) -> None:
    execution = teller.execution

    def setting() -> str:
        begin(execution, "setting")
        return end(execution, "setting")

    teller.keep("setting", await zart.capture("setting", setting))
    committed(execution, "now", (await zart.now()).isoformat())
    committed(execution, "uuid", str(zart.uuid()))
    committed(execution, "random", str(zart.random()))


async def _failures(teller: Teller) -> None:
    said = teller.report.said
    try:
        await declined.named("pay")(teller.execution, "pay")
    except Declined as error:
        said["pay"] = committed(teller.execution, "pay", repr(error))
    try:
        await endless.named("call")(teller.execution, "call")
    except zart.StepTimedOutError as error:
        said["call"] = committed(teller.execution, "call", error.error_type)


async def _events(teller: Teller) -> None:
    said = teller.report.said
    said["early"] = committed(teller.execution, "early", await zart.wait_for_event("early"))
    said["letter"] = committed(
        teller.execution, "letter", await zart.wait_for_event("letter", timeout="5m")
    )
    try:
        await zart.wait_for_event("never", timeout="30ms")
    except zart.EventTimedOutError as error:
        said["never"] = committed(teller.execution, "never", error.event)


async def _branches(teller: Teller) -> None:
    async def slow() -> None:
        await zart.sleep("branch", "30ms")
        await teller.take(asynchronous, "after-branch")

    await asyncio.gather(teller.take(plain, "left"), teller.take(asynchronous, "right"))
    async with asyncio.TaskGroup() as group:
        group.create_task(teller.take(asynchronous, "beside"))
        group.create_task(slow())


async def _group(teller: Teller) -> None:
    execution, names = teller.execution, ["member-1", "member-2"]
    handles = [member.named(name).schedule(execution, name) for name in names]

    async def closure() -> str:
        return await asynchronous(execution, "closure")

    local = zart.schedule_step("closure", closure)
    for name, value in zip(
        [*names, "closure"], await zart.wait_all([*handles, local]), strict=True
    ):
        teller.keep(name, value)


async def _rounds(teller: Teller) -> None:
    empty: dict[str, str] = {}
    loop = zart.durable_loop("rounds", range(3), state=empty, type=dict[str, str])
    async for number in loop:
        name = f"round-{number}"
        value = await asynchronous.named("step")(teller.execution, name)
        loop.state[name] = committed(teller.execution, name, value)
    teller.report.values.update(loop.state)


async def _children(teller: Teller, place: Place) -> None:
    execution, said = teller.execution, teller.report.said
    child = zart.start_child(small, place, id=f"{execution}.child", name="child", queue=place.queue)
    teller.keep("child", await child)
    bad = zart.start_child(doomed, place, id=f"{execution}.bad", name="bad", queue=place.queue)
    try:
        await bad
    except zart.ChildFailedError as error:
        said["bad"] = committed(execution, "bad", f"{error.error_type} {error.message}")


@zart.durable("small")
async def small(place: Place) -> str:
    teller = Teller()
    return await teller.take(asynchronous, "small")


@zart.durable("doomed", retry=zart.RetryConfig.fixed(1, "5ms"))
async def doomed(place: Place) -> None:
    teller = Teller()
    await teller.take(plain, "charge")
    raise ValueError("doomed")


@doomed.on_failure
async def refund(place: Place, failure: zart.Failure) -> None:
    teller = Teller()
    await teller.take(plain, "refund")


TASKS = (everything, small, doomed, member)

SAID = {
    "patched": "True",
    "pay": "Declined('no funds')",
    "call": "TimeoutError",
    "early": "a bird",
    "letter": "a letter",
    "never": "never",
    "bad": "ValueError doomed",
}
"""What every life says in the end."""
VALUES = {
    *("setting", "pack", "walk", "hail", "again-1", "again-2", "left", "right", "beside"),
    *("after-branch", "member-1", "member-2", "closure", "round-0", "round-1", "round-2", "move"),
    *("child", "home"),
}
"""The steps whose values it gives back."""
