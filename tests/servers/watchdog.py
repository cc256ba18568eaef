"""Outlives a test run by a moment, to remove its server: watchdog.py FOLDER.

It reads process ids from its input, one a line; the last is the server's, 0 means there is none.
When the input ends, be it that the test run closed it or that it died, the watchdog kills
that process and deletes the folder.
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
    while pid and _is_server(pid, folder):
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    # A dying database may still write for a moment.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(0.1)


def _is_server(pid: int, folder: str) -> bool:
    """Whether the id is still the server's: it names its folder on its command line."""
    try:
        return folder.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1])
