"""JSON with types: what is recorded is what replay sees; what would change is an error."""

from __future__ import annotations

import collections
import enum
import inspect
import math
import subprocess
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zart.errors import DecodeError, DefinitionError, EncodeError
from zart.serialization import Codec, Serializer

T = TypeVar("T")
UserId = NewType("UserId", int)
Either = NewType("Either", UUID | str)  # type: ignore[valid-newtype]
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Mixed(enum.Enum):
    """Values that JSON does not have: stored by name."""

    PAIR = (1, 2)
    TEXT = "text"
    NUMBER = 3


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: str = "y"


@dataclass
class Point3(Point):
    z: int = 0


@dataclass(frozen=True)
class Card:
    number: str


class Deck:
    @dataclass(frozen=True)
    class Card:
        """Of the same name as the other one."""

        suit: str


@dataclass(frozen=True)
class Cash:
    amount: Decimal


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Payment:
    """Its fields need the tagged form, and it holds itself."""

    method: Card | Cash | None
    when: datetime | str = "now"
    parts: list[Payment] = field(default_factory=list)
    by_name: dict[str, UUID | str] = field(default_factory=dict)
    note: str = field(default="", init=False)


@dataclass(frozen=True)
class Quiet:
    """A field left out of the comparison."""

    name: str
    weight: float | None = field(default=None, compare=False)


@dataclass
class Loose:
    data: Any
    ratio: float = 0.0


@dataclass
class Stamped:
    text: str
    stamp: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.stamp = uuid4().hex


@dataclass
class Known:
    id: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self.id == other.id

    def __hash__(self) -> int:
        return self.id


@dataclass(eq=False)
class KnownBetter(Known):
    rights: str = ""


@dataclass(eq=False)
class Same:
    x: int


class Pair(NamedTuple):
    left: int
    right: str = ""


class Split(NamedTuple):
    key: UUID | str
    amount: int = 0


class Row(TypedDict):
    id: int
    name: NotRequired[str]


class Entry(TypedDict):
    id: UUID | str
    name: NotRequired[str]


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Plain(msgspec.Struct):
    x: float | None


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None
    tags: set[str] = set()
    weight: float | None = None


class SubModel(Model):
    extra: str = ""


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    when: datetime
    name: str = pydantic.Field(alias="fullName")


class Wrapped(pydantic.BaseModel, Generic[T]):
    value: T


@dataclass
class Mailbox:
    owner: Model
    others: list[Model | None]


@dataclass(frozen=True)
class Team:
    names: frozenset[str]
    lead: Card | None = None


@dataclass(frozen=True)
class Group:
    """Its fields need the tagged form, and one is a set."""

    names: frozenset[str]
    ids: frozenset[UUID | str] = frozenset()


class Crew(msgspec.Struct, rename="camel", frozen=True):
    crew_names: set[str]


class Row3(msgspec.Struct, array_like=True, tag=True):
    id: int
    names: set[str]


class Club(pydantic.BaseModel):
    names: set[str] = pydantic.Field(alias="memberNames")
    parts: list[Club] = []


class Tags(pydantic.RootModel[frozenset[str]]):
    pass


@dataclass
class Event:
    """Of the same fields as the tagged form."""

    type: str
    value: set[str]


