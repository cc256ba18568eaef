"""Three MariaDB servers that are one Galera cluster, each written to like any other.

    with GaleraCluster() as cluster:
        cluster.url("shop")  # every node, in order
        cluster.nodes[0].kill()
        cluster.nodes[0].start()  # it catches up from the others

They begin as copies of one folder, and a node that comes back still has its own: so whatever one
lacks comes out of another's write-set cache, and nothing of Debian's mariadb-server is needed,
which would set up a service.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.servers.mariadb import MariadbServer
from tests.servers.server import ServerError, free_port

NODES = 3
SILENCE = 2
"""Seconds after which the others go on without a node that says nothing."""

_TRANSFER = """#!/bin/sh
# No state is transferred: joiner and donor only agree on the position, in a file.
while [ $# -gt 0 ]; do
    case "$1" in
    --role) role=$2; shift ;;
    --address) address=$2; shift ;;
    --datadir) data=$2; shift ;;
    --gtid) position=$2; shift ;;
    --bypass) bypass=1 ;;
    esac
    shift
done
if [ "$role" = joiner ]; then
    place=${data%/}/position
    rm -f "$place"
    echo "ready ${address%%/*}$place"
    while [ ! -s "$place" ]; do sleep 0.05; done
    cat "$place"
elif [ "$bypass" ]; then
    place=/${address#*/}
    echo "$position" >"$place.new"
    mv "$place.new" "$place"
    echo "done $position"
else
    echo "the donor's write-set cache does not reach back to the joiner's position" >&2
    exit 2
fi
"""


class GaleraNode(MariadbServer):
    """One node; ``group`` has the group ports of all, ``founder`` is whose data it copies."""

    name = "Galera"

    def __init__(
        self, number: int, group: Sequence[int], founder: GaleraNode | None = None
    ) -> None:
        self._number = number
        self._group = group
        self._founder = founder
        self._transfer_port = free_port()
        self._log_begins = 0
        self.founds = founder is None
        """True while it is to begin the cluster rather than to join it."""
        super().__init__()

    @property
    def copy(self) -> Path:
        """The founder's data as the other nodes begin with it."""
        return self._folder / "copy"

    def start(self) -> None:
        self._log_begins = self.log_path.stat().st_size if self.log_path.exists() else 0
        super().start()

    def _create_data(self) -> None:
        script = self._folder / "wsrep_sst_position"
        script.write_text(_TRANSFER)
        script.chmod(0o755)
        if self._founder is None:
            super()._create_data()
            # The first start gives the data an identity, which the copies must have too.
            self.start()
            self.stop()
            left_out = shutil.ignore_patterns("galera.cache", "gvwstate.dat")
            shutil.copytree(self.data_dir, self.copy, ignore=left_out)
        else:
            shutil.copytree(self._founder.copy, self.data_dir)
            for path in (self.data_dir, *self.data_dir.rglob("*")):
                self._own(path)

    def _command(self) -> Sequence[str]:
        others = "" if self.founds else ",".join(f"127.0.0.1:{port}" for port in self._group)
        # `env`, because the script is looked for in PATH.
        command = ["env", f"PATH={self._folder}:{os.environ['PATH']}", *super()._command()]
        command += [
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            "--wsrep-on=ON",
            f"--wsrep-provider={_provider()}",
            "--wsrep-cluster-name=zart-tests",
            f"--wsrep-cluster-address=gcomm://{others}",
            f"--wsrep-node-address=127.0.0.1:{self._group[self._number]}",
            f"--wsrep-node-name=node-{self._number}",
            f"--wsrep-provider-options={self._provider_options()}",
            "--wsrep-sst-method=position",
        ]
        if self.founds:
            return [*command, "--wsrep-new-cluster"]
        if position := self._position(command):
            return [*command, f"--wsrep-start-position={position}"]
        return command

    def _provider_options(self) -> str:
        port = self._group[self._number]
        options = {
            "base_port": port,
            "gmcast.listen_addr": f"tcp://127.0.0.1:{port}",
            "ist.recv_addr": f"127.0.0.1:{self._transfer_port}",
            "gcache.size": "64M",
            "evs.keepalive_period": "PT0.5S",
            "evs.inactive_check_period": "PT0.5S",
            "evs.suspect_timeout": f"PT{SILENCE}S",
            "evs.inactive_timeout": f"PT{2 * SILENCE}S",
            "evs.install_timeout": f"PT{2 * SILENCE}S",
        }
        return ";".join(f"{name}={value}" for name, value in options.items())

    def _position(self, command: Sequence[str]) -> str | None:
        """What a killed node had committed; without that it would ask for a whole copy."""
        state = (self.data_dir / "grastate.dat").read_text()
        if not re.search(r"^seqno:\s*-1$", state, re.MULTILINE):
            return None
        self._run([*command, "--wsrep-recover"])
        said = self.log_path.read_text(errors="replace")
        positions: list[str] = re.findall(r"WSREP: Recovered position:? *(\S+)", said)
        return positions[-1]

    def _is_ready(self) -> bool:
        """It answers queries once it has caught up with the others."""
        said = self.log_path.read_bytes()[self._log_begins :]
        return b"Synchronized with group, ready for connections" in said and super()._is_ready()


class GaleraCluster:
    """All its nodes at work, until the block ends."""

    def __init__(self) -> None:
        group = [free_port() for _ in range(NODES)]
        self.nodes: list[GaleraNode] = []
        try:
            founder = GaleraNode(0, group)
            self.nodes.append(founder)
            for number in range(1, NODES):
                self.nodes.append(GaleraNode(number, group, founder))
            founder.founds = False
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def url(self, database: str, first: int = 0) -> str:
        """All nodes, beginning with the one of this number."""
        ports = [node.port for node in [*self.nodes[first:], *self.nodes[:first]]]
        return f"mysql://root@{','.join(f'127.0.0.1:{port}' for port in ports)}/{database}"

    def close(self) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(GaleraNode.kill, self.nodes))
            list(threads.map(GaleraNode.close, self.nodes))


def _provider() -> str:
    for folder in ("/usr/lib/galera", "/usr/lib64/galera", "/usr/lib64/galera-4"):
        library = Path(folder, "libgalera_smm.so")
        if library.exists():
            return str(library)
    raise ServerError(
        "libgalera_smm.so is not on this machine. Install it: scripts/install-databases as root"
        " does, or `apt-get install galera-4`."
    )
