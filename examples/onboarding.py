"""Onboarding mails over days: sleeps that cost a row, an event, and a time-out of it.

The days are half a second long here. A sleeping execution holds no task, thread or connection.

Run it: python examples/onboarding.py sqlite:///users.db
"""

import asyncio
import sys
from dataclasses import dataclass

import zart

DAY = "500ms"


@dataclass
class User:
    name: str


@dataclass
class Confirmed:
    by: str


@zart.step
async def mail(user: str, subject: str) -> None:
    print(f"to {user}: {subject}")


@zart.durable
async def onboarding(user: User) -> str:
    await mail(user.name, "please confirm your address")
    try:
        await zart.wait_for_event("confirmed", type=Confirmed, timeout=DAY)
    except zart.EventTimedOutError:
        await mail(user.name, "you have not confirmed yet, so this ends here")
        return "lost"
    await mail(user.name, "welcome")
    await zart.sleep(DAY)
    await mail(user.name, "five things to try")
    return "onboarded"


async def main(url: str) -> None:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        ada = await scheduler.schedule(onboarding, User("Ada"))
        bob = await scheduler.schedule(onboarding, User("Bob"))
        async with zart.Worker(scheduler, [onboarding]):
            await ada.offer_event("confirmed", Confirmed("link"))
            print("Ada:", await ada.result(timeout="1m"))
            print("Bob:", await bob.result(timeout="1m"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///users.db"))