class Money:
    """A class that only a codec can store."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


@pytest.fixture
def serializer() -> Serializer:
    return Serializer()


# -- Round trips ---------------------------------------------------------------------------------

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
_zones = (
    st.none()
    | st.just(UTC)
    | st.integers(-840, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))
)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_text = st.text()
_keys: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, _text),
    (int, st.integers()),
    (float, _finite),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=_zones)),
    (bytes, st.binary()),
    (Decimal, st.decimals(allow_nan=False)),
    (Colour, st.sampled_from(Colour)),
    (UserId, st.integers()),
]
_leaves: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *_keys,
    (type(None), st.none()),
    (None, st.none()),
    (bool, st.booleans()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (Level, st.sampled_from(Level)),
    (Word, st.sampled_from(Word)),
    (Mixed, st.sampled_from(Mixed)),
    (Permission, st.sampled_from(Permission)),
    (Positive, st.integers(min_value=1)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Any, _json),
    (dict[str, Any], st.dictionaries(_text, _json)),
    (list, st.lists(_json)),
    (int | float, st.integers() | _finite),
    (int | str | None, st.integers() | _text | st.none()),
    (UUID | str, st.uuids() | _text),
    (datetime | date | str | None, st.datetimes() | st.dates() | _text | st.none()),
    (Literal["a", 1] | datetime, st.sampled_from(["a", 1]) | st.datetimes()),
    (Either, st.uuids() | _text),
    (list[int] | set[int] | dict[str, int], st.just([1]) | st.just({1}) | st.just({"a": 1})),
    (Point, st.builds(Point)),
    (Card | Cash, st.builds(Card) | st.builds(Cash, st.decimals(allow_nan=False))),
    (Pair, st.builds(Pair)),
    (Split, st.builds(Split)),
    (Row, st.fixed_dictionaries({"id": st.integers()}, optional={"name": _text})),
    (
        Entry,
        st.fixed_dictionaries({"id": st.uuids() | _text}, optional={"name": _text}),
    ),
    (Cat | Dog, st.builds(Cat) | st.builds(Dog)),
    (Model, st.builds(Model, weight=st.none() | _finite)),
    (Model | Wrapped[int] | Point, st.builds(Model, weight=st.none()) | st.builds(Wrapped[int])),
    (Strict, st.builds(Strict)),
    (Tree, st.just(Tree("a", [Tree("b"), Tree("c", [Tree("d")])]))),
    (
        Payment,
        st.recursive(
            st.builds(
                Payment,
                method=st.none() | st.builds(Card),
                when=st.datetimes() | _text,
                by_name=st.dictionaries(_text, st.uuids() | _text),
                parts=st.just([]),
            ),
            lambda inner: st.builds(Payment, method=st.none(), parts=st.lists(inner, max_size=2)),
            max_leaves=4,
        ),
    ),
]


def _hashable(leaf: tuple[Any, Any]) -> bool:
    return leaf[0] in (str, int, UUID, date, Colour, Mixed, UUID | str, Card | Cash, Positive)


_set_leaves = [leaf for leaf in _leaves if _hashable(leaf)]


@st.composite
def _typed(draw: st.DrawFn, depth: int = 3) -> tuple[Any, st.SearchStrategy[Any]]:
    """Draw a type and a strategy for its values."""
    kinds = ["leaf", "list", "dict", "pair", "row", "set", "optional", "box", "annotated"]
    kind = draw(st.sampled_from(kinds if depth else ["leaf"]))
    if kind in ("leaf", "set"):
        declared, values = draw(st.sampled_from(_leaves if kind == "leaf" else _set_leaves))
    else:
        declared, values = draw(_typed(depth=depth - 1))
    match kind:
        case "set":
            origin: Any = draw(st.sampled_from([set, frozenset]))
            return origin[declared], st.builds(origin, st.lists(values, max_size=3))
        case "list":
            origin = draw(st.sampled_from([list, Sequence]))
            return origin[declared], st.lists(values, max_size=3)
        case "dict":
            key, keys = draw(st.sampled_from(_keys))
            origin = draw(st.sampled_from([dict, Mapping]))
            return origin[key, declared], st.dictionaries(keys, values, max_size=3)
        case "pair":
            other, others = draw(_typed(depth=depth - 1))
            return _of(tuple, declared, other), st.tuples(values, others)
        case "row":
            return _of(tuple, declared, ...), st.lists(values, max_size=3).map(tuple)
        case "optional":
            return _of(Union, declared, None), st.none() | values
        case "box":
            return _of(Box, declared), st.builds(Box, values)
        case "annotated":
            return _of(Annotated, declared, "a note"), values
        case _:
            return declared, values


def _of(origin: Any, *arguments: Any) -> Any:
    return origin[arguments if len(arguments) > 1 else arguments[0]]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_value_of_every_type_comes_back_equal(data: st.DataObject) -> None:
    declared, values = data.draw(_typed())
    value = data.draw(values)
    shape = Serializer().shape(declared)

    text, back = shape.record(value)

    assert back == value
    assert type(back) is type(value)
    assert shape.decode(text) == value
    assert shape.record(back)[1] == value
    assert shape.decode(shape.encode(back, validate=False)) == value


@pytest.mark.parametrize(("declared", "values"), _leaves, ids=[str(kind) for kind, _ in _leaves])
@given(st.data())
def test_every_kind_of_type_keeps_the_class_of_its_values(
    declared: Any, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    back = Serializer().shape(declared).record(value)[1]
    assert (back, type(back)) == (value, type(value))


@given(_json)
def test_untyped_json_comes_back_as_it_was(value: Any) -> None:
    for declared in (Any, inspect.Parameter.empty, object, T):
        back = Serializer().shape(declared).record(value)[1]
        assert repr(back) == repr(value)


def test_what_is_handed_back_is_never_the_live_object(serializer: Serializer) -> None:
    value = {"a": [1]}
    back = serializer.shape(Any).record(value)[1]
    back["a"].append(2)
    assert value == {"a": [1]}


def test_a_shape_is_made_once_for_each_type(serializer: Serializer) -> None:
    assert serializer.shape(list[Point]) is serializer.shape(list[Point])


def test_an_annotation_that_cannot_be_hashed_has_a_shape(serializer: Serializer) -> None:
    declared = Annotated[int, ["a list"]]
    assert serializer.shape(declared).record(3) == ("3", 3)


@pytest.mark.parametrize(
    "value", [2**63, 2**64, -(2**200), 10**4299], ids=["2**63", "2**64", "-2**200", "10**4299"]
)
def test_integers_of_any_size_that_python_can_write_come_back(
    serializer: Serializer, value: int
) -> None:
    for declared in (int, Any):
        assert serializer.shape(declared).record(value)[1] == value
        assert serializer.shape(_of(list, declared)).record([value])[1] == [value]


# -- Plain data for a declared type --------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "given_value", "expected"),
    [
        (Point, {"x": 1}, Point(1)),
        (list[Point], ({"x": 1},), [Point(1)]),
        (float, 3, 3.0),
        (datetime, "2024-01-02T03:04:05", datetime(2024, 1, 2, 3, 4, 5)),  # noqa: DTZ001
        (UUID, "0" * 32, UUID(int=0)),
        (Decimal, 0.5, Decimal("0.5")),
        (Colour, "red", Colour.RED),
        (Mixed, "PAIR", Mixed.PAIR),
        (set[int], [1, 1], {1}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Pair, [1, "a"], Pair(1, "a")),
        (Model, {"id": 1, "tags": ["a"]}, Model(id=1, tags={"a"})),
        (Strict, {"when": "2024-01-02T03:04:05", "fullName": "a"}, None),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Card | Cash, {"type": "Card", "value": {"number": "4"}}, Card("4")),
        (
            Payment,
            {"method": {"type": "Card", "value": {"number": "4"}}},
            Payment(Card("4")),
        ),
        (str, Word.YES, "yes"),
        (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
        (float | str | bytes, 3, 3.0),
        (bytes, bytearray(b"a"), b"a"),
    ],
)
def test_plain_data_is_accepted_and_read_as_the_declared_type(
    serializer: Serializer, declared: Any, given_value: Any, expected: Any
) -> None:
    back = serializer.shape(declared).record(given_value)[1]
    if expected is not None:
        assert (back, type(back)) == (expected, type(expected))
    else:
        assert type(back) is declared


@pytest.mark.parametrize(
    ("declared", "value", "reason"),
    [
        (int, "1", "Expected `int`"),
        (int, True, "Expected `int`"),
        (int, None, "Expected `int`"),
        (str, UUID(int=0), "is a uuid.UUID and would come back as a str"),
        (list[str], [date(2024, 1, 1)], r"\$\[0\] is a datetime.date"),
        (str, Colour.RED, "would come back as a str"),
        (bytes, "abcd", "would come back as a bytes"),
        (list[int], {1, 2}, "is a set"),
        (Point, {"x": 1, "why": 2}, "field 'why'"),
        (Point, {"y": "a"}, "missing required field `x`"),
        (Point, Point3(1), "Point3 and would come back as a .*Point"),
        (list[Point], [Point(1), Point3(1)], r"\$\[1\] is a .*Point3"),
        (Point, Point(typing.cast(int, "1")), "Expected `int`"),
        (Positive, 0, "Expected `int` >= 1"),
        (Model, SubModel(id=1), "SubModel and would come back as a .*Model"),
        (Model, {"id": "x"}, "valid integer"),
        (Card | Cash, Point(1), r"none of the union's members \(Card, Cash\)"),
        (Card | Cash, {"number": "4"}, '{"type": "...", "value": ...}'),
        (Point | Cash, Point3(1), "none of the union's members"),
        (Payment, Point(1), "Point was given where a .*Payment is declared"),
        (dict[str, int], {1: 2}, "has a key that is a int"),
        (dict[int | str, int], {1: 1, "1": 1}, "2 keys, and 1 would come back"),
        (Row, {"id": 1, "age": 2}, "2 keys, and 1 would come back"),
        (Plain, Dog("a"), "missing required field"),
        (int, Money(1), "has no form in JSON"),
        pytest.param(int, 10**5000, "4300 digits", id="thousands of digits"),
        (datetime, datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=5))), "another"),
        (str, "\ud800", "lone surrogate"),
        (Model, Model(id=1, tags={"\ud800"}), "surrogate"),
        (Point, Point(1, "\ud800"), "lone surrogate"),
        (dict[str, int], {"\udfff": 1}, "lone surrogate"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_says_where(
    serializer: Serializer, declared: Any, value: Any, reason: str
) -> None:
    with pytest.raises(EncodeError, match=reason):
        serializer.shape(declared).record(value)
    with pytest.raises(EncodeError, match=reason):
        serializer.shape(declared).encode(value)


def test_a_value_that_holds_itself_is_an_error(serializer: Serializer) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="nested too deeply, or holds itself"):
        serializer.shape(Any).record(value)


def test_a_class_without_equality_is_compared_field_by_field(serializer: Serializer) -> None:
    assert serializer.shape(Same).record(Same(1))[1].x == 1


def test_a_secret_that_its_model_writes_as_asterisks_is_an_error(serializer: Serializer) -> None:
    """It would come back as those, without a word; and the message does not tell it."""

    class Account(pydantic.BaseModel):
        password: pydantic.SecretStr

    with pytest.raises(EncodeError, match=r"\$\.password would come back as another") as refused:
        serializer.shape(Account).record(Account(password=pydantic.SecretStr("hunter2")))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", [Stamped("a"), [Known(1), KnownBetter(1, "all")]])
def test_what_equality_does_not_tell_is_compared(serializer: Serializer, value: Any) -> None:
    """What the class leaves out of its comparison comes back as it was, or is an error."""
    declared = list[Known] if isinstance(value, list) else Stamped
    with pytest.raises(EncodeError, match="would come back as a"):
        serializer.shape(declared).record(value)


def test_a_zone_comes_back_as_its_offset_also_where_clocks_change(serializer: Serializer) -> None:
    paris = ZoneInfo("Europe/Paris")
    for fold in (0, 1):
        value = datetime(2024, 10, 27, 2, 30, tzinfo=paris, fold=fold)
        back = serializer.shape(datetime).record(value)[1]
        assert back.astimezone(UTC) == value.astimezone(UTC)
        assert back.utcoffset() == value.utcoffset()


# -- NaN and infinities --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("declared", "make"),
    [
        (float, lambda bad: bad),
        (float | None, lambda bad: bad),
        (Any, lambda bad: bad),
        (Any, lambda bad: {"a": [None, bad]}),
        (list[float | None], lambda bad: [None, bad]),
        (set[float | None], lambda bad: {bad}),
        (set[float | None], lambda bad: [bad]),
        (dict[str, float | None], lambda bad: {"a": bad}),
        (tuple[float | None, ...], lambda bad: (bad,)),
        (Quiet, lambda bad: Quiet("a", bad)),
        (Quiet, lambda bad: {"name": "a", "weight": bad}),
        (Plain, Plain),
        (list[Model], lambda bad: [Model(id=1, weight=bad)]),
        (Loose, Loose),
        (Box[float | None], Box),
        (float | str | UUID | None, lambda bad: bad),
    ],
)
def test_nan_and_infinity_are_errors_wherever_they_stand(
    serializer: Serializer, declared: Any, make: Any, bad: float
) -> None:
    with pytest.raises(EncodeError):
        serializer.shape(declared).record(make(bad))


def test_nan_is_an_error_also_without_validation(serializer: Serializer) -> None:
    with pytest.raises(EncodeError, match="NaN"):
        serializer.shape(list[float]).encode([math.nan], validate=False)
    assert (
        serializer.shape(Quiet).encode(Quiet("a"), validate=False) == '{"name":"a","weight":null}'
    )


def test_the_word_null_in_a_text_is_no_nan(serializer: Serializer) -> None:
    assert serializer.shape(Quiet).record(Quiet("null"))[1] == Quiet("null")


# -- Untyped data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "comes_back_as"),
    [
        ((1, 2), "list"),
        ({"a": (1,)}, "list"),
        ([{1}], "list"),
        ({1: "a"}, "key that is a int"),
        ({None: "a"}, "keys"),
        (datetime(2024, 1, 1), "str"),  # noqa: DTZ001
        ([timedelta(1)], "str"),
        (Decimal("1.5"), "str"),
        (UUID(int=0), "str"),
        (b"a", "str"),
        (Point(1), "dict"),
        (Dog("a"), "dict"),
        (Model(id=1), "dict"),
        (Pair(1), "list"),
        (Level.LOW, "int"),
        ([Word.YES], "str"),
        ({Word.YES: 1}, "str"),
        (Colour.RED, "str"),
        (collections.OrderedDict(a=1), "dict"),
        (collections.Counter("a"), "dict"),
    ],
)
@pytest.mark.parametrize("declared", [Any, Loose, dict[str, Any]], ids=str)
def test_untyped_data_that_json_would_change_is_an_error_with_the_mend(
    serializer: Serializer, declared: Any, value: Any, comes_back_as: str
) -> None:
    given_value = {Any: value, Loose: Loose(value)}.get(declared, {"a": value})
    with pytest.raises(EncodeError, match=rf"{comes_back_as}.*return annotation") as caught:
        serializer.shape(declared).record(given_value)
    assert "`type=`" in str(caught.value)


def test_typed_fields_beside_untyped_ones_are_still_read_as_declared(
    serializer: Serializer,
) -> None:
    assert serializer.shape(Loose).record(Loose([1], 2))[1] == Loose([1], 2.0)
    assert serializer.shape(Loose).record({"data": {"a": None}})[1] == Loose({"a": None})


# -- Tagged forms --------------------------------------------------------------------------------


def test_a_union_that_json_cannot_tell_apart_is_stored_with_the_members_name(
    serializer: Serializer,
) -> None:
    shape = serializer.shape(Card | Cash | None)
    assert shape.encode(Card("4")) == '{"type":"Card","value":{"number":"4"}}'
    assert shape.encode(None) == "null"


def test_a_union_that_json_can_tell_apart_is_stored_plainly(serializer: Serializer) -> None:
    assert serializer.shape(Point | int | None).encode(Point(1)) == '{"x":1,"y":"y"}'


def test_members_of_one_name_are_tagged_with_their_module(serializer: Serializer) -> None:
    shape = serializer.shape(Card | Deck.Card)
    assert shape.record(Deck.Card("hearts"))[1] == Deck.Card("hearts")
    assert f"{__name__}.Card" in shape.encode(Card("4"))


def test_an_init_false_field_of_a_tagged_form_comes_back(serializer: Serializer) -> None:
    payment = Payment(None)
    payment.note = "later"
    assert serializer.shape(Payment).record(payment)[1] == payment


@pytest.mark.parametrize(
    "text", ['{"number":"4"}', '{"type":"Gold","value":1}', '"a"', '{"type":[],"value":1}', "null"]
)
def test_a_stored_union_without_a_known_tag_is_a_decode_error(
    serializer: Serializer, text: str
) -> None:
    with pytest.raises(DecodeError):
        serializer.shape(Card | Cash).decode(text)


# -- Sets ----------------------------------------------------------------------------------------

_NAMES = [f"n{number}" for number in range(10, 30)]
_SORTED_NAMES = "[" + ",".join(f'"{name}"' for name in _NAMES) + "]"


@pytest.mark.parametrize(
    ("declared", "make", "text"),
    [
        (set[str], set, "{}"),
        (set, set, "{}"),
        (frozenset[str] | None, frozenset, "{}"),
        (collections.abc.Set[str], set, "{}"),
        (list[set[str]], lambda names: [{"a"}, set(names)], '[["a"],{}]'),
        (dict[str, set[str]], lambda names: {"b": set(names), "a": set()}, '{{"b":{},"a":[]}}'),
        (tuple[int, set[str]], lambda names: (1, set(names)), "[1,{}]"),
        (Team, lambda names: Team(frozenset(names)), '{{"names":{},"lead":null}}'),
        (Team, lambda names: {"names": set(names)}, '{{"names":{}}}'),
        (set[Team], lambda names: {Team(frozenset(names))}, '[{{"names":{},"lead":null}}]'),
        (Group, lambda names: Group(frozenset(names)), '{{"names":{},"ids":[]}}'),
        (
            Group | Team,
            lambda names: Group(frozenset(names)),
            '{{"type":"Group","value":{{"names":{},"ids":[]}}}}',
        ),
        (set[str] | list[str], set, '{{"type":"set","value":{}}}'),
        (Event, lambda names: Event("a", set(names)), '{{"type":"a","value":{}}}'),
        (
            Event | Point,
            lambda names: Event("a", set(names)),
            '{{"type":"Event","value":{{"type":"a","value":{}}}}}',
        ),
        (Crew, lambda names: Crew(set(names)), '{{"crewNames":{}}}'),
        (Row3, lambda names: Row3(1, set(names)), '["Row3",1,{}]'),
        (Club, lambda names: Club(memberNames=set(names)), '{{"memberNames":{},"parts":[]}}'),
        (
            list[Club],
            lambda names: [Club(memberNames=set(), parts=[Club(memberNames=set(names))])],
            '[{{"memberNames":[],"parts":[{{"memberNames":{},"parts":[]}}]}}]',
        ),
        (Tags, lambda names: Tags(frozenset(names)), "{}"),
    ],
)
def test_the_members_of_a_set_are_stored_in_order_wherever_it_stands(
    serializer: Serializer, declared: Any, make: Any, text: str
) -> None:
    value = make(_NAMES)
    shape = serializer.shape(declared)
    assert shape.encode(value) == text.format(_SORTED_NAMES)
    assert shape.encode(value, validate=False) == text.format(_SORTED_NAMES)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (set[int], {10, 9, 8, 0, -1}, "[-1,0,8,9,10]"),
        (set[float], {10.5, 9.0, -1.0}, "[-1.0,9.0,10.5]"),
        (set[int | str | None], {"b", 8, 0, None, "a"}, '[0,8,"a","b",null]'),
        (set, {"b", 8, 0, None, "a"}, '[0,8,"a","b",null]'),
        (set[date], {date(2024, 2, 1), date(2024, 1, 3)}, '["2024-01-03","2024-02-01"]'),
        (set[Colour], {Colour.RED, Colour.BLUE}, '["blue","red"]'),
        (set[tuple[int, str]], {(8, "a"), (0, "b")}, '[[0,"b"],[8,"a"]]'),
        (set[Card], {Card("4"), Card("3")}, '[{"number":"3"},{"number":"4"}]'),
        (
            set[Card | Cash],
            {Cash(Decimal(1)), Card("3")},
            '[{"type":"Card","value":{"number":"3"}},{"type":"Cash","value":{"amount":"1"}}]',
        ),
        (
            frozenset[frozenset[int]],
            frozenset({frozenset({8, 0}), frozenset({16, 8}), frozenset[int]()}),
            "[[0,8],[8,16],[]]",
        ),
    ],
)
def test_members_of_every_kind_have_an_order(
    serializer: Serializer, declared: Any, value: Any, text: str
) -> None:
    assert serializer.shape(declared).record(value) == (text, value)


@given(st.data())
def test_a_set_has_one_text_in_whatever_order_it_was_filled(data: st.DataObject) -> None:
    declared, values = data.draw(st.sampled_from(_set_leaves))
    members = data.draw(st.lists(values, max_size=8, unique=True))
    shuffled = data.draw(st.permutations(members))
    shape = Serializer().shape(_of(set, declared))
    assert shape.encode(set(members)) == shape.encode(set(shuffled))
    assert shape.record(set(members))[1] == set(members)


def test_lists_and_the_keys_of_dicts_keep_their_order(serializer: Serializer) -> None:
    value = {"b": [2, 1, {"z": 1, "y": [3, 1]}], "a": 1}
    assert serializer.shape(Any).encode(value) == '{"b":[2,1,{"z":1,"y":[3,1]}],"a":1}'
    keyed = serializer.shape(dict[str, list[int] | set[int]])
    assert keyed.encode({"b": [2, 1], "a": {8, 0}}) == (
        '{"b":{"type":"list","value":[2,1]},"a":{"type":"set","value":[0,8]}}'
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (set, "{}"),
        (lambda names: {"b": [set(names)], "a": ["z", "y"]}, '{{"b":[{}],"a":["z","y"]}}'),
        (lambda names: Team(frozenset(names)), '{{"names":{},"lead":null}}'),
    ],
)
@pytest.mark.parametrize("declared", [Money, Box[Money], Money | int], ids=str)
def test_a_set_that_a_codec_makes_is_stored_in_order(declared: Any, make: Any, text: str) -> None:
    serializer = Serializer({Money: Codec(lambda _: make(_NAMES), lambda _: Money(1))})
    value = Box(Money(1)) if declared == Box[Money] else Money(1)
    stored, back = serializer.shape(declared).record(value)
    assert text.format(_SORTED_NAMES) in stored
    assert back == value


def test_a_codec_that_makes_what_holds_itself_is_an_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    serializer = Serializer({Money: Codec(lambda _: endless, Money)})
    with pytest.raises(EncodeError, match="holds itself"):
        serializer.shape(Money).encode(Money(1))


def test_a_set_has_one_text_in_every_process() -> None:
    program = """
