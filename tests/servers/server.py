"""What the private servers have in common: a folder, a port, a process, an end."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


class ServerError(Exception):
    """A server that cannot be found, started or stopped; the message says what to do."""


class Server(ABC):
    """A database server of our own, started when made and gone when closed.

    Its data is kept over `stop`, `kill` and `restart`; `close` deletes it.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    accounts: ClassVar[Sequence[str]]
    """Whom to run as when we are root, the first that exists: databases refuse to run as root."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"zart-{self.name}-"))
        self.data_dir = self._folder / "data"
        self.log_path = self._folder / "server.log"
        self.port = free_port()
        self._account = self._choose_account()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = _start_watchdog(self._folder)
        try:
            self._own(self._folder)
            self._create_data()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where its administrator connects."""

    @property
    def pid(self) -> int:
        """The running server's process id."""
        if self._process is None:
            raise ServerError(f"This {self.name} server is stopped; start() brings it back.")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ends(self) -> bool:
        """Whether it ends by itself, within a while; it does not when it only closed a line."""
        assert self._process is not None
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            return False
        return True

    def start(self) -> None:
        """Start on the data as it lies there, and wait until it answers."""
        with self.log_path.open("ab") as log:
            self._process = self._spawn(self._command(), log.fileno())
        self._tell_watchdog(self._process.pid)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if not self.is_running:
                raise ServerError(self._with_log(f"The private {self.name} server did not start."))
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(
                    self._with_log(f"The {self.name} server gave no answer in {START_TIMEOUT} s.")
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut down in good order; connections still open are cut."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._forget_process()

    def kill(self) -> None:
        """End every process of it at once with SIGKILL, as a power cut would."""
        if self._process is None:
            return
        family = [self._process.pid, *_children(self._process.pid)]
        for pid in family:
            _send_kill(pid)
        self._process.wait()
        while any(_is_alive(pid) for pid in family):
            time.sleep(0.005)
        self._forget_process()

    def restart(self) -> None:
        """Start again on the same data and port, after `stop`, `kill`, or while running."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and delete the data."""
        self.stop()
        self._watchdog.communicate()  # the end of its input is its sign to tidy up

    @abstractmethod
    def _create_data(self) -> None: ...

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _run(self, command: Sequence[str]) -> None:
        """Run a tool of the database to its end."""
        with self.log_path.open("ab") as log:
            status = self._spawn(command, log.fileno()).wait()
        if status:
            raise ServerError(self._with_log(f"{command[0]} ended with status {status}."))

    def _spawn(self, command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        # A session of its own: a Ctrl-C in the terminal ends the tests first, and they end this.
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=None if self._account is None else self._account.pw_uid,
            group=None if self._account is None else self._account.pw_gid,
            extra_groups=None if self._account is None else [],
        )

    def _choose_account(self) -> pwd.struct_passwd | None:
        if os.getuid() != 0:
            return None
        known = {account.pw_name: account for account in pwd.getpwall()}
        for name in self.accounts:
            if name in known:
                return known[name]
        raise ServerError(f"{self.name} won't run as root, and none of {self.accounts} exists.")

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _forget_process(self) -> None:
        self._process = None
        self._tell_watchdog(0)

    def _tell_watchdog(self, pid: int) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(f"{pid}\n".encode())
        self._watchdog.stdin.flush()

    def _with_log(self, message: str) -> str:
        return f"{message}\nThe end of its log:\n{self.log_end}"

    @property
    def log_end(self) -> str:
        """The last words of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-30:])


def find_program(name: str, folders: Sequence[str], package: str) -> str:
    """The path of a database's program, looked for in `folders` before PATH."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    if found := shutil.which(name, path=path):
        return found
    raise ServerError(
        f"`{name}` is not on this machine. Install it (scripts/install-databases as root does, or "
        f"`apt-get install {package}`), or name the databases to test without it, "
        "say ZART_TEST_DATABASES=sqlite."
    )


def free_port() -> int:
    """A port that stays ours over a restart: below those the system gives to outgoing calls."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _start_watchdog(folder: Path) -> subprocess.Popen[bytes]:
    watchdog = Path(__file__).with_name("watchdog.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _children(pid: int) -> list[int]:
    listings = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listing in listings for child in listing.read_text().split()]


def _send_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie, dead but not yet buried by its parent, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
