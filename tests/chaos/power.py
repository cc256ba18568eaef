"""A disk that keeps only what it was told to sync: what a power cut leaves of an SQLite file.

    with Disk(chance) as disk:  # every SQLite file that is opened in this process lies on it
        ...
        disk.cut_power()  # what would be left now; goes on as if nothing had been

Each file is kept twice: as the program sees it, and as it lies on the platters. A write goes to the
first; a sync brings all that was written to the second. At a power cut any part of what has not
been synced may have got there all the same, in any order, and torn within a write.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import apsw

SECTOR = 512
"""Bytes that are written whole or not at all."""


class Image:
    """One file: what is on the platters, and what was written since the last sync."""

    def __init__(self, content: bytes = b"") -> None:
        self._synced = bytearray(content)
        self._pending: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, data: bytes) -> None:
        self._pending.append((offset, data))

    def truncate(self, size: int) -> None:
        self._pending.append((size, None))

    def sync(self) -> None:
        for change in self._pending:
            _apply(self._synced, *change)
        self._pending.clear()

    def after_power_cut(self, chance: random.Random) -> bytes:
        """The synced content, and whatever else had come so far."""
        left = bytearray(self._synced)
        likely = chance.choice((0.0, 0.3, 0.9, 1.0))
        sectors = [sector for change in self._pending for sector in _sectors(*change)]
        if chance.random() < 0.5:
            chance.shuffle(sectors)
        for sector in sectors:
            if chance.random() < likely:
                _apply(left, *sector)
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes | None) -> list[tuple[int, bytes | None]]:
    if data is None:
        return [(offset, None)]
    first = SECTOR - offset % SECTOR
    cuts = [0, *range(first, len(data), SECTOR), len(data)]
    return [
        (offset + start, data[start:end]) for start, end in itertools.pairwise(cuts) if end > start
    ]


class Disk(apsw.VFS):
    """The default place of SQLite's files while its block lasts."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._lock = threading.RLock()
        self._images: dict[str, Image] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called before each write and each sync, in whatever thread."""
        self.syncs: Counter[str] = Counter()
        """How often each file was synced."""
        below = apsw.vfs_names()[0]
        super().__init__(f"power-{uuid4().hex}", below, makedefault=True)
        self.below = below

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unregister()

    def cut_power(self) -> dict[str, bytes]:
        """The files as they would be found afterwards, by name."""
        with self._lock:
            return {
                name: image.after_power_cut(self._chance) for name, image in self._images.items()
            }

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 SQLite's name
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 SQLite's name
        super().xDelete(filename, syncdir)
        with self._lock:
            self._images.pop(filename, None)

    def image(self, path: str) -> Image:
        with self._lock:
            if path not in self._images:
                self._images[path] = Image(Path(path).read_bytes())
            return self._images[path]

    def change(self, change: Callable[[], None]) -> None:
        self.on_change()
        with self._lock:
            change()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.below, name, flags)
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path or "").name
        # A file without a name is SQLite's scratch paper.
        self._image = Image() if path is None else disk.image(path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 SQLite's name
        super().xWrite(data, offset)
        kept = bytes(data)
        self._disk.change(lambda: self._image.write(offset, kept))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 SQLite's name
        super().xTruncate(newsize)
        self._disk.change(lambda: self._image.truncate(newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 SQLite's name
        self._disk.syncs[self._name] += 1
        self._disk.change(self._image.sync)