from zart.serialization import Serializer

print(Serializer().shape(set[str]).encode({f"n{number}" for number in range(50)}))
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            env={
                "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
                "PYTHONHASHSEED": seed,
            },
            timeout=60,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


# -- Reading what was stored ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (int, ""),
        (int, "nonsense"),
        (int, '"1"'),
        (Point, "{}"),
        (Point, "null"),
        (Model, "{}"),
        (Payment, "{}"),
        (Payment, '{"method":null,"parts":[{"method":3}]}'),
        (Mixed, '"PURPLE"'),
        (Mixed, "[]"),
        (Any, "[" * 100_000),
        (str, '"\\ud800"'),
    ],
    ids=lambda value: str(value)[:20],
)
def test_stored_text_that_does_not_fit_is_a_decode_error_that_names_the_type(
    serializer: Serializer, declared: Any, text: str
) -> None:
    with pytest.raises(DecodeError, match="does not read as"):
        serializer.shape(declared).decode(text)


def test_a_stored_value_reads_after_fields_were_added_and_removed(serializer: Serializer) -> None:
    assert serializer.shape(Point).decode('{"x":1,"gone":2}') == Point(1)
    assert serializer.shape(Payment).decode('{"method":null,"gone":2}') == Payment(None)


# -- Types that cannot be supported --------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "mend"),
    [
        (Money, "Codec"),
        (list[Money], "Codec"),
        (Box[Money], "Codec"),
        (Money | int, "Codec"),
        (complex, "Codec"),
        (Iterable[int], "Declare a type"),
        (dict[Point, int], "list of pairs"),
        (dict[tuple[int, int], int], "list of pairs"),
        (dict[Mixed, int], "list of pairs"),
        (dict[bool, int], "list of pairs"),
        (list[int] | list[str], "Wrap them in dataclasses"),
        (Box[int] | Box[str], "Wrap them in dataclasses"),
        (Card | Cash | object, "Name the classes"),
        (Annotated[UUID | str, msgspec.Meta(min_length=3)], "Check the value"),
        ("Point", "Declare a type"),
        (typing.NoReturn, "Declare a type"),
    ],
)
def test_a_type_that_cannot_be_stored_is_an_error_when_its_shape_is_made(
    serializer: Serializer, declared: Any, mend: str
) -> None:
    with pytest.raises(DefinitionError, match=mend):
        serializer.shape(declared)


