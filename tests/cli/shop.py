"""What the command line's tests run: the module `shop`, in the folder that `zart` is called in."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

import zart


@dataclass
class Order:
    id: str
    total: int


@zart.step
def press(total: int) -> int:
    return total * 2


@zart.step(retry=zart.RetryConfig.fixed(1, "10ms"))
async def refuse() -> None:
    raise ValueError("no\npaper")


@zart.durable("print")
async def print_order(order: Order) -> str:
    pressed = await press(order.total)
    ink = await zart.wait_for_event("ink", type=str, timeout="1h")
    return f"{order.id}: {pressed} in {ink}"


@zart.durable("jam")
async def jam() -> None:
    await refuse()


@jam.on_failure
async def clear(_: None, failure: zart.Failure) -> None:
    assert failure.step == "refuse"


@zart.durable("stall", retry=zart.RetryConfig.fixed(1, "2h"))
async def stall() -> None:
    raise ConnectionError("no\npower")


@zart.step
def press_long() -> None:
    time.sleep(60)


@zart.durable("long")
async def long() -> None:
    await press_long()


@zart.durable("stubborn")
async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


class Bind(zart.TaskHandler[int, int]):
    name = "bind"

    async def run(self, ctx: zart.TaskContext, data: int) -> int:
        return data


registry = zart.TaskRegistry([print_order, jam, stall])
several = [print_order, Bind]
number = 7


@zart.durable("block")
async def block() -> None:
    time.sleep(60)  # noqa: ASYNC251 what a careless handler does: nothing else gets a turn


@zart.durable("brief")
async def brief() -> None:
    await asyncio.sleep(1)


@zart.durable("who")
async def who() -> int:
    await zart.wait_for_event("go")
    return os.getpid()
