"""Which tests run side by side.

`make test` runs one more than there are cores, as tests wait as much as they work. While one is
marked `timed`, as many others stand back as it takes for each that runs to have a core.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Turns"]


@dataclass(frozen=True)
class Turns:
    """The turns of one of the processes that run tests: each holds its own lock for each test."""

    folder: Path
    number: int
    """Of this process, from 0."""
    processes: int
    cores: int

    @contextmanager
    def turn(self, *, timed: bool) -> Iterator[None]:
        """Hold a test's turn; a timed one first waits until others have ended and holds theirs."""
        with ExitStack() as stack:
            if timed:
                # Before its own: one that waits here must not keep the first from its end.
                stack.enter_context(self._locked("timed"))
            for place in range(1 + timed * max(0, self.processes - self.cores)):
                stack.enter_context(self._locked(str((self.number + place) % self.processes)))
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
