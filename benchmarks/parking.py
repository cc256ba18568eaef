"""How sleepers are measured, zart's and its peers' alike: one harness, an adapter for each.

``python -m benchmarks.MODULE URL AMOUNT`` is an adapter's command line; the last line that it
prints is JSON. A process of its own starts so many executions, each of which sleeps for `DAYS`
after one step: seconds until all of them sleep, and what its resident memory has grown by for each.
The memory is looked at when the `FIRST` of them (but at most half) sleep, and when all do, so that
what a process grows by once is not counted.

The process is killed then. Where sleepers live in a process, another one takes them up: seconds
from its beginning until all of them sleep again.

Nothing here imports zart: it runs in the peers' virtual environments.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from benchmarks.loops import run
from benchmarks.processes import child, questions, resident_bytes, tell

__all__ = ["DAYS", "Sleepers", "main"]

DAYS = 30
FIRST = 10_000
PATIENCE = 3600.0
"""Seconds until it counts as hung."""
QUIET = 0.5
"""Seconds in which a process puts away what it needed for the last ones."""


class Sleepers(ABC):
    """What can be measured: an adapter, made in the process whose memory counts."""

    recovers: ClassVar[bool] = True
    """Whether a process that takes another's place has to take up its sleepers."""
    plain_loop: ClassVar[bool] = False
    """Whether to run on asyncio's own loop rather than on uvloop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asleep = 0
        """Handlers of this process that have come as far as their sleep."""

    @abstractmethod
    def working(self) -> Any:
        """An async context in which this process works."""

    @abstractmethod
    async def start(self, amount: int) -> None:
        """Start so many more executions."""

    @abstractmethod
    async def settled(self) -> None:
        """Return when the sleeps of all that have come so far are recorded."""


async def serve(sleepers: Sleepers) -> None:
    """In the process that is measured: start so many when told ``start``, or take them up."""
    begun = time.perf_counter()
    async with sleepers.working():
        asked = await questions()
        tell("ready")
        while question := await asked.readline():
            word, amount = question.split()
            wanted = int(amount)
            if word == b"start":
                begun = time.perf_counter()
                wanted += sleepers.asleep
                await sleepers.start(int(amount))
            while sleepers.asleep < wanted:  # noqa: ASYNC110 nothing tells of it
                await asyncio.sleep(0.005)
            await sleepers.settled()
            took = time.perf_counter() - begun
            await asyncio.sleep(QUIET)
            gc.collect()
            tell({"seconds": took, "bytes": resident_bytes()})


async def measure(module: str, url: str, amount: int, words: list[str], *, recovers: bool) -> Any:
    """Seconds and bytes of so many sleepers."""
    first = min(FIRST, amount // 2)
    async with child(module, url, "worker", *words) as worker:
        await worker.hear()
        before = await worker.ask(f"start {first}", PATIENCE)
        after = await worker.ask(f"start {amount - first}", PATIENCE)
        await worker.kill()
    found = {
        "asleep_seconds": before["seconds"] + after["seconds"],
        "bytes_each": (after["bytes"] - before["bytes"]) / (amount - first),
        "process_bytes": after["bytes"],
    }
    if recovers:
        async with child(module, url, "worker", *words) as again:
            await again.hear()
            taken_up = await again.ask(f"await {amount}", PATIENCE)
            await again.kill()
        found["taken_up_seconds"] = taken_up["seconds"]
    return found


def main(adapter: type[Sleepers], module: str) -> None:
    """An adapter's command line."""
    words = [word for word in sys.argv[1:] if word.startswith("--")]
    url, amount = (word for word in sys.argv[1:] if not word.startswith("--"))
    if amount == "worker":
        run(serve(adapter(url)), plain=adapter.plain_loop)
    else:
        measuring = measure(module, url, int(amount), words, recovers=adapter.recovers)
        print(json.dumps(run(measuring)))
