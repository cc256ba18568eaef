"""A private pgbouncer in front of a PostgreSQL server, in transaction mode."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.servers.server import Server, find_program


class PgbouncerServer(Server):
    """pgbouncer with its defaults but for the mode and few connections to each database.

    Few, so that a client's next transaction is often handed to another connection than its last.
    It has no data to keep: every database of the server behind can be reached, as that user.
    """

    name = "pgbouncer"
    stop_signal = signal.SIGTERM
    accounts = ("postgres", "nobody")

    def __init__(
        self, behind: str, *, mode: str = "transaction", connections: int = 5, ignored: str = ""
    ) -> None:
        self._behind = urlsplit(behind)
        self._mode = mode
        self._connections = connections
        self._ignored = ignored
        super().__init__()

    @property
    def url(self) -> str:
        return self.in_front_of(urlunsplit(self._behind))

    def in_front_of(self, url: str) -> str:
        """The URL of a database on the server behind, through this pooler."""
        user = self._behind.username or "postgres"
        place = f"{user}@127.0.0.1:{self.port}"
        return urlunsplit(urlsplit(url)._replace(netloc=place))

    def _create_data(self) -> None:
        self.data_dir.mkdir()
        settings: dict[str, Any] = {
            "auth_type": "any",  # who comes in is the one user named below
            "default_pool_size": self._connections,
            "ignore_startup_parameters": self._ignored,
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "max_client_conn": 500,
            "pool_mode": self._mode,
            "unix_socket_dir": "",
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        text = "\n".join(["[databases]", f"* = {self._target()}", "[pgbouncer]", *lines, ""])
        self._settings.write_text(text)
        self._settings.chmod(0o644)
        self._own(self._settings)

    @property
    def _settings(self) -> Path:
        return self.data_dir / "pgbouncer.ini"

    def _target(self) -> str:
        behind = self._behind
        words = {
            "host": behind.hostname or "127.0.0.1",
            "port": str(behind.port or 5432),
            "user": unquote(behind.username or "postgres"),
        }
        if behind.password:
            words["password"] = unquote(behind.password)
        return " ".join(
            f"{name}='{value.replace(chr(39), 2 * chr(39))}'" for name, value in words.items()
        )

    def _command(self) -> Sequence[str]:
        return [find_program("pgbouncer", ["/usr/sbin"], "pgbouncer"), str(self._settings)]

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except OSError:
            return False
