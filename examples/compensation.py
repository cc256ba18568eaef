"""A handler as a class, a business error, and ``on_failure``, which gives back what was taken.

Run it: python examples/compensation.py sqlite:///trips.db
"""

import asyncio
import sys
from dataclasses import dataclass

import zart


@dataclass
class Trip:
    traveller: str
    city: str


class SoldOut(Exception):
    """A business error: trying again will not help."""


async def book_flight(city: str) -> str:
    print(f"flight to {city} booked")
    return f"flight-{city}"


async def book_hotel(city: str) -> str:
    print(f"no room left in {city}")
    raise SoldOut(city)


async def cancel_flight(city: str) -> None:
    print(f"flight to {city} given back")


class BookTrip(zart.TaskHandler[Trip, str]):
    name = "book-trip"

    async def run(self, ctx: zart.TaskContext, data: Trip) -> str:
        flight = await ctx.step("flight", book_flight, data.city)
        hotel = await ctx.step(
            "hotel",
            book_hotel,
            data.city,
            retry=zart.RetryConfig.fixed(5, "1s"),
            raises=(SoldOut,),  # recorded and raised here as SoldOut, without the five retries
        )
        return f"{flight}, {hotel}"

    async def on_failure(self, ctx: zart.TaskContext, failure: zart.Failure) -> None:
        # These steps are durable too: a crash in here does not give the flight back twice.
        await ctx.step("cancel flight", cancel_flight, ctx.data.city)


async def main(url: str) -> None:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        handle = await scheduler.schedule(BookTrip, Trip("Ada", "Oslo"))
        async with zart.Worker(scheduler, [BookTrip]):
            try:
                await handle.result(timeout="1m")
            except zart.ExecutionFailedError as error:
                print("failed:", error.error_type.rpartition(".")[2], error.message)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///trips.db"))
