"""A thread that waits until a file is written to, by whatever process, or until it is rung."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["FileWatch"]

_MODIFIED = 0x2  # IN_MODIFY
_ALL = 65536


class FileWatch:
    """Linux's inotify on one file, and a bell.

    Raises `OSError` where the file cannot be watched: it is not there, the user's watches are used
    up, or the system knows none.
    """

    def __init__(self, file: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            raise OSError("this system has no inotify")
        with contextlib.ExitStack() as opened:
            self._written: int = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), file)
            opened.callback(os.close, self._written)
            _checked(libc.inotify_add_watch(self._written, os.fsencode(file), _MODIFIED), file)
            self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self._rung)
            self._opened = opened.pop_all()
        self._waits = False
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._written, select.POLLIN)
        self._poll.register(self._rung, select.POLLIN)

    def wait(self, seconds: float, is_rung: Callable[[], bool]) -> bool:
        """Wait so long at most, less when it is rung; True when the file has been written to.

        ``is_rung`` is asked when it can be rung: True, for what came just before, ends it at once.
        """
        ready: set[int] = set()
        self._waits = True
        try:
            if not is_rung():
                ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        finally:
            with self._lock:  # nobody is about to ring, and will find another file in its place
                self._waits = False
        for descriptor in ready:
            os.read(descriptor, _ALL)
        return self._written in ready

    def ring(self) -> None:
        """End the wait of the other thread, if it waits; also after `close`."""
        if self._waits:
            with self._lock:
                if self._waits:
                    os.eventfd_write(self._rung, 1)

    def close(self) -> None:
        """By the thread that waits."""
        self._opened.close()


def _checked(answer: int, file: Path) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(file))
    return answer
