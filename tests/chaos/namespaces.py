"""Two networks of our own, with one cable between them that a test can pull out.

    with wired(tmp_path) as cable:
        async with proxied(database.url, cable.listener) as proxy:   # stands in the near network
            workers.start(url=proxy.url, within=cable.far)           # a process in the far one
            cable.pull()
            cable.plug()

They are network namespaces, which end with the processes that hold them: nothing is left on the
machine. Root may make them; any other user, where the kernel lets users have namespaces.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NEAR, FAR = "198.51.100.1", "198.51.100.2"  # addresses that are for documentation
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Cable:
    """The two networks and what is between them; made by `wired`."""

    def __init__(self, shell: subprocess.Popen[str], folder: Path) -> None:
        self._shell = shell
        self.run("ip link set lo up")
        # It must not outlive the shell, should that be killed.
        self.run("setpriv --pdeathsig KILL unshare --net sleep infinity & far=$!")
        apart = '[ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]'
        self.run(f"until {apart}; do sleep 0.01; done")
        far = self.run("echo $far")
        self.run(f"ip link add near type veth peer name far netns {far}")
        self.run(f"ip addr add {NEAR}/24 dev near; ip link set near up")
        inside = f"nsenter --net=/proc/{far}/ns/net"
        self.run(f"{inside} ip addr add {FAR}/24 dev far; {inside} ip link set far up")
        users = (
            []
            if os.getuid() == 0
            else ["--preserve-credentials", f"--user=/proc/{shell.pid}/ns/user"]
        )
        self.far: Sequence[str] = ["nsenter", *users, f"--net=/proc/{far}/ns/net", "--"]
        """The command by which a process is in the far network."""
        self.listener = self._listen(folder / "listener")

    def pull(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.run("ip link set near down")

    def plug(self) -> None:
        """All passes again."""
        self.run("ip link set near up")

    def run(self, command: str) -> str:
        """Run a command in the near network, with the rights to change both."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'{command}\necho "done $?"\n')
        self._shell.stdin.flush()
        lines: list[str] = []
        while not (line := self._shell.stdout.readline()).startswith("done "):
            if not line:
                raise OSError(f"the namespace's shell has ended at: {command}: {lines}")
            lines.append(line.strip())
        if line.strip() != "done 0":
            raise OSError(f"{command}: {lines}")
        return "\n".join(lines)

    def _listen(self, path: Path) -> socket.socket:
        script = Path(__file__).with_name("listener.py")
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.bind(str(path))
            waiting.listen()
            self.run(f"{sys.executable} -I {script} {NEAR} {path} &")
            waiting.settimeout(30)
            sender, _ = waiting.accept()
            with sender:
                _, descriptors, _, _ = socket.recv_fds(sender, 16, 1)
        return socket.socket(fileno=descriptors[0])


@contextmanager
def wired(folder: Path) -> Iterator[Cable]:
    """The networks, for the length of a block."""
    with subprocess.Popen(
        [*apart(), "sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": SEARCH},
    ) as shell:
        try:
            yield Cable(shell, folder)
        finally:
            with suppress(BrokenPipeError):
                shell.communicate("exit\n", timeout=10)


def possible() -> bool:
    """Whether this user may have networks of its own here."""
    return (
        subprocess.run([*apart(), "ip", "link"], capture_output=True, check=False).returncode == 0
    )


def apart(what: str = "--net") -> list[str]:
    """The command that gives a process a network of its own, or mounts (``--mount``)."""
    unshare = shutil.which("unshare", path=SEARCH) or "unshare"
    if os.getuid() == 0:
        return [unshare, what]
    return [unshare, "--user", "--map-current-user", "--keep-caps", what]
