"""A worker in a process of its own, told to start and to stop its work; see `benchmarks.drive`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.drive import System

__all__ = ["Worker", "serve", "started"]

MARK = "@@ "
"""Begins an answer; whatever else a system prints is not for us."""
PATIENCE = 60.0


class Worker:
    """The process as its parent sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, word: str) -> Any:
        """``start`` or ``stop``; the latter gives when the first handler began, if any did."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self._process.stdout.readline():
                if line.startswith(MARK.encode()):
                    return json.loads(line[len(MARK) :])
        raise RuntimeError("a worker process of the benchmark has ended early")

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def started(module: str, *arguments: str) -> AsyncIterator[Worker]:
    """Run ``python -m MODULE ARGUMENTS...``, which calls `serve`, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    worker = Worker(process)
    try:
        await worker.answer()
        yield worker
    finally:
        await worker.end()


async def serve(system: System, concurrency: int) -> None:
    """In the worker process: work between ``start`` and ``stop``, until the input ends."""
    await system.open()
    words = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    _say("ready")
    while await words.readline():
        system.first = None
        async with system.consuming(concurrency):
            _say("started")
            if not await words.readline():
                break
        _say(system.first)
    await system.close()


def _say(what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)
