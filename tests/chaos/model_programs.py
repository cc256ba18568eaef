"""Random workflows as data: a program is the input of an execution, and a handler plays it.

An operation is a JSON object; its ``op`` names the method of `model_tasks.Player` that plays it.
Where an operation stands in its program gives it its step's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from hypothesis import strategies as st

__all__ = [
    "ALWAYS",
    "EVENTS",
    "TASKS",
    "Op",
    "Program",
    "operations",
    "programs",
    "tasks",
    "within",
]

Op: TypeAlias = dict[str, Any]
Program: TypeAlias = list[Op]

ALWAYS = 99
"""So many failures are more than any retries."""
EVENTS = ("a", "b")
TASKS = ("plain", "stubborn", "hasty")

_takes = st.sampled_from([0, 0, 1, 5, 20, 40])
_pauses = st.sampled_from(["0s", "5ms", "2h"])
_fails = st.sampled_from([0, 0, 1, ALWAYS])


def _op(name: str, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.fixed_dictionaries({"op": st.just(name), **parts})


_members = st.lists(
    st.fixed_dictionaries({"takes": _takes, "fails": _fails}), min_size=1, max_size=3
)
_step = _op("step", takes=_takes, plain=st.booleans(), soft=st.booleans())
_fail = _op(
    "fail",
    how=st.sampled_from(["error", "business", "late"]),
    retries=st.integers(0, 2),
    pause=_pauses,
)
_flaky = _op("flaky", fails=st.integers(1, 2), spare=st.integers(0, 1), pause=_pauses)
_sleep = _op("sleep", duration=st.sampled_from(["0s", "20ms", "3h"]))
_event = _op(
    "event", event=st.sampled_from(EVENTS), timeout=st.sampled_from([None, None, "15ms", "2h"])
)
_write = _op("write", takes=_takes)
_capture = _op("capture")
_draw = _op("draw")
_locals = _op("locals", members=_members, all=st.booleans())
_group = _op("group", members=_members, all=st.booleans())
_stumble = _op("stumble", times=st.sampled_from([1, 1, 2, ALWAYS]))
_trip = _op("trip", fails=st.sampled_from([1, 1, 2, ALWAYS]))

_leaf = st.one_of(_step, _step, _fail, _flaky, _sleep, _event, _write, _capture, _locals, _group)
_bodies = st.lists(_leaf, min_size=1, max_size=2)
_gather = _op(
    "gather",
    # A failure that leaves its branch cuts the siblings off.
    branches=st.lists(
        st.lists(st.one_of(_leaf, _leaf, _leaf, _trip), min_size=1, max_size=2),
        min_size=2,
        max_size=3,
    ),
    strict=st.booleans(),
)
_loop = _op(
    "loop", rounds=st.integers(0, 3), body=st.one_of(_bodies, st.lists(_gather, max_size=1))
)
_child = _op("child", program=_bodies, task=st.sampled_from(["plain", "stubborn"]))

_operation = st.one_of(_leaf, _leaf, _leaf, _leaf, _gather, _loop, _child, _draw, _stumble, _trip)
programs = st.lists(_operation, min_size=1, max_size=5)
tasks = st.sampled_from(TASKS)


def within(op: Op) -> Iterator[Op]:
    """An operation and those inside it that run in the same execution."""
    yield op
    inner = [*op.get("body", ()), *(each for branch in op.get("branches", ()) for each in branch)]
    for each in inner:
        yield from within(each)


def operations(program: Program) -> Iterator[Op]:
    """Every operation of a program."""
    for op in program:
        yield from within(op)
