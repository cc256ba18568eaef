"""The servers that one test run shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer
from tests.servers.server import Server

KINDS: Mapping[str, type[Server]] = {"mysql": MariadbServer, "postgres": PostgresServer}


class RunServers:
    """One server of each kind, started when first asked for; `given` ones run already."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._urls = dict(given)
        self._servers: list[Server] = []
        self._locks = {kind: Lock() for kind in KINDS}

    @property
    def urls(self) -> Mapping[str, str]:
        """The administrators' URLs of the servers known so far."""
        return self._urls

    def url(self, kind: str) -> str:
        """The administrator's URL of the server of this kind, which is started if need be."""
        with self._locks[kind]:
            if kind not in self._urls:
                server = KINDS[kind]()
                self._servers.append(server)
                self._urls[kind] = server.url
            return self._urls[kind]

    def start(self, kinds: Iterable[str]) -> None:
        """Start the servers of these kinds side by side."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.url, [kind for kind in kinds if kind in KINDS]))

    def close(self) -> None:
        """Stop what was started here."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(Server.close, self._servers))
        self._servers.clear()
