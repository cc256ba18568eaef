"""A private PostgreSQL server."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from tests.servers.server import Server, find_program


class PostgresServer(Server):
    """PostgreSQL with its durable defaults, room for many connections, and no password."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # a fast shutdown; SIGTERM would wait for the clients to leave
    accounts = ("postgres", "nobody")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _create_data(self) -> None:
        self._run(
            [
                postgres_program("initdb"),
                f"--pgdata={self.data_dir}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ]
        )

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "max_connections": 300,
            "port": self.port,
            "shared_buffers": "256MB",
            "unix_socket_directories": self.data_dir,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [postgres_program("postgres"), "-D", str(self.data_dir), *options]

    def _is_ready(self) -> bool:
        """PostgreSQL writes its state into its pid file: first line the id, last line `ready`."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"


def postgres_program(name: str) -> str:
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(installed, key=lambda path: float(path.parent.name), reverse=True)
    return find_program(name, [str(path) for path in newest_first], "postgresql")
