"""Bad input: each kind is an error of its own, says how to mend it, and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

import zart
from zart.testing.conformance.harness import Backend, open_scheduler, working
from zart.testing.conformance.rows import all_rows

__all__ = ["TestRefusals"]

Call: TypeAlias = Callable[[zart.DurableScheduler, Any], Awaitable[Any]]


@dataclass
class Order:
    id: str
    total: int


@zart.durable("order")
async def order(data: Order) -> str:
    return data.id


@zart.durable("no-input")
async def no_input() -> str:
    return "done"


UNSTORABLE: dict[str, tuple[Any, str]] = {
    "empty": ("", "must not be empty"),
    "space before": (" id", "strip it"),
    "line feed after": ("id\n", "control characters"),
    "no-break space after": ("id\u00a0", "strip it"),
    "only spaces": ("   ", "strip it"),
    "nul": ("i\x00d", "control characters"),
    "escape": ("i\x1bd", "control characters"),
    "delete": ("i\x7fd", "control characters"),
    "half a surrogate pair": ("i\ud800d", "surrogate"),
    "too long": ("x" * 201, "200 are allowed"),
    "far too long": ("x" * 100_000, "200 are allowed"),
    "number": (5, "must be a str, not int"),
    "bytes": (b"id", "must be a str, not bytes"),
    "list": (["id"], "must be a str, not list"),
}

STORABLE = (
    "x" * 200,
    "a b",
    "O'Brien; DROP TABLE zart_tasks; --",
    'quoted "id" `id` $1 ? %s :name {name}',
    "back\\slash\\' and %",
    "żółw-é-e\u0301-亀-🐢",
    "CASE",
    "case",
    "null",
)

PLACES: dict[str, Call] = {
    "schedule, id": lambda s, bad: s.schedule("order", None, id=bad),
    "schedule, task": lambda s, bad: s.schedule(bad, None),
    "schedule, queue": lambda s, bad: s.schedule("order", None, queue=bad),
    "schedule_many, id": lambda s, bad: s.schedule_many("order", [1, 2], ids=["good", bad]),
    "offer_event, id": lambda s, bad: s.offer_event(bad, "event"),
    "offer_event, event": lambda s, bad: s.offer_event("live", bad),
    "cancel": lambda s, bad: s.cancel(bad),
    "restart": lambda s, bad: s.restart(bad),
    "get": lambda s, bad: s.get(bad),
    "result": lambda s, bad: s.result(bad, timeout="2s"),
    "wait": lambda s, bad: s.wait(bad, timeout="2s"),
    "timeline": lambda s, bad: s.timeline(bad),
    "timeline of a run": lambda s, bad: s.timeline(bad, run=1),
    "attempts": lambda s, bad: s.attempts(bad),
}

UNFIT: dict[str, tuple[Call, str]] = {
    "another type": (lambda s, _: s.schedule(order, _any(5)), "Order"),
    "a field of another type": (lambda s, _: s.schedule(order, Order("a", _any("x"))), "total"),
    "a field that is missing": (lambda s, _: s.schedule(order, _any({"id": "a"})), "total"),
    "no input where one is needed": (
        lambda s, _: s.schedule(_any(order)),
        "task 'order' was given no input and takes ",
    ),
    "input where none is taken": (lambda s, _: s.schedule(no_input, _any(5)), "no-input"),
    "one bad item of many": (
        lambda s, _: s.schedule_many(order, _any([Order("a", 1), {"x": 1}])),
        "Order",
    ),
    "ids that do not match": (lambda s, _: s.schedule_many("x", [1, 2], ids=["a"]), "one id for"),
    "no form in JSON": (lambda s, _: s.schedule("x", object()), "no form in JSON"),
    "not a number": (lambda s, _: s.schedule("x", float("nan")), "nan"),
    "half a surrogate pair": (lambda s, _: s.schedule("x", "\ud800"), "surrogate"),
    "keys that are no text": (lambda s, _: s.schedule("x", {1: 2}), "key"),
    "a value that holds itself": (lambda s, _: s.schedule("x", _endless()), "holds itself"),
    "an event's payload": (lambda s, _: s.offer_event("live", "e", object()), "'e'"),
    "an event of another type": (lambda s, _: s.offer_event("live", "e", "x", type=int), "int"),
    "a handle's event": (lambda s, _: s.handle("live").offer_event("e", "x", type=int), "int"),
}

ODD: dict[str, tuple[Call, type[Exception], str]] = {
    "priority, text": (lambda s, _: s.schedule("x", 1, priority=_any("x")), ValueError, "32 bits"),
    "priority, fraction": (
        lambda s, _: s.schedule("x", 1, priority=_any(1.5)),
        ValueError,
        "32 bits",
    ),
    "priority, too big": (lambda s, _: s.schedule("x", 1, priority=2**31), ValueError, "32 bits"),
    "priority of many": (
        lambda s, _: s.schedule_many("x", [1], priority=-(2**31) - 1),
        ValueError,
        "32 bits",
    ),
    "delay, negative": (lambda s, _: s.schedule("x", 1, delay=-5), zart.DurationError, "negative"),
    "delay, words": (lambda s, _: s.schedule("x", 1, delay="soon"), zart.DurationError, "unit"),
    "at, text": (lambda s, _: s.schedule("x", 1, at=_any("noon")), TypeError, "datetime"),
    "a status that is none": (lambda s, _: s.list(status="oops"), ValueError, "pending, running"),
    "before, an id": (lambda s, _: s.list(before=_any("id")), TypeError, r"page\[-1\]"),
    "limit, text": (lambda s, _: s.list(limit=_any("x")), ValueError, "not 'x'"),
    "ids, one text": (lambda s, _: s.schedule_many("x", [1, 2], ids="ab"), TypeError, "not 'ab'"),
    "many, one text": (lambda s, _: s.schedule_many("x", "ab"), TypeError, "one input"),
    "at and delay": (
        lambda s, _: s.schedule("x", 1, at=datetime(2030, 1, 1, tzinfo=UTC), delay="1s"),
        ValueError,
        "not both",
    ),
    "no task": (lambda s, _: s.schedule(_any(None)), zart.UnknownTaskError, "zart.durable"),
    "an undecorated function": (
        lambda s, _: s.schedule(_any(lambda: 1)),
        zart.UnknownTaskError,
        "zart.durable",
    ),
    "limit": (lambda s, _: s.list(limit=-1), ValueError, "limit"),
    "status": (lambda s, _: s.list(status="odd"), ValueError, "odd"),
}

UNKNOWN: dict[str, Call] = {
    "offer_event": lambda s, i: s.offer_event(i, "event"),
    "cancel": lambda s, i: s.cancel(i),
    "restart": lambda s, i: s.restart(i),
    "get": lambda s, i: s.get(i),
    "result": lambda s, i: s.result(i, timeout="5s"),
    "wait": lambda s, i: s.wait(i, timeout="5s"),
    "timeline": lambda s, i: s.timeline(i),
    "timeline of a run": lambda s, i: s.timeline(i, run=1),
    "attempts": lambda s, i: s.attempts(i),
    "a handle's result": lambda s, i: s.handle(i).result(timeout="5s"),
}


@pytest.mark.asyncio
class TestRefusals:
    """Bad input is refused where it enters."""

    async def test_ids_and_names_that_cannot_be_stored(self, backend: Backend) -> None:
        """Wherever an id or name enters, what cannot be stored is an InvalidIdError."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule("order", None, id="live")
            before = await all_rows(scheduler)
            for place, call in PLACES.items():
                for shape, (bad, mend) in UNSTORABLE.items():
                    if place == "schedule, task" and not isinstance(bad, str):
                        continue  # not a name but a task: another error, below
                    with pytest.raises(zart.InvalidIdError) as refused:
                        await call(scheduler, bad)
                    assert mend in str(refused.value), (place, shape)
                    assert len(str(refused.value)) < 400, (place, shape)
            assert await all_rows(scheduler) == before

    async def test_ids_and_names_that_look_dangerous(self, backend: Backend) -> None:
        """Quotes, markers, and letters of any script are stored and found as they are."""
        async with open_scheduler(backend) as scheduler:
            for text in STORABLE:
                handle = await scheduler.schedule(text, text, id=text, queue=text)
                assert handle.created, text
                await scheduler.offer_event(text, text, text)
            assert len(await scheduler.list(limit=100)) == len(STORABLE)
            for text in STORABLE:
                execution = await scheduler.get(text)
                assert (execution.id, execution.task, execution.queue) == (text, text, text)

            @zart.durable(STORABLE[2])
            async def echo(data: str) -> list[str]:
                context = zart.context()
                payload = await context.wait_for_event(data)
                return [payload, await context.step(data, lambda: data)]

            config = zart.WorkerConfig(poll_interval="20ms", queues=(STORABLE[2],))
            async with working(scheduler, echo, config=config):
                result = await scheduler.result(STORABLE[2], timeout="10s")
                assert result == [STORABLE[2], STORABLE[2]]

    async def test_names_inside_a_workflow(self, backend: Backend) -> None:
        """Steps, waits, loops and children refuse the same names; nothing is recorded."""
        refused: list[str] = []

        @zart.durable("names")
        async def names() -> int:
            context = zart.context()
            for bad, _ in UNSTORABLE.values():
                calls = _named_calls(context, bad)
                for number, call in enumerate(calls):
                    try:
                        answer = call()
                        if isinstance(answer, Awaitable):
                            await answer
                    except zart.InvalidIdError as error:
                        refused.append(str(error))
                    else:
                        raise AssertionError(f"call {number} took {bad!r}")
            return len(refused)

        async with open_scheduler(backend) as scheduler, working(scheduler, names):
            handle = await scheduler.schedule(names)
            assert await handle.result(timeout="10s") == 11 * len(UNSTORABLE)
            assert await scheduler.timeline(handle.id) == []

    @pytest.mark.parametrize("name", ["on_failure", "on_failure/undo"])
    async def test_names_of_a_compensation(self, backend: Backend, name: str) -> None:
        """They are zart's own outside of one: the call is refused, and the execution ends."""

        @zart.durable("names")
        async def names() -> None:
            await zart.context().step(name, lambda: "")
            await zart.sleep("1ms")

        @names.on_failure
        async def compensate(_: None, failure: zart.Failure) -> None:
            await zart.context().step("on_failure", lambda: "")
            await zart.context().step("undo", lambda: "")

        async with open_scheduler(backend) as scheduler, working(scheduler, names):
            handle = await scheduler.schedule(names)
            with pytest.raises(zart.ExecutionFailedError, match=f"'{name}' is kept for") as failed:
                await handle.result(timeout="10s")
            assert failed.value.error_type == "zart.errors.InvalidIdError"
            steps = [step.name for step in await scheduler.timeline(handle.id)]
            assert steps == ["on_failure", "on_failure/on_failure", "on_failure/undo"]

    async def test_an_unknown_task(self, backend: Backend) -> None:
        """With a registry, a name that it does not have is an error that lists those it has."""
        registry = zart.TaskRegistry([order, no_input])
        async with open_scheduler(backend, registry=registry) as scheduler:
            before = await all_rows(scheduler)
            with pytest.raises(zart.UnknownTaskError, match="it has: no-input, order"):
                await scheduler.schedule("ordr", Order("a", 1))
            with pytest.raises(zart.UnknownTaskError, match="'ordr'"):
                await scheduler.schedule_many("ordr", [Order("a", 1)])
            assert await all_rows(scheduler) == before
            assert (await scheduler.schedule("order", Order("a", 1))).created

    async def test_a_payload_by_name_is_checked_too(self, backend: Backend) -> None:
        """With a registry, a task's name stands for its types."""
        async with open_scheduler(backend, registry=zart.TaskRegistry([order])) as scheduler:
            before = await all_rows(scheduler)
            with pytest.raises(zart.PayloadError, match="total"):
                await scheduler.schedule("order", {"id": "a", "total": "much"})
            assert await all_rows(scheduler) == before

    @pytest.mark.parametrize("case", UNFIT)
    async def test_a_payload_that_does_not_fit(self, backend: Backend, case: str) -> None:
        """It is a PayloadError that says what was expected and where."""
        call, mend = UNFIT[case]
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule("order", None, id="live")
            before = await all_rows(scheduler)
            with pytest.raises(zart.PayloadError) as refused:
                await call(scheduler, None)
            assert type(refused.value) is zart.PayloadError
            assert mend in str(refused.value)
            assert await all_rows(scheduler) == before

    async def test_a_payload_that_is_too_large(self, backend: Backend) -> None:
        """The limit counts bytes of JSON; the error says how many there are and what to do."""
        async with open_scheduler(backend, max_payload=1000) as scheduler:
            await scheduler.schedule("order", None, id="live")
            before = await all_rows(scheduler)
            # 1,000 bytes with its quotes fit; one more does not, nor do 999 letters of two bytes.
            too_large: dict[str, Call] = {
                "input": lambda s, text: s.schedule("x", text),
                "one of many": lambda s, text: s.schedule_many("x", ["small", text]),
                "event": lambda s, text: s.offer_event("live", "event", text),
            }
            for call in too_large.values():
                for text in ("x" * 999, "é" * 500):
                    with pytest.raises(zart.PayloadTooLargeError, match="pass a reference"):
                        await call(scheduler, text)
            assert await all_rows(scheduler) == before
            for text in ("x" * 998, "é" * 499):
                await scheduler.schedule("x", text)

    async def test_the_limit_is_a_mebibyte_unless_said_otherwise(self, backend: Backend) -> None:
        """A payload of exactly 1 MiB is stored and read back; a byte more is refused."""
        text = "x" * (1024 * 1024 - 2)
        async with open_scheduler(backend) as scheduler:
            with pytest.raises(zart.PayloadTooLargeError, match="1,048,577 bytes"):
                await scheduler.schedule("large", text + "x")
            handle = await scheduler.schedule("large", text)
            assert (await handle.get()).input == f'"{text}"'

    @pytest.mark.parametrize("case", ODD)
    async def test_odd_arguments(self, backend: Backend, case: str) -> None:
        """They are refused with Python's own kind of error, the same on every database."""
        call, error, mend = ODD[case]
        async with open_scheduler(backend) as scheduler:
            before = await all_rows(scheduler)
            with pytest.raises(error, match=mend):
                await call(scheduler, None)
            assert await all_rows(scheduler) == before

    async def test_an_unknown_execution(self, backend: Backend) -> None:
        """Every call on an id that was never scheduled is an ExecutionNotFoundError."""
        async with open_scheduler(backend) as scheduler:
            before = await all_rows(scheduler)
            for name, call in UNKNOWN.items():
                with pytest.raises(zart.ExecutionNotFoundError, match="check the id") as refused:
                    await call(scheduler, "nobody")
                assert "'nobody'" in str(refused.value), name
            assert await all_rows(scheduler) == before

    @pytest.mark.parametrize("run", [0, -1, 3, 99])
    async def test_a_run_that_never_was(self, backend: Backend, run: int) -> None:
        """Its timeline and attempts are an error that says which runs there are."""
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule("order", None)
            assert await scheduler.restart(handle.id) == 2
            for look in (scheduler.timeline, scheduler.attempts):
                assert await look(handle.id, run=1) == await look(handle.id, run=2) == []
                with pytest.raises(zart.ExecutionNotFoundError, match=f"no run {run}: .* 2 is"):
                    await look(handle.id, run=run)

    @pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
    async def test_a_finished_execution(self, backend: Backend, end: str) -> None:
        """It takes no event and no cancel; the error says that `restart` begins a new run."""

        @zart.durable("ends")
        async def ends() -> None:
            if end == "failed":
                raise ValueError("on purpose")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(ends)
            if end == "cancelled":
                await handle.cancel()
            else:
                async with working(scheduler, ends):
                    assert (await scheduler.wait(handle.id, timeout="10s")).status == end
            before = await all_rows(scheduler)
            with pytest.raises(zart.ExecutionFinishedError, match="restart"):
                await handle.offer_event("late", 1)
            if end != "cancelled":  # cancelling twice is no error
                with pytest.raises(zart.ExecutionFinishedError, match="restart"):
                    await handle.cancel()
            assert await all_rows(scheduler) == before

    async def test_one_bad_event_spoils_no_other(self, backend: Backend) -> None:
        """Of events that are written together, those that can be delivered are."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule("x", 1, id="live")
            ended = await scheduler.schedule("x", 1)
            await ended.cancel()
            answers = await asyncio.gather(
                scheduler.offer_event("live", "e", 1),
                scheduler.offer_event("nobody", "e", 2),
                scheduler.offer_event(ended.id, "e", 3),
                scheduler.offer_event("live", "e", 4),
                return_exceptions=True,
            )
            assert [type(a) for a in answers] == [
                type(None),
                zart.ExecutionNotFoundError,
                zart.ExecutionFinishedError,
                type(None),
            ]
            assert len((await all_rows(scheduler))["events"]) == 2

    async def test_every_kind_has_a_class_of_its_own(self) -> None:
        """A caller can tell them apart, and catch them all at once."""
        kinds = {
            zart.UnknownTaskError,
            zart.InvalidIdError,
            zart.PayloadError,
            zart.PayloadTooLargeError,
            zart.ExecutionNotFoundError,
            zart.ExecutionExistsError,
            zart.ExecutionFinishedError,
        }
        assert len(kinds) == 7
        assert all(issubclass(kind, zart.SchedulerError) for kind in kinds)


def _named_calls(context: Any, bad: Any) -> list[Callable[[], Any]]:
    """Every call of a workflow that takes a name, with a bad one."""
    child = Order("a", 1)
    return [
        lambda: context.step(bad, lambda: 1),
        lambda: context.capture(bad, lambda: 1),
        lambda: context.sleep(bad, "1s"),
        lambda: context.wait_for_event(bad),
        lambda: context.wait_for_event("event", name=bad),
        lambda: context.transaction(bad, _any),
        lambda: context.patched(bad),
        lambda: context.loop(bad, [1]),
        lambda: context.schedule_step(bad, lambda: 1),
        lambda: context.start_child(order, child, id=bad),
        lambda: context.start_child(order, child, queue=bad),
    ]


def _any(value: Any) -> Any:
    return value


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value
