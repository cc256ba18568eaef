"""PostgreSQL servers under Patroni, an etcd that they agree in, and HAProxy in front of them.

    with PatroniCluster() as cluster:
        cluster.url  # HAProxy, which leads to the primary
        cluster.primary().kill()  # another is promoted

Patroni is quick here, within what it takes: a primary that is silent for `TTL` seconds is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tests.servers.postgres import postgres_program
from tests.servers.server import START_TIMEOUT, Server, ServerError, find_program, free_port

TTL = 6
LOOP = 1
SCOPE = "zart"
NAMES = ("one", "two", "three")
FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/usr/bin")


class EtcdServer(Server):
    """Where the nodes agree on who is the primary."""

    name = "etcd"
    stop_signal = signal.SIGTERM
    accounts = ("postgres", "nobody")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _create_data(self) -> None:
        self._peers = f"http://127.0.0.1:{free_port()}"

    def _command(self) -> Sequence[str]:
        return [
            find_program("etcd", FOLDERS, "etcd-server"),
            "--enable-v2",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self._peers}",
            f"--initial-advertise-peer-urls={self._peers}",
            f"--initial-cluster=default={self._peers}",
        ]

    def _is_ready(self) -> bool:
        return answer(f"{self.url}/health") == 200


class PatroniNode(Server):
    """One PostgreSQL with the Patroni that minds it."""

    name = "Patroni"
    stop_signal = signal.SIGTERM
    accounts = ("postgres", "nobody")

    def __init__(self, name: str, etcd: EtcdServer, *, synchronous: bool) -> None:
        self.node = name
        self._etcd = etcd
        self._synchronous = synchronous
        self.rest_port = free_port()
        super().__init__()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def is_a(self, role: str) -> bool:
        """Whether Patroni says that it is the `primary`, a `replica`, the `sync` standby."""
        return answer(f"http://127.0.0.1:{self.rest_port}/{role}") == 200

    def kill(self) -> None:
        """End Patroni and PostgreSQL at once with SIGKILL, as a power cut would."""
        if self._process is None:
            return
        family = self._family()
        self._signal(family, signal.SIGKILL)
        self._process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in family):
            time.sleep(0.005)
        self._forget_process()

    def freeze(self) -> None:
        """Stop every process of it where it stands, as a machine that is paused."""
        self._signal(self._family(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        self._signal(self._family(), signal.SIGCONT)

    def cut_off(self) -> None:
        """Keep it from the other nodes: nothing is replicated, and nobody tells it to give up.

        Clients reach it still, and it takes itself for the primary.
        """
        self._signal([self.pid, *self._senders()], signal.SIGSTOP)

    def rejoin(self) -> None:
        """Let it hear of the others again."""
        self._signal([self.pid, *self._senders()], signal.SIGCONT)

    def _senders(self) -> list[int]:
        """The processes that send to the standbys what is written here."""
        return [pid for pid in self._family() if b"walsender" in _command(pid)]

    def _family(self) -> list[int]:
        """Patroni, PostgreSQL, which is not its child, and its sessions."""
        family = [self.pid]
        with contextlib.suppress(FileNotFoundError, IndexError):
            postmaster = int((self.data_dir / "postmaster.pid").read_text().splitlines()[0])
            listings = Path(f"/proc/{postmaster}/task").glob("*/children")
            children = [int(pid) for listing in listings for pid in listing.read_text().split()]
            family += [postmaster, *children]
        return family

    @staticmethod
    def _signal(family: Sequence[int], number: signal.Signals) -> None:
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _create_data(self) -> None:
        # Patroni makes the data itself: the first node anew, the second as a copy.
        self._settings.write_text(json.dumps(self._configuration(), indent=2))
        self._settings.chmod(0o644)

    @property
    def _settings(self) -> Path:
        return self._folder / "patroni.yml"  # JSON is YAML

    def _configuration(self) -> dict[str, Any]:
        programs = Path(postgres_program("initdb")).parent
        return {
            "scope": SCOPE,
            "name": self.node,
            "restapi": {"listen": f"127.0.0.1:{self.rest_port}"},
            # Not `etcd3`: with it a primary of Patroni 3.0 that stood still takes the leader's key
            # back from the one that was promoted, and for a moment both are primaries.
            "etcd": {"host": f"127.0.0.1:{self._etcd.port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": LOOP,
                    "retry_timeout": 2,
                    "maximum_lag_on_failover": 16 << 20,
                    "primary_start_timeout": 0,
                    "synchronous_mode": self._synchronous,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 200, "shared_buffers": "64MB"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "bin_dir": str(programs),
                "data_dir": str(self.data_dir),
                "authentication": {
                    role: {"username": "postgres"} for role in ("superuser", "replication")
                },
                "basebackup": [{"checkpoint": "fast"}],
                "parameters": {"unix_socket_directories": str(self._folder)},
                "pg_hba": ["local all all trust"]
                + [f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")],
                "remove_data_directory_on_diverged_timelines": True,
                "remove_data_directory_on_rewind_failure": True,
            },
        }

    def _command(self) -> Sequence[str]:
        return [find_program("patroni", FOLDERS, "patroni"), str(self._settings)]

    def _is_ready(self) -> bool:
        return self.is_a("primary") or self.is_a("replica")


class HaproxyServer(Server):
    """Leads to whichever node Patroni calls the primary, and cuts those who talk to another."""

    name = "HAProxy"
    stop_signal = signal.SIGTERM
    accounts = ("postgres", "nobody")

    def __init__(self, nodes: Sequence[PatroniNode]) -> None:
        self._nodes = nodes
        super().__init__()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _create_data(self) -> None:
        servers = [
            f"    server {node.node} 127.0.0.1:{node.port} check port {node.rest_port}"
            for node in self._nodes
        ]
        lines = [
            "defaults",
            "    mode tcp",
            "    timeout connect 2s",
            "    timeout client 1h",
            "    timeout server 1h",
            "    timeout check 2s",
            "listen primary",
            f"    bind 127.0.0.1:{self.port}",
            "    option httpchk OPTIONS /primary",
            "    http-check expect status 200",
            "    default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions",
            *servers,
        ]
        self._settings.write_text("\n".join(lines) + "\n")
        self._settings.chmod(0o644)

    @property
    def _settings(self) -> Path:
        return self._folder / "haproxy.cfg"

    def _command(self) -> Sequence[str]:
        return [find_program("haproxy", FOLDERS, "haproxy"), "-db", "-f", str(self._settings)]

    def _is_ready(self) -> bool:
        listening = f":{self.port:04X} 00000000:0000 0A"
        return listening in Path("/proc/net/tcp").read_text()


class PatroniCluster:
    """All of it at work, until the block ends."""

    def __init__(self, *, synchronous: bool = True) -> None:
        self._synchronous = synchronous
        self._servers: list[Server] = []
        self.nodes: list[PatroniNode] = []
        try:
            etcd = EtcdServer()
            self._servers.append(etcd)
            self._add(PatroniNode(NAMES[0], etcd, synchronous=synchronous))
            with ThreadPoolExecutor() as threads:
                adding = [
                    threads.submit(PatroniNode, name, etcd, synchronous=synchronous)
                    for name in NAMES[1:]
                ]
            for made in adding:
                self._add(made.result())
            self._haproxy = HaproxyServer(self.nodes)
            self._servers.append(self._haproxy)
            self.wait_until_safe()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """HAProxy, which leads to the primary."""
        return self._haproxy.url

    @property
    def nodes_url(self) -> str:
        """All nodes: the primary is to be found among them."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{places}/postgres"

    def _add(self, node: PatroniNode) -> None:
        self._servers.append(node)
        self.nodes.append(node)

    def primary(self) -> PatroniNode:
        """The node that is the primary now."""
        for _ in self._looking("no node is the primary"):
            for node in self.nodes:
                if node.is_running and node.is_a("primary"):
                    return node
        raise AssertionError

    def claimants(self) -> int:
        """How many PostgreSQL servers take writes, whatever Patroni calls them."""
        program = postgres_program("psql")
        asked = [
            subprocess.run(
                [program, "-XAtc", "SELECT pg_is_in_recovery()", node.url],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            for node in self.nodes
        ]
        return asked.count("f")

    def wait_until_safe(self) -> None:
        """Until there is a standby that commits wait for, or at least one that follows."""
        standby = "sync" if self._synchronous else "replica"
        for _ in self._looking("there is no standby"):
            if any(node.is_running and node.is_a(standby) for node in self.nodes):
                return

    def _looking(self, what: str) -> Iterator[None]:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            yield
            time.sleep(0.1)
        raise ServerError("\n".join([what, *(node.log_end for node in self.nodes)]))

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        with ThreadPoolExecutor() as threads:
            list(threads.map(Server.close, reversed(self._servers)))


def answer(url: str) -> int | None:
    """The status that a GET gives, None without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _command(pid: int) -> bytes:
    """A process's command line; empty when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