def test_a_dataclass_whose_annotations_cannot_be_found_is_an_error_naming_them(
    serializer: Serializer,
) -> None:
    @dataclass
    class Broken:
        x: Undefined  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match=r"'Undefined'.*TYPE_CHECKING"):
        serializer.shape(Broken)


if sys.version_info >= (3, 12):  # the type statement is new there

    def test_a_named_alias_is_read_as_what_it_stands_for(serializer: Serializer) -> None:
        names: dict[str, Any] = {"UUID": UUID}
        exec("type Id = UUID | str\ntype Json = dict[str, Json] | list[Json] | str", names)
        assert serializer.shape(_of(list, names["Id"])).record([UUID(int=1)])[1] == [UUID(int=1)]
        with pytest.raises(DefinitionError, match="holds itself without end"):
            serializer.shape(names["Json"])


# -- Codecs --------------------------------------------------------------------------------------

MONEY = Codec[Money](encode=lambda money: money.cents, decode=Money)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (Money, Money(5), "5"),
        (list[Money], [Money(5)], "[5]"),
        (Box[Money], Box(Money(5)), '{"content":5}'),
        (Money | None, None, "null"),
        (Money | int, Money(5), '{"type":"Money","value":5}'),
        (Money | int, 5, '{"type":"int","value":5}'),
        (Path | str, Path("a"), '{"type":"Path","value":"a"}'),
        (dict[str, Path], {"a": Path("b")}, '{"a":"b"}'),
        (Point, Point(1, "a"), '"1/a"'),
        (list[Box[Point]], [Box(Point(1, "a"))], '[{"content":"1/a"}]'),
    ],
)
def test_a_codec_stores_its_class_wherever_it_is_declared(
    declared: Any, value: Any, text: str
) -> None:
    def read_point(stored: str) -> Point:
        x, y = stored.split("/")
        return Point(int(x), y)

    serializer = Serializer(
        {
            Money: MONEY,
            Path: Codec(encode=str, decode=Path),
            Point: Codec(encode=lambda point: f"{point.x}/{point.y}", decode=read_point),
        }
    )
    assert serializer.shape(declared).record(value) == (text, value)


