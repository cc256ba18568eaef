"""Outlives a test run by a moment, to remove its server: watchdog.py FOLDER.

It reads process ids from its input, one a line; the last is the server's, 0 means there is none.
When the input ends, be it that the test run closed it or that it died, the watchdog kills
that process, and those it has left behind that name the folder on their command line (Patroni's
PostgreSQL is nobody's child), and deletes the folder.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(folder: str) -> None:
    pid = 0
    for line in sys.stdin:
        pid = int(line)
    while pid and (servers := _servers(folder)):
        for server in servers:
            _kill(server)
        time.sleep(0.05)
    # A dying database may still write for a moment.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(0.1)


def _servers(folder: str) -> list[int]:
    """The processes, but for this one, that name the folder on their command line."""
    everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in everyone if pid != os.getpid() and _names(pid, folder)]


def _names(pid: int, folder: str) -> bool:
    try:
        return folder.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


if __name__ == "__main__":
    main(sys.argv[1])
