"""The workflows of the crash tests, and the program of a worker process that runs them.

Every step function tells the ledger when it begins and ends. Its value holds the process and a
random number, so a run that was not recorded can be told from the one that was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import zart
from tests.crash.ledger import BEGIN, COMMITTED, END, RAISED, Ledger
from tests.crash.processes import until

GROUP = 3
ROUNDS = 3


class _Here:
    """What a worker process is told when it starts."""

    ledger: Ledger


def _value(step: str) -> str:
    return f"{step} by {os.getpid()} {secrets.token_hex(8)}"


def _pause() -> float:
    return random.uniform(0.005, 0.1)


def _ended(execution: str, step: str) -> str:
    value = _value(step)
    _Here.ledger.write(END, execution, step, value)
    return value


# -- a long way through everything that is recorded ---------------------------------------------


@zart.step
def plain(execution: str, step: str) -> str:
    _Here.ledger.write(BEGIN, execution, step)
    time.sleep(_pause())
    return _ended(execution, step)


@zart.step
async def asynchronous(execution: str, step: str) -> str:
    _Here.ledger.write(BEGIN, execution, step)
    await asyncio.sleep(_pause())
    return _ended(execution, step)


@zart.step
async def member(execution: str, step: str) -> str:
    _Here.ledger.write(BEGIN, execution, step)
    await asyncio.sleep(_pause())
    return _ended(execution, step)


@zart.step(retry=zart.RetryConfig.fixed(60, "5ms"))
async def unsteady(execution: str, step: str) -> str:
    _Here.ledger.write(BEGIN, execution, step)
    await asyncio.sleep(_pause())
    if random.random() < 0.4:
        reason = _value("not yet")
        _Here.ledger.write(RAISED, execution, step, reason)
        raise ConnectionError(reason)
    return _ended(execution, step)


@dataclass
class Journey:
    """What a journey brings home: the value of every step under its name, and its event."""

    values: dict[str, str]
    event: str


@zart.durable("journey")
async def journey() -> Journey:
    values: dict[str, str] = {}
    await _take(values, plain, "pack")
    await _take(values, unsteady, "hail")
    await asyncio.gather(_take(values, plain, "left"), _take(values, asynchronous, "right"))
    await _group(values)
    await zart.sleep("20ms")
    event = await zart.wait_for_event("letter", type=str)
    await _rounds(values)
    await _take(values, asynchronous, "home")
    return Journey(values, event)


async def _take(
    values: dict[str, str], step: zart.Step[[str, str], str], name: str, label: str = ""
) -> str:
    execution, label = zart.context().execution_id, label or name
    value = await step.named(name)(execution, label)
    _Here.ledger.write(COMMITTED, execution, label, value)
    values[label] = value
    return value


async def _group(values: dict[str, str]) -> None:
    execution = zart.context().execution_id
    names = [f"member-{number}" for number in range(GROUP)]
    results = await zart.wait_all([member.named(n).schedule(execution, n) for n in names])
    for name, value in zip(names, results, strict=True):
        _Here.ledger.write(COMMITTED, execution, name, value)
        values[name] = value


async def _rounds(values: dict[str, str]) -> None:
    """Finished rounds are kept in the loop's state alone: their steps are dropped."""
    empty: dict[str, str] = {}
    loop = zart.durable_loop("rounds", range(ROUNDS), state=empty, type=dict[str, str])
    async for number in loop:
        label = f"rounds[{number}]/walk"
        loop.state[label] = await _take({}, asynchronous, "walk", label)
    values.update(loop.state)


STEPS = (
    *("pack", "hail", "left", "right", "home"),
    *(f"member-{number}" for number in range(GROUP)),
)
"""Those whose records stay to the end."""
ROUND_STEPS = tuple(f"rounds[{number}]/walk" for number in range(ROUNDS))


# -- small ones ---------------------------------------------------------------------------------


@zart.step
async def held(execution: str, step: str) -> str:
    """Ends at once, except the first time: then it waits until the test releases it."""
    _Here.ledger.write(BEGIN, execution, step)
    folder = _Here.ledger.folder
    try:
        (folder / f"{execution}.held").touch(exist_ok=False)
    except FileExistsError:
        return _ended(execution, step)
    released = folder / f"{execution}.release"
    await until(released.exists, "the test releases the step", seconds=3600)
    return _ended(execution, step)


@zart.durable("baton")
async def baton() -> list[str]:
    values: dict[str, str] = {}
    for step, name in ((asynchronous, "start"), (held, "carry"), (asynchronous, "finish")):
        await _take(values, step, name)
    return list(values.values())


@zart.step
def kill_my_process(execution: str) -> None:
    _Here.ledger.write(BEGIN, execution, "poison")
    os.kill(os.getpid(), signal.SIGKILL)


@zart.durable("poison")
async def poison() -> None:
    await kill_my_process(zart.context().execution_id)


@zart.step
async def toil(execution: str, seconds: float) -> str:
    _Here.ledger.write(BEGIN, execution, "toil")
    await asyncio.sleep(seconds)
    return _ended(execution, "toil")


@zart.durable("errand")
async def errand(seconds: float) -> str:
    return await toil(zart.context().execution_id, seconds)


@zart.step
async def allocate(amount: int) -> int:
    return len(bytearray(amount))


@zart.durable("greedy")
async def greedy(amount: int) -> int:
    return await allocate(amount)


@zart.durable("nap")
async def nap(seconds: float) -> list[str]:
    values: dict[str, str] = {}
    await _take(values, asynchronous, "lie-down")
    await zart.sleep(seconds)
    await _take(values, asynchronous, "get-up")
    return list(values.values())


TASKS = (journey, member, baton, poison, errand, greedy, nap)


async def main(url: str, folder: Path, settings: str) -> None:
    """A worker process: until SIGTERM or SIGINT, or whatever comes before them."""
    _Here.ledger = Ledger(folder)
    given = json.loads(settings)
    if memory := given.pop("memory", None):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    options = given.pop("options", {})
    config = zart.WorkerConfig(**given)
    async with zart.connect(url, **options) as scheduler:
        await zart.Worker(scheduler, TASKS, config).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
