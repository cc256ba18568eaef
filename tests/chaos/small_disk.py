"""Servers with little room for their database, which a test can fill.

PostgreSQL's tables lie on a disk of their own: a file system in memory, in a mount namespace that
ends with the server, so that nothing is left on the machine and its own disk is not touched.
MariaDB ends with an assertion when a real disk is full and it has to write a page; so there the
limit is that of its file of tables, which gives the same error to its clients. Now and then that,
too, is the end of it: then it is gone until its administrator has given it more room.
"""

from __future__ import annotations

import asyncio
import errno
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from asyncmy.errors import OperationalError

from tests.chaos.namespaces import apart
from tests.chaos.own import Administrator
from tests.databases import Database
from tests.servers import MariadbServer, PostgresServer, Server

TABLE_FULL = 1114
SIZE = 32 * 1024 * 1024


def disks_possible() -> bool:
    """Whether this user may mount a small disk here."""
    command = [*apart("--mount"), "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class SmallServer(Server):
    """A server with little room."""

    @property
    @abstractmethod
    def create(self) -> Sequence[str]:
        """The statements that make a database there."""

    @abstractmethod
    async def fill(self) -> None:
        """Take every byte that is free; the server may not live through it."""

    @abstractmethod
    async def free(self) -> None:
        """Give it all back."""


class SmallPostgresServer(SmallServer, PostgresServer):
    """Its tables lie on a small disk, its log of transactions elsewhere: it can say no."""

    @property
    def create(self) -> Sequence[str]:
        return (
            f"CREATE TABLESPACE small LOCATION '{self._disk}'",
            "CREATE DATABASE zart TABLESPACE small",
        )

    @property
    def _disk(self) -> Path:
        return self._folder / "disk"

    def _create_data(self) -> None:
        super()._create_data()
        self._disk.mkdir(mode=0o700)
        self._own(self._disk)
        # From here on it is the command itself that changes to the account.
        self._server_account, self._account = self._account, None

    def _command(self) -> Sequence[str]:
        account = self._server_account
        options = [f"size={SIZE}", "mode=0700"]
        becomes: list[str] = []
        if account is not None:
            options += [f"uid={account.pw_uid}", f"gid={account.pw_gid}"]
            becomes = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            becomes.append("--clear-groups")
        script = f'mount -t tmpfs -o {",".join(options)} tmpfs "$1" && shift && exec "$@"'
        shell = [*apart("--mount"), "sh", "-c", script, "-", str(self._disk)]
        return [*shell, *becomes, *super()._command()]

    @property
    def _ballast(self) -> Path:
        """Seen through the server, in whose mounts alone the disk is."""
        return Path(f"/proc/{self.pid}/root{self._disk}/ballast")

    async def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (65536, 4096, 1):
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    async def free(self) -> None:
        self._ballast.unlink()


class SmallMariadbServer(SmallServer, MariadbServer):
    """All tables are in one file that does not grow beyond a size."""

    _size = SIZE

    @property
    def create(self) -> Sequence[str]:
        return ("CREATE DATABASE zart", "CREATE TABLE zart.ballast (stone longblob)")

    def _command(self) -> Sequence[str]:
        limit = f"ibdata1:12M:autoextend:max:{self._size}"
        return [
            *super()._command(),
            "--innodb-file-per-table=0",
            f"--innodb-data-file-path={limit}",
        ]

    async def fill(self) -> None:
        administrator = Administrator(Database("mysql", self.url))
        for size in (1_000_000, 100_000, 10_000, 100):
            try:
                while True:
                    await administrator.run(
                        f"INSERT INTO zart.ballast VALUES (repeat('x', {size}))"
                    )
            except OperationalError as error:
                if error.args[0] != TABLE_FULL:
                    if await asyncio.to_thread(self.ends):
                        return
                    raise

    async def free(self) -> None:
        # To drop the ballast it would need room. So its administrator gives it more, and a restart.
        self._size = 8 * SIZE
        await asyncio.to_thread(self.restart)


SMALL: dict[str, type[SmallServer]] = {
    "postgres": SmallPostgresServer,
    "mysql": SmallMariadbServer,
}