@pytest.mark.parametrize("stored", [5, "5", [5], {"cents": 5}, None])
@pytest.mark.parametrize("declared", [Any, list[Any], Box[Any]])
def test_a_value_whose_codec_is_not_asked_to_read_it_is_refused(declared: Any, stored: Any) -> None:
    """Without a declared type it would come back as what the codec made of it."""
    serializer = Serializer({Money: Codec(lambda _: stored, lambda _: Money(5))})
    value = {Any: Money(5), list[Any]: [Money(5)], Box[Any]: Box(Money(5))}[declared]
    with pytest.raises(EncodeError, match=r"Money.*[Dd]eclare"):
        serializer.shape(declared).record(value)


def test_a_codec_that_raises_is_an_encode_or_a_decode_error() -> None:
    def fail(value: Any) -> Any:
        raise KeyError("no")

    serializer = Serializer({Money: Codec(fail, fail)})
    with pytest.raises(EncodeError):
        serializer.shape(Money).record(Money(1))
    with pytest.raises(DecodeError):
        serializer.shape(Money).decode("1")


@pytest.mark.parametrize("taught", [int, str, datetime, UUID, list, dict])
def test_a_codec_for_what_json_has_a_fixed_form_for_is_refused(taught: type) -> None:
    with pytest.raises(DefinitionError, match="Wrap the value"):
        Serializer({taught: Codec(str, str)})


def test_a_subclass_without_a_codec_of_its_own_cannot_be_declared() -> None:
    serializer = Serializer({PurePosixPath: Codec(str, PurePosixPath)})
    with pytest.raises(DefinitionError, match="Codec"):
        serializer.shape(Path)


# -- Pydantic ------------------------------------------------------------------------------------


def test_models_inside_dataclasses_come_back(serializer: Serializer) -> None:
    value = Mailbox(Model(id=1, tags={"a"}), [None, Model(id=2)])
    assert serializer.shape(Mailbox).record(value)[1] == value


def test_nothing_of_pydantic_is_imported() -> None:
    program = """
import sys
sys.modules["pydantic"] = sys.modules["pydantic_core"] = None
from dataclasses import dataclass
from zart.serialization import Serializer

@dataclass
class Point:
    x: int

assert Serializer().shape(list[Point | None]).record([Point(1)])[1] == [Point(1)]
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
