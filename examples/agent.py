"""An agent's loop: each turn is recorded together with the state, finished ones are compacted.

The model here is a function; in earnest its step would call one. A crash in turn 50 goes on in
turn 50, without paying for the first 49 again.

Run it: python examples/agent.py sqlite:///agent.db
"""

import asyncio
import sys
from dataclasses import dataclass, field

import zart


@dataclass
class Talk:
    question: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Move:
    tool: str
    argument: str


@zart.step(retry=zart.RetryConfig.exponential(5, "1s"), timeout="2m")
async def ask_model(question: str, notes: list[str]) -> Move:
    if len(notes) < 3:
        return Move("search", f"{question} ({len(notes) + 1})")
    return Move("answer", f"{len(notes)} notes on {question}")


@zart.step(retry=zart.RetryConfig.fixed(2, "1s"))
def search(words: str) -> str:
    return f"what is known of {words}"


@zart.durable
async def research(question: str) -> str:
    turns = zart.durable_loop("turns", range(100), state=Talk(question))
    async for _ in turns:
        move = await ask_model(question, turns.state.notes)
        if move.tool == "answer":
            return move.argument
        turns.state.notes.append(await search(move.argument))
    return "no answer in 100 turns"


async def main(url: str) -> None:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [research]):
            handle = await scheduler.schedule(research, "durable execution")
            print(await handle.result(timeout="1m"))
        for step in await scheduler.timeline(handle.id):
            print(step.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///agent.db"))
