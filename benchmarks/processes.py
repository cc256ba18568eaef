"""Worker processes of a measurement, and what the kernel says of a process."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["Child", "child", "cpu_seconds", "resident_bytes", "tell"]

_TICK = os.sysconf("SC_CLK_TCK")


class Child:
    """A process of a module of these benchmarks; it answers a line of JSON to each line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def id(self) -> int:
        return self._process.pid

    async def hear(self, seconds: float = 60) -> Any:
        """The next thing that it tells."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        if not line:
            raise RuntimeError(f"process {self.id} of the benchmark ended early")
        return json.loads(line)

    async def ask(self, question: str, seconds: float = 60) -> Any:
        """Send a line and give its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(question.encode() + b"\n")
        await self._process.stdin.drain()
        return await self.hear(seconds)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end by it."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 15)
            except TimeoutError:
                await self.kill()


@asynccontextmanager
async def child(module: str, url: str, *arguments: str) -> AsyncGenerator[Child, None]:
    """Run ``python -m benchmarks.MODULE URL ...`` until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"benchmarks.{module}",
        url,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    made = Child(process)
    try:
        yield made
    finally:
        await made.end()


def tell(what: Any) -> None:
    """In a child: a line of JSON to who started it."""
    print(json.dumps(what), flush=True)


async def questions() -> asyncio.StreamReader:
    """In a child: the lines that it is sent."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def resident_bytes(process: int | str = "self") -> int:
    """The memory of a process that stands in RAM."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_seconds(process: int) -> float:
    """The processor time that a process has taken, in user and system mode."""
    # The name in parentheses may hold spaces; the times are the 12th and 13th field after it.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
