"""A checkout, by decorators: steps that are recorded, and a wait for an event from outside.

Run it: python examples/checkout.py sqlite:///shop.db
"""

import asyncio
import sys
from dataclasses import dataclass

import zart


@dataclass
class Order:
    id: str
    card: str
    total: int


@dataclass
class Shipped:
    tracking_number: str


@zart.step(retry=zart.RetryConfig.exponential(3, "2s"), timeout="30s")
async def charge(card: str, total: int) -> str:
    print(f"charging {total} to {card}")
    return f"charge-{card}-{total}"


@zart.step
def send_receipt(order_id: str, charge_id: str) -> None:  # plain def: runs in a thread
    print(f"receipt for {order_id}: {charge_id}")


@zart.durable("checkout", timeout="2d", max_retries=3)
async def checkout(order: Order) -> str:
    charge_id = await charge(order.card, order.total)
    await send_receipt(order.id, charge_id)
    shipped = await zart.wait_for_event("shipped", type=Shipped, timeout="24h")
    return shipped.tracking_number


async def main(url: str) -> None:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        handle = await scheduler.schedule(checkout, Order("o-1", "visa", 42))
        async with zart.Worker(scheduler, [checkout]):
            # It may come before the workflow waits for it: it lies in the mailbox until then.
            await handle.offer_event("shipped", Shipped("TN-7"))
            print("tracking number:", await handle.result(timeout="1m"))
        for step in await scheduler.timeline(handle.id):
            print(f"{step.position}. {step.name}: {step.outcome}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///shop.db"))
