"""A private MariaDB server."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence

from tests.servers.server import Server, find_program


class MariadbServer(Server):
    """MariaDB with its durable defaults, room for many connections, and no password."""

    name = "MariaDB"
    stop_signal = signal.SIGTERM
    accounts = ("mysql", "nobody")

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/"

    def _create_data(self) -> None:
        self._run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self.data_dir}",
                "--auth-root-authentication-method=normal",
                "--skip-name-resolve",
                "--skip-test-db",
            ]
        )

    def _command(self) -> Sequence[str]:
        return [
            _program("mariadbd"),
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            f"--datadir={self.data_dir}",
            "--innodb-buffer-pool-size=256M",
            "--max-connections=400",
            f"--pid-file={self._folder / 'mariadb.pid'}",
            f"--port={self.port}",
            "--skip-name-resolve",
            f"--socket={self._folder / 'mariadb.sock'}",
            # A server that starts clears away what it takes for its own leavings here, so that in
            # /tmp one would delete the temporary tables of another that runs.
            f"--tmpdir={self._folder}",
        ]

    def _is_ready(self) -> bool:
        """MariaDB opens its port when recovery is over, and greets with protocol version 10."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                greeting = connection.recv(5, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(greeting) == 5 and greeting[4] == 10


def _program(name: str) -> str:
    packages = "mariadb-server-core mariadb-client-core"
    return find_program(name, ["/usr/local/sbin", "/usr/sbin"], packages)
