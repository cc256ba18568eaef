"""The worker as users make it: from a scheduler and what it shall run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zart.execution.executor import HandlerExecutor
from zart.execution.registry import TaskRegistry
from zart.scheduler import worker as polling
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler

__all__ = ["Worker"]


class Worker(polling.Worker):
    """Claims executions and runs their handlers, until it is stopped.

    ``tasks`` is a `TaskRegistry`, or a list of what one takes: durable functions, handlers, and
    steps that this worker may run for others; it claims nothing else. Beside other code it is an
    async context manager; `run` is for a process of its own. Raises `DefinitionError` for two
    handlers under one name.

    ::

        async with zart.Worker(scheduler, [checkout]):
            print(await handle.result())
        await zart.Worker(scheduler, registry, zart.WorkerConfig(concurrency=20)).run()
    """

    def __init__(
        self,
        scheduler: DurableScheduler,
        tasks: TaskRegistry | Iterable[Any],
        config: WorkerConfig | None = None,
    ) -> None:
        self.registry = tasks if isinstance(tasks, TaskRegistry) else TaskRegistry(tasks)
        super().__init__(scheduler, HandlerExecutor(self.registry), config)
