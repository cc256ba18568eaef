"""What the declaration of a type says: its parts, its fields, the members of a union."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from zart.errors import DefinitionError
from zart.serialization.kinds import ARRAYS, class_of, is_typed_dict, name_of

__all__ = [
    "MAPPINGS",
    "PLAIN_PARTS",
    "SEQUENCES",
    "SET_PARTS",
    "UNIONS",
    "Field",
    "Refused",
    "declared_fields",
    "generic",
    "has_fixed_form",
    "inspected",
    "is_untyped",
    "members_of",
    "parts_of",
    "runtime_class",
    "substituted",
    "unchanged_classes",
    "unsupported",
    "unwrapped",
]

_TYPE_MEND = (
    "Declare a type that zart can store: None, bool, int, float, str, bytes, datetime, date, time, "
    "timedelta, UUID, Decimal, an enum, a list, dict, set or tuple, a dataclass, TypedDict, "
    "NamedTuple, msgspec Struct or pydantic model; or teach it the class: "
    "Serializer({TheClass: Codec(encode, decode)})."
)
UNIONS = (typing.Union, types.UnionType)
SEQUENCES: dict[Any, Any] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    set: set,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    frozenset: frozenset,
}
MAPPINGS: dict[Any, Any] = {
    dict: dict,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}
_UNCHANGED: dict[type, type] = {
    msgspec.inspect.NoneType: types.NoneType,
    msgspec.inspect.BoolType: bool,
    msgspec.inspect.IntType: int,
    msgspec.inspect.FloatType: float,
    msgspec.inspect.StrType: str,
}
PLAIN_PARTS = {
    msgspec.inspect.AnyType,
    msgspec.inspect.ListType,
    msgspec.inspect.DictType,
    *_UNCHANGED,
}
SET_PARTS = (msgspec.inspect.SetType, msgspec.inspect.FrozenSetType)


class Refused(Exception):
    """msgspec alone cannot store this type; the text says why."""


def unsupported(declared: Any, reason: str, mend: str = _TYPE_MEND) -> DefinitionError:
    return DefinitionError(f"zart cannot store {name_of(declared)}: {reason}. {mend}")


def inspected(declared: Any) -> msgspec.inspect.Type:
    try:
        return msgspec.inspect.type_info(declared)
    except TypeError as error:
        raise Refused(str(error).split(" - type ")[0]) from None
    except NameError as error:
        raise unsupported(
            declared,
            f"its annotations name {error.name!r}, which cannot be found",
            "Define or import it at the top of the module, and not only under `if TYPE_CHECKING:`.",
        ) from error


def has_fixed_form(cls: type) -> bool:
    try:
        return not hasattr(inspected(cls), "cls")
    except Refused:
        return False


def parts_of(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Give a type and every type inside it, each once: types may hold themselves."""
    seen: set[int] = set()
    pending: list[Any] = [info]
    while pending:
        part = pending.pop()
        if isinstance(part, ARRAYS):
            pending.extend(part)
        elif isinstance(part, msgspec.inspect.Field):
            pending.append(part.type)
        elif isinstance(part, msgspec.inspect.Type) and id(part) not in seen:
            seen.add(id(part))
            yield part
            pending.extend(getattr(part, name) for name in part.__struct_fields__)


def is_untyped(info: msgspec.inspect.Type) -> bool:
    return isinstance(info, msgspec.inspect.AnyType)


def unchanged_classes(info: msgspec.inspect.Type) -> frozenset[type]:
    if is_untyped(info):
        return frozenset(_UNCHANGED.values())
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return frozenset(
        _UNCHANGED[type(member)]
        for member in members
        if type(member) in _UNCHANGED
        and all(getattr(member, name) is None for name in member.__struct_fields__)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    name: str
    declared: Any
    required: bool
    in_init: bool = True


def declared_fields(cls: Any) -> list[Field]:
    """Give the fields of a dataclass, TypedDict or NamedTuple; none for other classes."""
    if dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        missing = dataclasses.MISSING
        return [
            Field(
                field.name,
                hints[field.name],
                field.default is missing and field.default_factory is missing,
                field.init,
            )
            for field in dataclasses.fields(cls)
        ]
    if is_typed_dict(cls):
        required = cls.__required_keys__
        return [_typed_dict_field(name, hint, required) for name, hint in _hints(cls).items()]
    if hasattr(cls, "_field_defaults"):
        hints = _hints(cls)
        return [
            Field(name, hints.get(name, Any), name not in cls._field_defaults)
            for name in cls._fields
        ]
    return []


def _typed_dict_field(name: str, hint: Any, required_keys: Collection[str]) -> Field:
    required = name in required_keys
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        # Where annotations are text, only resolving them shows which keys may be missing.
        required = typing.get_origin(hint) is typing.Required
        (hint,) = typing.get_args(hint)
    return Field(name, hint, required)


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def generic(origin: Any, *arguments: Any) -> Any:
    """Give ``origin[arguments]``, for arguments known at run time only."""
    return origin[arguments if len(arguments) != 1 else arguments[0]]


def substituted(declared: Any, substitutes: Mapping[Any, Any]) -> Any:
    """Put the arguments of a generic class into the type of one of its fields."""
    if isinstance(declared, TypeVar):
        return substitutes.get(declared, declared)
    parameters = getattr(declared, "__parameters__", ())
    if not parameters or not substitutes or isinstance(declared, type):
        return declared
    return declared[tuple(substitutes.get(each, each) for each in parameters)]


def unwrapped(declared: Any) -> Any:
    """Take one wrapping off a type: Annotated, NewType or a named alias."""
    if typing.get_origin(declared) is typing.Annotated:
        return typing.get_args(declared)[0]
    if isinstance(declared, typing.NewType):
        return declared.__supertype__
    if type(declared).__name__ == "TypeAliasType":
        return declared.__value__
    return declared


def _fully_unwrapped(declared: Any) -> Any:
    while (bare := unwrapped(declared)) is not declared:
        declared = bare
    return declared


def members_of(declared: Any) -> Iterator[Any]:
    """Give the members of a union, of those inside it too, and one literal type per class."""
    bare = _fully_unwrapped(declared)
    if typing.get_origin(bare) in UNIONS:
        for member in typing.get_args(bare):
            yield from members_of(member)
    elif typing.get_origin(bare) is typing.Literal:
        by_class: dict[type, list[Any]] = {}
        for value in typing.get_args(bare):
            by_class.setdefault(class_of(value), []).append(value)
        for values in by_class.values():
            yield generic(typing.Literal, *values)
    else:
        yield declared


def runtime_class(member: Any, union: Any, reason: str) -> type:
    """Give the exact class that a value of a union's member has."""
    bare = _fully_unwrapped(member)
    if typing.get_origin(bare) is typing.Literal:
        kind: type = class_of(typing.get_args(bare)[0])
        return kind
    if is_typed_dict(bare):
        return dict
    origin = typing.get_origin(bare) or bare
    found = SEQUENCES.get(origin) or MAPPINGS.get(origin) or origin
    if isinstance(found, type) and found is not object and found is not Any:
        return found
    raise unsupported(
        union,
        f"{reason}, and the class of a value does not tell whether it is a {name_of(member)}",
        "Name the classes that occur.",
    )
