"""DBOS's sleepers as `benchmarks.parking` measures them; ``--tuned`` as in `benchmarks.peers.dbos`.

Workflows are started in their own process, so that each is a row and a coroutine. A process that
takes another's place takes up its pending workflows when launched, which is DBOS's own doing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dbos import DBOS

from benchmarks.parking import DAYS, Sleepers, main
from benchmarks.peers.dbos import TUNED, Dbos

AT_ONCE = 256
"""Workflows that are being started."""


@DBOS.step()
async def nothing() -> None:
    """A step that does nothing."""


@DBOS.workflow(name="sleeper")
async def sleeper() -> None:
    await nothing()
    DbosSleepers.here.asleep += 1
    await DBOS.sleep_async(DAYS * 86400)


class DbosSleepers(Sleepers):
    here: DbosSleepers
    plain_loop = not TUNED

    def __init__(self, url: str) -> None:
        super().__init__(url)
        DbosSleepers.here = self

    def working(self) -> Any:
        return Dbos(self.url).consuming(1)

    async def start(self, amount: int) -> None:
        free = asyncio.Semaphore(AT_ONCE)

        async def start() -> None:
            async with free:
                await DBOS.start_workflow_async(sleeper)

        await asyncio.gather(*(start() for _ in range(amount)))

    async def settled(self) -> None:
        """Its tables tell of no sleep; it is recorded within moments of the handler's call."""


if __name__ == "__main__":
    main(DbosSleepers, "peers.dbos_sleepers")
