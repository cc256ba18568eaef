"""zart as a user's type checker sees it: never run, checked by mypy --strict and pyright strict.

A line that must be an error carries an ignore for both checkers, one of which is reported as
unused when the error is missing: pyright checks this file with
``reportUnnecessaryTypeIgnoreComment``, mypy with ``warn_unused_ignores``.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, assert_type
from uuid import UUID

import zart


@dataclass
class Order:
    id: str
    card: str
    total: int


@dataclass
class Shipped:
    tracking_number: str


class CardDeclined(Exception):
    pass


# -- steps ------------------------------------------------------------------------------------


@zart.step
async def charge(card: str, total: int) -> str:
    return f"{card}-{total}"


@zart.step(retry=zart.RetryConfig.exponential(3, "2s"), timeout="30s", raises=(CardDeclined,))
async def charge_with_rules(card: str, total: int = 0) -> str:
    return f"{card}-{total}"


@zart.step
def weigh(order: Order) -> float:
    return float(order.total)


@zart.step(name="weigh-again", idempotent=True, raises=CardDeclined)
def weigh_with_rules(order: Order, *, precise: bool = False) -> float:
    return float(order.total) if precise else 0.0


async def steps() -> None:
    assert_type(await charge("visa", 1), str)
    assert_type(await charge(card="visa", total=1), str)
    assert_type(await charge_with_rules("visa"), str)
    assert_type(await weigh(Order("o-1", "visa", 1)), float)
    assert_type(await weigh_with_rules(Order("o-1", "visa", 1), precise=True), float)
    await assert_type(charge("visa", 1), Coroutine[object, None, str])

    await charge("visa")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge("visa", "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge_with_rules(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await weigh("o-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    zart.step(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def named_steps() -> None:
    assert_type(await charge.named("charge-eu")("visa", 1), str)
    assert_type(await weigh.named("weigh-eu")(Order("o-1", "visa", 1)), float)
    await charge.named("eu")(1, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def concurrent_steps() -> None:
    both = await asyncio.gather(charge("visa", 1), charge("amex", 2))
    assert_type(both, tuple[str, str])
    charge_id, weight = await asyncio.gather(charge("visa", 1), weigh(Order("o-1", "visa", 1)))
    assert_type(charge_id, str)
    assert_type(weight, float)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(charge("visa", 1))
    assert_type(task.result(), str)


# -- workflows --------------------------------------------------------------------------------


@zart.durable
async def bare(order: Order) -> int:
    return order.total


@zart.durable("checkout", timeout="2d", max_retries=3)
async def checkout(order: Order) -> str:
    charge_id = await charge(order.card, order.total)
    assert_type(charge_id, str)
    await zart.sleep("1h")
    await zart.sleep("cool-off", 3.5)
    shipped = await zart.wait_for_event("shipped", type=Shipped, timeout="24h")
    assert_type(shipped, Shipped)
    return shipped.tracking_number


@zart.durable(timeout="1h")
async def nightly() -> int:
    assert_type(await zart.now(), datetime)
    assert_type(zart.uuid(), UUID)
    assert_type(zart.random(), float)
    assert_type(await zart.patched("second-receipt"), bool)
    assert_type(await zart.capture("limit", lambda: 3), int)
    assert_type(await zart.wait_for_event("go"), Any)
    assert_type(await zart.wait_for_event("names", type=list[str]), list[str])
    return 0


assert_type(bare, zart.Durable[Order, int])
assert_type(checkout, zart.Durable[Order, str])
assert_type(nightly, zart.Durable[None, int])


@checkout.on_failure
async def refund(order: Order, failure: zart.Failure) -> None:
    assert_type(failure.message, str)


async def called_directly() -> None:
    assert_type(await checkout(Order("o-1", "visa", 1)), str)
    assert_type(await nightly(), int)
    await checkout("o-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@zart.durable  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def not_async(order: Order) -> str:
    return order.id


# -- handlers ---------------------------------------------------------------------------------


async def charge_card(card: str, total: int) -> str:
    return f"{card}-{total}"


def notify(who: str) -> None:
    print(who)  # noqa: T201 - a step's effect


async def debit(connection: Any, account: str, amount: int) -> int:
    return len(account) - amount


class Checkout(zart.TaskHandler[Order, str]):
    name = "checkout"
    max_retries = 3
    timeout = "2d"
    retry = zart.RetryConfig.fixed(2, "1s")

    async def run(self, ctx: zart.TaskContext, data: Order) -> str:
        charge_id = await ctx.step(
            "charge", charge_card, data.card, data.total, retry=zart.RetryConfig.none()
        )
        assert_type(charge_id, str)
        assert_type(await ctx.step("plain", notify, "buyer"), None)
        assert_type(await ctx.step("lambda", lambda: charge_card(data.card, 1)), str)
        assert_type(await ctx.step("plain-lambda", lambda: 42), int)
        assert_type(await ctx.step("decorated", charge, data.card, data.total), str)
        assert_type(await ctx.step("decorated-plain", weigh, data), float)
        await ctx.step("few", charge_card, "visa")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
        await ctx.step("bad", charge_card, 1, 1)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]

        handles = [ctx.schedule_step(f"notify-{who}", notify, who) for who in ("buyer", "stock")]
        assert_type(handles, list[zart.StepHandle[None]])
        assert_type(await ctx.wait_all(handles), list[None])
        await ctx.sleep("cool-off", "1h")
        await ctx.sleep_until(datetime.now().astimezone())
        return charge_id

    async def on_failure(self, ctx: zart.TaskContext, failure: zart.Failure) -> None:
        await ctx.step("refund", notify, failure.message)


class Untyped(zart.TaskHandler[Any, Any]):
    async def run(self, ctx: zart.TaskContext, data: Any) -> Any:
        return data


# -- parallel steps, children, transactions -----------------------------------------------------


async def parallel(ctx: zart.TaskContext) -> None:
    one = charge.schedule("visa", 1)
    assert_type(one, zart.StepHandle[str])
    assert_type(await one, str)
    other = ctx.schedule_step("weigh-1", weigh, Order("o-1", "visa", 1))
    assert_type(other, zart.StepHandle[float])
    free = zart.schedule_step("charge-1", charge_card, "visa", 1, timeout="5s")
    assert_type(free, zart.StepHandle[str])
    assert_type(await zart.wait_all([one, free]), list[str])
    mixed = await zart.wait_all([one, free], return_exceptions=True)
    assert_type(mixed, list[str | BaseException])
    charge.schedule("visa")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def children(ctx: zart.TaskContext) -> None:
    child = zart.start_child(checkout, Order("o-1", "visa", 1), id="child-1")
    assert_type(child, zart.ChildHandle[str])
    assert_type(await child, str)
    assert_type(child.id, str)
    assert_type(await ctx.start_child(Checkout, Order("o-1", "visa", 1)), str)
    assert_type(await ctx.start_child(nightly), int)
    assert_type(ctx.start_child("by-name", {"any": 1}), zart.ChildHandle[Any])
    ctx.start_child(checkout, "o-1")  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def transactions(ctx: zart.TaskContext) -> None:
    assert_type(await ctx.transaction("debit", debit, "a-1", 42), int)
    assert_type(await zart.transaction("debit", debit, "a-1", 42), int)
    await ctx.transaction("bad", debit, 1, 42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- loops ------------------------------------------------------------------------------------


@dataclass
class Progress:
    done: int = 0


async def loops(ctx: zart.TaskContext) -> None:
    async for page in zart.durable_loop("pages", range(3)):
        assert_type(page, int)
    async for number in zart.durable_loop("for-ever"):
        assert_type(number, int)
    loop = zart.durable_loop("orders", [Order("o-1", "visa", 1)], state=Progress())
    assert_type(loop, zart.DurableLoop[Order, Progress])
    async for order in loop:
        assert_type(order, Order)
        assert_type(loop.state, Progress)
        assert_type(loop.index, int)
    counted = ctx.loop("counted", state=0)
    assert_type(counted, zart.DurableLoop[int, int])
    counted.state = "one"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


# -- schedulers -------------------------------------------------------------------------------


async def scheduling(scheduler: zart.DurableScheduler) -> None:
    order = Order("o-1", "visa", 1)
    handle = await scheduler.schedule(checkout, order, id="order-1", priority=1, delay="1m")
    assert_type(handle, zart.Handle[str])
    assert_type(await handle.result(timeout="1m"), str)
    assert_type(await handle.get(), zart.Execution)

    assert_type(await scheduler.schedule(Checkout, order), zart.Handle[str])
    assert_type(await scheduler.schedule(Checkout(), order), zart.Handle[str])
    assert_type(await scheduler.schedule(Untyped(), 3), zart.Handle[Any])
    assert_type(await scheduler.schedule(bare, order), zart.Handle[int])
    assert_type(await scheduler.schedule(nightly), zart.Handle[int])
    assert_type(await scheduler.schedule("checkout", {"anything": order}), zart.Handle[Any])
    assert_type(await scheduler.schedule("nightly"), zart.Handle[Any])

    many = await scheduler.schedule_many(checkout, [order, order], ids=["a", "b"])
    assert_type(many, list[zart.Handle[str]])
    assert_type(scheduler.handle("order-1", checkout), zart.Handle[str])
    assert_type(scheduler.handle("order-1", Checkout), zart.Handle[str])
    assert_type(scheduler.handle("order-1"), zart.Handle[Any])
    assert_type(await scheduler.list(status=zart.Status.FAILED), list[zart.Execution])
    await scheduler.offer_event("order-1", "shipped", Shipped("TN-7"))

    await scheduler.schedule(checkout, "o-1")  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await scheduler.schedule(checkout)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await scheduler.schedule(Checkout, "o-1")  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await scheduler.schedule_many(checkout, ["o-1"])  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await scheduler.schedule(charge_card, "visa")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def looking(scheduler: zart.DurableScheduler) -> None:
    assert_type(await scheduler.timeline("order-1"), Sequence[zart.StepRecord])
    assert_type(await scheduler.workers(), Sequence[zart.WorkerRecord])
    assert_type(await scheduler.attempts("o-1", run=1), Sequence[zart.Attempt])
    findings = await scheduler.doctor()
    assert_type(findings, Sequence[zart.Finding])
    assert_type(findings[0].level, zart.FindingLevel)


D = TypeVar("D")
O = TypeVar("O")  # noqa: E741


async def finished(
    scheduler: zart.DurableScheduler, task: zart.TaskDefinition[D, O], data: D, limit: zart.Duration
) -> O:
    """What an application may write around `schedule`."""
    return await (await scheduler.schedule(task, data)).result(limit)


async def finishing(scheduler: zart.DurableScheduler) -> None:
    order = Order("o-1", "visa", 1)
    assert_type(await finished(scheduler, checkout, order, "1m"), str)
    assert_type(await finished(scheduler, Checkout(), order, 60), str)
    await finished(scheduler, checkout, "o-1", "1m")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


def shop(prefix: str) -> zart.Connecting:
    return zart.connect("sqlite:///shop.db", prefix=prefix)


async def connecting() -> None:
    assert_type(await shop("shop_"), zart.DurableScheduler)
    async with zart.connect("sqlite:///shop.db") as scheduler:
        assert_type(scheduler, zart.DurableScheduler)
        async with zart.Worker(scheduler, [checkout, Checkout, charge]) as worker:
            assert_type(worker, zart.Worker)
    assert_type(await zart.connect("sqlite:///shop.db"), zart.DurableScheduler)
    assert_type(await zart.SqliteScheduler.connect("shop.db"), zart.SqliteScheduler)
    registry = zart.TaskRegistry([checkout])
    registry.register("checkout-2", Checkout())
    registry.register(Checkout)
    await zart.Worker(await zart.connect("x"), registry, zart.WorkerConfig(concurrency=1)).run()
