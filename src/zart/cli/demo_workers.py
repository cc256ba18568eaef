"""The demo's worker processes: real ones, started as a user starts them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from zart.cli.command import Cli
from zart.cli.demo_shop import LEDGER, PRINTER_SECONDS, Line, read_ledger
from zart.cli.processes import worker_command
from zart.errors import ZartError

__all__ = ["DemoWorker", "DemoWorkers"]

_TARGET = "zart.cli.demo_shop:checkout"
_STOP_SECONDS = 10.0


class DemoWorker:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process, ledger: Path, log: Path) -> None:
        self._process = process
        self._ledger = ledger
        self._log = log
        self._read = 0

    @property
    def process(self) -> int:
        """Its process id."""
        return self._process.pid

    async def notes(self) -> AsyncGenerator[Line, None]:
        """What it notes in the ledger, as it comes."""
        while True:
            own = [line for line in read_ledger(self._ledger) if line.process == self.process]
            while self._read < len(own):
                self._read += 1
                yield own[self._read - 1]
            self.must_live()
            await asyncio.sleep(0.01)

    def must_live(self) -> None:
        """Raise with the end of its log when it has ended by itself."""
        if self._process.returncode is not None:
            code = self._process.returncode
            raise ZartError(f"worker {self.process} ended with exit code {code}: {self._log_end()}")

    @asynccontextmanager
    async def in_time(self, what: str, seconds: float) -> AsyncGenerator[None, None]:
        """Raise with the end of its log when what is awaited inside does not come in time."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise ZartError(
                f"{what} did not come within {seconds:g}s from worker {self.process}:"
                f" {self._log_end()}"
            ) from None

    def _log_end(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " | ".join(text.splitlines()[-5:]) or "its log is empty"

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to say or save anything."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM: it ends in good order."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            await self.kill()


class DemoWorkers:
    """Starts workers, and stops at its end those that still live."""

    def __init__(self, cli: Cli, ledger: Path) -> None:
        self._cli = cli
        self._ledger = ledger
        self._started: list[DemoWorker] = []

    async def __aenter__(self) -> DemoWorkers:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._started:
            await worker.stop()

    async def start(self, *, printer_seconds: float) -> DemoWorker:
        """A worker whose receipts take this long."""
        log = self._ledger.with_name(f"worker-{len(self._started) + 1}.log")
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *worker_command(_TARGET, "--concurrency", "4"),
                env=self._environment(printer_seconds),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        worker = DemoWorker(process, self._ledger, log)
        self._started.append(worker)
        return worker

    def _environment(self, printer_seconds: float) -> dict[str, str]:
        own = {LEDGER: str(self._ledger), PRINTER_SECONDS: str(printer_seconds)}
        return self._cli.environment | own
