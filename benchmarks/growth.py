"""What a claim, an idle look and throughput lose to millions of rows that are not their business.

``python -m benchmarks.growth URL KIND=AMOUNT,... SAMPLES EXECUTIONS`` fills the database with so
many executions of each kind (sleeping, expecting, finished, unknown: see `benchmarks.filling`) and
prints one line of JSON. Each measurement alternates between the full tables and an empty set of
them on the same server; first with statistics as they are after the filling, then after ANALYZE.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import zart
from benchmarks.filling import analyze, fill
from benchmarks.loops import run
from benchmarks.probes import EMPTY, FULL, Probes
from benchmarks.sql import line


async def measure(
    url: str, amounts: dict[str, int], samples: int, executions: int
) -> dict[str, Any]:
    async with (
        zart.connect(url, prefix=FULL) as full,
        zart.connect(url, prefix=EMPTY) as empty,
        line(url) as on,
    ):
        for scheduler in (full, empty):
            await scheduler.migrate()
        probes = Probes({"empty": empty, "full": full}, samples, executions)
        await probes.all()  # plans are made and kept while the tables are empty
        begun = time.perf_counter()
        for kind, amount in amounts.items():
            await fill(full, on, kind, amount, prefix=FULL, told=lambda n, k=kind: _tell(k, n))
        filled = time.perf_counter() - begun
        as_it_is = await probes.all()
        await analyze(on, FULL)
        return {
            "filled_seconds": filled,
            "as_it_is": as_it_is,
            "analyzed": await probes.all(),
        }


def _tell(kind: str, amount: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{kind}: {amount:,} executions", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    url, wanted, samples, executions = sys.argv[1:5]
    amounts = {kind: int(n) for kind, n in (each.split("=") for each in wanted.split(","))}
    print(json.dumps(run(measure(url, amounts, int(samples), int(executions)))))
