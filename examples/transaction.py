"""Exactly once in your own table: its change and the step's outcome are one commit.

Here on SQLite, where the connection is an apsw.Connection; on PostgreSQL it is asyncpg's, on
MySQL asyncmy's.

Run it: python examples/transaction.py sqlite:///bank.db
"""

import asyncio
import sys
from dataclasses import dataclass

import apsw

import zart


@dataclass
class Transfer:
    source: str
    target: str
    amount: int


async def book(connection: apsw.Connection, account: str, amount: int) -> int:
    rows = connection.execute(
        "UPDATE accounts SET balance = balance + ? WHERE name = ? RETURNING balance",
        (amount, account),
    )
    return int(str(rows.fetchall()[0][0]))


@zart.durable
async def transfer(order: Transfer) -> int:
    await zart.transaction("take", book, order.source, -order.amount)
    return await zart.transaction("give", book, order.target, order.amount)


async def main(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    accounts = apsw.Connection(path)
    accounts.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER)")
    accounts.execute("INSERT OR IGNORE INTO accounts VALUES ('Ada', 100), ('Bob', 0)")
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [transfer]):
            # The same id again schedules nothing: the money moves once.
            for _ in range(2):
                handle = await scheduler.schedule(transfer, Transfer("Ada", "Bob", 30), id="t-1")
                print("Bob has", await handle.result(timeout="1m"))
    for name, balance in accounts.execute("SELECT name, balance FROM accounts ORDER BY name"):
        print(name, balance)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///bank.db"))
