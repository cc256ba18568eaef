"""``zart worker --processes N``: one supervisor, and as many worker processes as it was told.

Each worker is a process of its own from the start, not a fork: no event loop, thread or connection
is shared. A socket joins it to the supervisor. By it the worker says that it has begun to work, and
sees the supervisor's end, however that came: no worker stays behind unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence

__all__ = ["Leash", "Supervisor", "worker_command"]

_log = logging.getLogger("zart.supervisor")

FIRST_PAUSE = 0.5
"""Seconds until a process that died is replaced; twice as long after each further death."""
LONGEST_PAUSE = 30.0
STEADY = 60.0
"""Seconds after which a process counts as having worked well: the next pause is short again."""
MARGIN = 10.0
"""Seconds beyond the shutdown time-out until a process that does not stop is killed."""
HURRY = 5.0
"""Seconds to give executions back, after a second signal, until a process is killed."""

_READY = b"+"
_STOPPED = (0, -signal.SIGTERM)
"""Exit codes of a process that has been asked to stop; it may not have been listening yet."""


class Leash:
    """A worker's end of the socket that joins it to its supervisor."""

    def __init__(self, descriptor: int, shutdown_timeout: float) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._socket.set_inheritable(False)
        self._limit = shutdown_timeout + MARGIN
        threading.Thread(target=self._watch, name="zart-leash", daemon=True).start()

    def ready(self) -> None:
        """Tell the supervisor that this process works."""
        with contextlib.suppress(OSError):  # it has gone: the thread takes care of that
            self._socket.send(_READY)

    def _watch(self) -> None:
        """A thread, since handlers may block the event loop, and the import of their module too."""
        with contextlib.suppress(OSError):
            while self._socket.recv(1):
                pass
        _log.warning("the supervisor of this process has gone: it stops as after SIGTERM")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._limit)
        os.kill(os.getpid(), signal.SIGKILL)


class Supervisor:
    """Keeps a number of worker processes at work until SIGTERM or SIGINT."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        processes: int,
        shutdown_timeout: float,
    ) -> None:
        self._command = command
        self._environment = environment
        self._processes = processes
        self._shutdown_timeout = shutdown_timeout
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._up = asyncio.Event()
        self._stopping = asyncio.Event()
        self._signals = 0
        self._exit_code = 0

    async def run(self) -> int:
        """Start, replace and stop them; gives the exit code for this process.

        0: all have stopped in good order. 1: one had to be killed, or failed while it stopped.
        That of the first worker when it does not come up: what is wrong there is wrong for all.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self._keep())
            up = group.create_task(self._up.wait())
            await asyncio.wait([first, up], return_when=asyncio.FIRST_COMPLETED)
            if up.done():
                for _ in range(self._processes - 1):
                    group.create_task(self._keep())
            up.cancel()
        _log.info("all worker processes have ended")
        return self._exit_code

    # -- one place for a process ----------------------------------------------------------------

    async def _keep(self) -> None:
        """Keep one process at work, until the stop or until it turns out that none can work."""
        deaths = 0
        while not self._stopping.is_set():
            since = time.monotonic()
            end, code = await self._live()
            if self._stopping.is_set():
                if code not in _STOPPED:
                    _log.error("%s while it stopped", end)
                    self._exit_code = 1
                return
            if not self._up.is_set():
                _log.error("%s before it began to work: no others are started", end)
                self._exit_code = code if code > 0 else 128 - code
                return
            deaths = 1 if time.monotonic() - since > STEADY else deaths + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(deaths - 1, 10))
            _log.error("%s; it is replaced in %g s", end, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _live(self) -> tuple[str, int]:
        """Start a process and wait for its end: how it ended in words, and its code."""
        own, its = socket.socketpair()
        with own:
            with its:
                own.setblocking(False)
                try:
                    process = await self._start(its.fileno())
                except OSError as error:
                    return f"a worker process cannot be started ({error})", 1
            self._alive[process.pid] = process
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
            hearing = asyncio.create_task(self._hear(own, process.pid))
            code = await process.wait()
            del self._alive[process.pid]
            # Its last words are there by now; only a process that it has left behind, and that
            # has the socket still, keeps the end of them back.
            await asyncio.wait([hearing], timeout=0.2)
            hearing.cancel()
        return f"worker process {process.pid} {_in_words(code)}", code

    async def _start(self, descriptor: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--leash",
            str(descriptor),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[descriptor],
            # A Ctrl-C goes to every process of the terminal's group: a worker that hears it twice,
            # from there and from here, would take it for the signal to hurry.
            process_group=0,
        )

    async def _hear(self, own: socket.socket, process: int) -> None:
        heard = b""
        with contextlib.suppress(OSError):
            heard = await asyncio.get_running_loop().sock_recv(own, 1)
        if heard == _READY:
            self._up.set()
            _log.info("worker process %d works", process)

    # -- the stop -------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        self._signals += 1
        self._stopping.set()
        name = signal.Signals(number).name
        if self._signals == 1:
            limit = self._shutdown_timeout
            _log.info("%s: %d worker processes have %g s to stop", name, len(self._alive), limit)
            self._tell_all(signal.SIGTERM, limit + MARGIN)
        elif self._signals == 2:
            _log.info("%s again: what still runs is given back at once", name)
            # Another one: a signal that comes twice before it is delivered is one.
            self._tell_all(signal.SIGINT, HURRY)
        else:
            self._kill_all()

    def _tell_all(self, number: signal.Signals, seconds: float) -> None:
        for process in list(self._alive.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        asyncio.get_running_loop().call_later(seconds, self._kill_all)

    def _kill_all(self) -> None:
        for process in list(self._alive.values()):
            _log.error("worker process %d does not stop: it is killed", process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def worker_command(*arguments: str) -> list[str]:
    """The command line of a worker process with the same Python and the same zart."""
    # -P: a file of the user's that is called zart.py must not be taken for the package.
    return [sys.executable, "-P", "-m", "zart", "worker", *arguments]


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
