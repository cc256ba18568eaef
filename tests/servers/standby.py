"""A PostgreSQL server that follows another one, without being waited for."""

from __future__ import annotations

from collections.abc import Sequence

from tests.servers.postgres import PostgresServer, postgres_program


class PostgresStandby(PostgresServer):
    """A copy of ``primary`` that takes over what is written there, a moment later."""

    name = "standby"

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__()

    def promote(self) -> None:
        """Follow no longer: be a primary, with what has come until now."""
        self._run([postgres_program("pg_ctl"), "promote", "-w", "-D", str(self.data_dir)])

    def _create_data(self) -> None:
        command: Sequence[str] = [
            postgres_program("pg_basebackup"),
            f"--dbname={self._primary.url}",
            f"--pgdata={self.data_dir}",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
        ]
        self._run(command)
