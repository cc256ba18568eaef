"""Worker processes as a test handles them: started, killed, replaced, and told apart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw

from tests.crash import ledger
from tests.crash.ledger import Line

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"poll_interval": "50ms", "shutdown_timeout": "5s"}
DEAD_FROM_KILL = -signal.SIGKILL


class WorkerProcess:
    """One process that runs the workflows of these tests."""

    def __init__(
        self, url: str, folder: Path, settings: dict[str, Any], within: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.log = folder / f"{time.monotonic_ns()}.log"
        command = [*within, sys.executable, "-m", "tests.crash.workflow", url, str(folder)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(QUICK | settings)], cwd=ROOT, stdout=log, stderr=log
            )

    @property
    def id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def lines(self) -> list[Line]:
        """What it has written to the ledger."""
        return ledger.read(self.folder, self.id)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal; gives the time just before, as the ledger tells time."""
        at = time.monotonic_ns()
        os.kill(self.id, number)
        return at

    async def freeze(self, url: str) -> int:
        """SIGSTOP, but not while it has a SQLite file's lock: no other could write any more.

        Gives the time just before.
        """
        while True:
            at = self.signal(signal.SIGSTOP)
            if not url.startswith("sqlite:") or await asyncio.to_thread(_can_write, url):
                return at
            self.signal(signal.SIGCONT)
            await asyncio.sleep(0.02)

    def kill(self) -> int:
        """SIGKILL, and wait until the process is gone."""
        at = self.signal(signal.SIGKILL)
        self._process.wait()
        return at

    async def stop(self) -> int:
        """SIGTERM; gives the exit code, or the text of the process's log when it hangs."""
        self.signal(signal.SIGTERM)
        await until(lambda: not self.alive, f"process {self.id} ends after SIGTERM", seconds=15)
        return self._process.returncode

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def end(self) -> None:
        """Whatever state it is in: away with it."""
        if self.alive:
            self._process.kill()
        self._process.wait()


class Crew:
    """The worker processes of one test, on one database and one ledger."""

    def __init__(self, url: str, folder: Path, settings: dict[str, Any]) -> None:
        self.url = url
        self.folder = folder
        self.settings = settings
        self.members: list[WorkerProcess] = []
        self.gone: list[WorkerProcess] = []

    def start(
        self, *, url: str | None = None, within: Sequence[str] = (), **settings: Any
    ) -> WorkerProcess:
        """One more; ``within`` is a command that becomes it, such as ``ip netns exec NAME``."""
        given = self.settings | settings
        member = WorkerProcess(url or self.url, self.folder, given, within)
        self.members.append(member)
        return member

    def replace(self, member: WorkerProcess) -> WorkerProcess:
        """A new one for one that is dead."""
        self.members.remove(member)
        self.gone.append(member)
        return self.start()

    def replace_dead(self) -> int:
        """What a supervisor does: a new process for each one that died; gives how many."""
        dead = [member for member in self.members if not member.alive]
        for member in dead:
            self.replace(member)
        return len(dead)

    def logs(self) -> str:
        """The ends of all logs, for the message of a test that fails."""
        texts = [(m, m.log.read_text(errors="replace")) for m in (*self.gone, *self.members)]
        return "\n".join(f"-- process {m.id}:\n{text[-1500:]}" for m, text in texts if text)


@asynccontextmanager
async def crew(url: str, folder: Path, **settings: Any) -> AsyncGenerator[Crew, None]:
    """A crew without members; those that it has at the end are killed."""
    made = Crew(url, folder, settings)
    try:
        yield made
    finally:
        for member in (*made.members, *made.gone):
            member.end()


def _can_write(url: str) -> bool:
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    connection.set_busy_timeout(1000)
    try:
        connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return False
    else:
        return True
    finally:
        connection.close()


async def until(condition: Any, what: str, *, seconds: float = 30) -> None:
    """Look again and again until it is so; ``condition`` is plain or async."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
