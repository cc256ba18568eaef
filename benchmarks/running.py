"""Running a cell: its interpreter, its database, its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.plan import Cell, Values
from tests import databases
from tests.servers import PostgresServer, RunServers

__all__ = ["ROOT", "CellError", "Servers", "interpreter", "measured"]

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers"
"""Their virtual environments, which ``scripts/make-peers`` makes."""
FLUSH_MICROSECONDS = 2000
"""What a commit waits on the slow disk before its flush, which is the disk's own."""


class CellError(Exception):
    """A cell that ended badly; the message is the last line of what it said, `notes` the rest."""

    def __init__(self, message: str, notes: str = "") -> None:
        super().__init__(message)
        self.notes = notes


class SlowPostgresServer(PostgresServer):
    """PostgreSQL on a disk that is slow to flush, simulated by a wait before each flush.

    Whoever leads a group of commits waits while it holds the lock of the log, so that one flush
    follows the other as on a disk. It would wait only while other transactions are under way;
    with `commit_siblings` 0 it always does.
    """

    def _command(self) -> Sequence[str]:
        return [
            *super()._command(),
            f"--commit_delay={FLUSH_MICROSECONDS}",
            "--commit_siblings=0",
        ]


class Servers:
    """The servers of one run of the benchmarks, each started when first needed."""

    def __init__(self) -> None:
        self._servers = RunServers({})
        self._slow: SlowPostgresServer | None = None

    def url(self, cell: Cell) -> str:
        """Where an administrator makes the cell's database."""
        if not cell.slow_disk:
            return self._servers.url(cell.kind)
        if self._slow is None:
            self._slow = SlowPostgresServer()
        return self._slow.url

    def close(self) -> None:
        self._servers.close()
        if self._slow is not None:
            self._slow.close()


def interpreter(system: str) -> str:
    """The Python of a system's virtual environment."""
    if system == "zart":
        return sys.executable
    return str(PEERS / system.split(maxsplit=1)[0] / "bin" / "python")


def measured(cell: Cell, servers: Servers) -> Values:
    """Run a cell against an empty database."""
    with _database(cell, servers) as url:
        command = [interpreter(cell.system), "-m", f"benchmarks.{cell.module}", url]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        try:
            done = subprocess.run(
                [*command, *cell.arguments],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=cell.patience,
                check=False,
            )
        except FileNotFoundError as error:
            raise CellError(f"{error.filename} is missing: scripts/make-peers makes it") from error
        except subprocess.TimeoutExpired as error:
            raise CellError(f"no end in {cell.patience:g} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise CellError(lines[-1], done.stderr[-2000:])
    return cell.take(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _database(cell: Cell, servers: Servers) -> Iterator[str]:
    if cell.kind == "postgres":
        with databases.postgres_database(servers.url(cell)) as made:
            yield made.url
    elif cell.kind == "mysql":
        with databases.mysql_database(servers.url(cell)) as made:
            yield made.url
    else:
        # Beside the repository rather than in /tmp, which may be no disk at all.
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
            yield databases.sqlite_database(Path(folder)).url
