"""What a class needs to be stored that zart does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Codec"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Codec(Generic[T]):
    """How values of one class become JSON and come back.

    Args:
        encode: turns a value into something that JSON has, or that zart can store.
        decode: turns what JSON gave back into the value; raises if it does not fit.

    Example:
        >>> serializer = Serializer({Path: Codec(encode=str, decode=Path)})
        >>> serializer.shape(Path).decode('"/tmp"')
        PosixPath('/tmp')
    """

    encode: Callable[[T], Any]
    decode: Callable[[Any], T]
