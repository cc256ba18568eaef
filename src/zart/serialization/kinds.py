"""Kinds of classes and values, and the names by which messages and tags call them."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = [
    "ARRAYS",
    "COLLECTIONS",
    "DICTS",
    "SETS",
    "class_of",
    "compares_partly",
    "fields_of",
    "is_pydantic",
    "is_tagged",
    "is_typed_dict",
    "name_of",
    "short_name",
]

# Typed as Any, so that what passes an isinstance check stays Any: a value of any kind may come in.
DICTS: tuple[Any, ...] = (dict,)
ARRAYS: tuple[Any, ...] = (list, tuple)
SETS: tuple[Any, ...] = (set, frozenset)
COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset)
class_of: Callable[[Any], Any] = type

_TAGGED_KEYS = frozenset({"type", "value"})


@functools.cache
def is_pydantic(cls: Any) -> bool:
    """Tell a pydantic model class, without importing pydantic."""
    return isinstance(cls, type) and all(
        hasattr(cls, name) for name in ("__pydantic_validator__", "model_validate_json")
    )


def is_typed_dict(cls: Any) -> bool:
    # Not typing.is_typeddict, which does not know those of typing_extensions.
    return hasattr(cls, "__required_keys__") and dict in getattr(cls, "__mro__", ())


def is_tagged(value: Any) -> bool:
    return isinstance(value, DICTS) and value.keys() == _TAGGED_KEYS


def fields_of(value: Any) -> dict[str, Any] | None:
    """Give the fields of a dataclass, Struct or model by name; None for other classes."""
    cls = class_of(value)
    if dataclasses.is_dataclass(cls):
        names: list[str] = [field.name for field in dataclasses.fields(cls)]
    elif isinstance(value, msgspec.Struct):
        names = list(value.__struct_fields__)
    elif hasattr(cls, "__attrs_attrs__"):
        names = [attribute.name for attribute in cls.__attrs_attrs__]
    elif is_pydantic(cls):
        names = list(value.__dict__)
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def compares_partly(cls: Any) -> bool:
    """Tell a class whose instances may be equal though not all of their fields are."""
    if dataclasses.is_dataclass(cls) and not all(each.compare for each in dataclasses.fields(cls)):
        return True
    # One that a class has of its own is code in a file; a generated one is not.
    code = getattr(cls.__eq__, "__code__", None)
    written = code is not None and not code.co_filename.startswith("<")
    return written and not cls.__eq__.__module__.startswith("pydantic.")


def short_name(declared: type) -> str:
    return declared.__name__


def name_of(declared: Any) -> str:
    """Name a type as a person would look for it."""
    if isinstance(declared, type) and typing.get_origin(declared) is None:
        return (
            declared.__qualname__
            if declared.__module__ == "builtins"
            else f"{declared.__module__}.{declared.__qualname__}"
        )
    return repr(declared).removeprefix("typing.")
