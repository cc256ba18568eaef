"""The shop of ``zart demo``: a workflow as a user writes it, and a ledger to check it by.

The ledger is a file outside of the database. Each step notes there when its function begins and
ends, so that what really ran can be held against what was recorded.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

import zart

__all__ = ["LEDGER", "PRINTER_SECONDS", "Line", "Order", "Shipped", "checkout", "read_ledger"]

LEDGER = "ZART_DEMO_LEDGER"
PRINTER_SECONDS = "ZART_DEMO_PRINTER_SECONDS"


@dataclass
class Order:
    id: str
    card: str
    total: int


@dataclass
class Shipped:
    tracking_number: str


@zart.step(retry=zart.RetryConfig.exponential(3, "2s"), timeout="30s")
async def charge(card: str, total: int) -> str:
    with noted("charge"):
        await asyncio.sleep(0.15)  # the bank takes its time
        return f"{card}-{total}-paid"


@zart.step
def send_receipt(order_id: str, charge_id: str) -> None:
    with noted("send_receipt"):
        time.sleep(float(os.environ.get(PRINTER_SECONDS, "0.3")))  # a plain def runs in a thread


@zart.durable("checkout", timeout="2d", max_retries=3)
async def checkout(order: Order) -> str:
    note("checkout", "begin")
    charge_id = await charge(order.card, order.total)
    await send_receipt(order.id, charge_id)
    shipped = await zart.wait_for_event("shipped", type=Shipped, timeout="24h")
    return shipped.tracking_number


class Line(msgspec.Struct, frozen=True):
    """One note: a function began or ended, in this process."""

    function: str
    what: str
    process: int


def note(function: str, what: str) -> None:
    """Append a line to the ledger, in one write, so that processes do not mix their lines."""
    if path := os.environ.get(LEDGER):
        line = msgspec.json.encode(Line(function, what, os.getpid())) + b"\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


@contextmanager
def noted(function: str) -> Generator[None, None, None]:
    """Note the beginning and the end of what runs inside."""
    note(function, "begin")
    yield
    note(function, "end")


def read_ledger(path: Path) -> list[Line]:
    """Every note so far, in order."""
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    return [msgspec.json.decode(line, type=Line) for line in whole.splitlines()]
