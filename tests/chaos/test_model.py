"""A state model: random operations and faults, against a plain model of the guarantees.

Each run of the machine schedules random workflows (`model_programs`), runs them on workers that
are stopped, crashed, frozen and cut off at random, and offers, cancels, restarts and lets time pass
meanwhile. After every step the tables and the ledger of what really ran are compared with the
model; in the end every fault is healed, and all that can end must end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

import zart
from tests.chaos.conftest import Budget
from tests.chaos.model import Case
from tests.chaos.model_hosts import Faults, Host, cut_connections
from tests.chaos.model_programs import EVENTS, Program, programs, tasks
from tests.chaos.model_world import HOSTS, World
from tests.databases import Database
from zart.scheduler import strays
from zart.scheduler import worker as worker_module

which = st.integers(0, 5)
hosts = st.integers(0, HOSTS - 1)
faults = st.lists(st.sampled_from([-1, -1, 0, 1, 2, 3, 4]), min_size=1, max_size=3)


class Machine(RuleBasedStateMachine):
    """The rules: everything that may happen to executions, workers and connections."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.trace: list[str] = []
        self.numbers = 0
        self._do("begin", self.world.begin)

    # -- how a rule is done -------------------------------------------------------------------

    def _do(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Do one thing and compare; nothing is done any more when time is up."""
        if self.world.over:
            return
        self.trace.append(what)
        self.world.model.ledger.line(f"---- {what}")
        try:
            self.world.run(self._and_look(work))
        except BaseException as error:
            self.broken = self.world.failed = True
            error.add_note(self._story())
            raise

    async def _and_look(self, work: Callable[[], Awaitable[Any]]) -> None:
        await work()
        await self.world.look()

    def _story(self) -> str:
        ledger = self.world.model.ledger
        cases = [f"{each.id} {each.task} {each.program}" for each in self.world.model.cases]
        return "\n".join(["The steps:", *self.trace, "The executions:", *cases, "The ledger:",
                          *list(ledger.lines)[-400:]])  # fmt: skip

    def teardown(self) -> None:
        try:
            if not self.broken:
                self._drain()
        finally:
            self.world.run(self.world.sweep())

    def _drain(self) -> None:
        if self.world.model.cases or any(host.worker for host in self.world.hosts):
            self._do("drain", self.world.drain)

    def _case(self, number: int) -> Case | None:
        cases = self.world.model.cases
        return cases[number % len(cases)] if cases else None

    def _new(self, task: str, program: Program) -> Case:
        self.numbers += 1
        return Case(f"e{self.world.examples}-{self.numbers}", task, program)

    def _host(self, number: int) -> Host:
        return self.world.hosts[number]

    def _to(self, what: str, number: int, work: Callable[[Case], Awaitable[Any]]) -> None:
        """Do something to one of the executions that were scheduled."""
        if case := self._case(number):
            self._do(f"{what} {case.id}", lambda: work(case))

    # -- scheduling ---------------------------------------------------------------------------

    @initialize(task=tasks, program=programs, amount=st.integers(1, HOSTS))
    def begin_with(self, task: str, program: Program, amount: int) -> None:
        for number in range(amount):
            self.start_worker(number)
        self.schedule(task, program, None)

    @rule(task=tasks, program=programs, delay=st.sampled_from([None, None, None, "20ms", "3h"]))
    def schedule(self, task: str, program: Program, delay: str | None) -> None:
        async def work() -> None:
            calm = self.world.faults.calm
            handle = await self.world.client.schedule(task, program, id=case.id, delay=delay)
            assert handle.created or not calm
            self.world.model.cases.append(case)

        case = self._new(task, program)
        self._do(f"schedule {case.id} {task} {program} {delay}", work)

    @rule(task=tasks, items=st.lists(programs, min_size=1, max_size=3), number=which)
    def schedule_many(self, task: str, items: list[Program], number: int) -> None:
        """New ones, and one that is there already: that one is not scheduled again."""
        new = [self._new(task, program) for program in items]
        old = self._case(number)

        async def work() -> None:
            calm = self.world.faults.calm
            all_of_them = [*new, *([old] if old and old.task == task else [])]
            handles = await self.world.client.schedule_many(
                task, [each.program for each in all_of_them], ids=[each.id for each in all_of_them]
            )
            created = [handle.created for handle in handles]
            expected = [True] * len(new) + [False] * (len(all_of_them) - len(new))
            assert created == expected or not calm
            self.world.model.cases.extend(new)

        self._do(f"schedule many {[(case.id, case.program) for case in new]}", work)

    @rule(number=which)
    def schedule_again(self, number: int) -> None:
        async def work(case: Case) -> None:
            handle = await self.world.client.schedule(case.task, case.program, id=case.id)
            assert not handle.created

        self._to("schedule again", number, work)

    @rule(number=which, program=programs, other_task=st.booleans())
    def schedule_something_else(self, number: int, program: Program, other_task: bool) -> None:
        """Another task or other input under an id is refused, and takes its company with it."""

        async def work(case: Case) -> None:
            with pytest.raises(zart.ExecutionExistsError):
                if other_task:
                    await self.world.client.schedule("other", case.program, id=case.id)
                else:
                    await self.world.client.schedule_many(
                        case.task,
                        [program, [*case.program, {"op": "draw"}]],
                        ids=[f"{case.id}-not", case.id],
                    )

        self._to("schedule something else", number, work)

    @rule(task=tasks, program=programs)
    def schedule_at_once(self, task: str, program: Program) -> None:
        """Two that schedule one id at once: one of them did, both have it."""

        async def work() -> None:
            calm = self.world.faults.calm
            schedulers = [self.world.client, self.world.client, self._host(0).scheduler]
            if self._host(0).frozen or not self._host(0).faults.calm:
                schedulers.pop()
            handles = await asyncio.gather(
                *(each.schedule(task, program, id=case.id) for each in schedulers)
            )
            created = sum(handle.created for handle in handles)
            assert created == 1 or (created == 0 and not calm)
            self.world.model.cases.append(case)

        case = self._new(task, program)
        self._do(f"schedule at once {case.id} {task} {program}", work)

    @rule(task=tasks, program=programs, commits=st.booleans())
    def schedule_within(self, task: str, program: Program, commits: bool) -> None:
        case = self._new(task, program)
        work = self.world.schedule_within
        self._do(f"schedule within {case.id} {commits}", lambda: work(case, commits=commits))

    # -- from outside -------------------------------------------------------------------------

    @rule(number=which, event=st.sampled_from(EVENTS), amount=st.integers(1, 3))
    def offer(self, number: int, event: str, amount: int) -> None:
        self._to(f"offer {event}", number, lambda case: self.world.offer(case.id, event, amount))

    @rule(number=which)
    def cancel(self, number: int) -> None:
        self._to("cancel", number, lambda case: self._cancel(case.id))

    async def _cancel(self, execution: str) -> None:
        # Acknowledged or not, from here on it may have been cancelled.
        model, run = self.world.model, self.world.model.runs[execution]
        try:
            await self.world.client.cancel(execution)
        except zart.ExecutionFinishedError:
            await self.world.must_have_ended(execution)
            assert (execution, run) not in model.cancelled
        else:
            model.cancel(execution)

    @rule(number=which)
    def cancel_and_offer(self, number: int) -> None:
        async def work(case: Case) -> None:
            await asyncio.gather(self._cancel(case.id), self.world.offer(case.id, "a"))

        self._to("cancel and offer", number, work)

    @rule(number=which, again=st.booleans())
    def meddle_with_a_child(self, number: int, again: bool) -> None:
        async def work() -> None:
            children = sorted(self.world.model.ledger.children)
            known = (await self.world.oracle.look()).executions
            children = [each for each in children if each in known]
            if children:
                child = children[number % len(children)]
                await (self._restart(child) if again else self._cancel(child))

        self._do(f"{'restart' if again else 'cancel'} a child", work)

    @rule(number=which)
    def restart(self, number: int) -> None:
        self._to("restart", number, lambda case: self._restart(case.id))

    async def _restart(self, execution: str) -> None:
        run = await self.world.client.restart(execution)
        self.world.model.restart(execution, run)

    @rule(number=which, milliseconds=st.integers(1, 60))
    def wait(self, number: int, milliseconds: int) -> None:
        async def work(case: Case) -> None:
            try:
                found = await self.world.client.wait(case.id, timeout=f"{milliseconds}ms")
            except zart.WaitTimedOutError:
                return
            assert found.status.finished

        self._to(f"wait {milliseconds} ms", number, work)

    @rule()
    def ask_for_the_unknown(self) -> None:
        async def work() -> None:
            client = self.world.client
            for call in (client.offer_event("nobody", "a"), client.cancel("nobody"),
                         client.restart("nobody"), client.result("nobody")):  # fmt: skip
                with pytest.raises(zart.ExecutionNotFoundError):
                    await call

        self._do("ask for the unknown", work)

    # -- workers ------------------------------------------------------------------------------

    @rule(number=hosts)
    def start_worker(self, number: int) -> None:
        if self._host(number).worker is None:
            ledger = self.world.model.ledger
            self._do(f"start {number}", lambda: self._host(number).start(ledger))

    @rule(number=hosts)
    def stop_worker(self, number: int) -> None:
        self._do(f"stop {number}", self._host(number).stop)

    @rule(number=hosts, losing=st.sampled_from(["", "writes", "answers"]), after=st.integers(0, 30))
    def crash_worker(self, number: int, losing: str, after: int) -> None:
        """Die: at once, or after a while in which nothing is written, or no answer comes."""

        async def work() -> None:
            host = self._host(number)
            if host.worker is None:
                return
            self.world.model.deaths += 1
            host.worker.health.sound = False
            if losing == "writes":
                host.worker.lose_writes()
            elif losing == "answers":
                host.worker.lose_answers()
            await asyncio.sleep(after / 1000)
            await host.crash()

        self._do(f"crash {number} {losing} {after}", work)

    @rule(number=hosts)
    def freeze_worker(self, number: int) -> None:
        self._do(f"freeze {number}", lambda: self.world.freeze(self._host(number)))

    @rule(number=hosts)
    def thaw_worker(self, number: int) -> None:
        async def work() -> None:
            self._host(number).thaw()

        self._do(f"thaw {number}", work)

    @rule(
        number=hosts,
        task=tasks,
        program=programs,
        before=st.integers(0, 40),
        during=st.sampled_from([1, 10, 40, 80]),
    )
    def overtake(self, number: int, task: str, program: Program, before: int, during: int) -> None:
        """Freeze a worker in the middle of something, and let it go on beside its heir."""

        async def work() -> None:
            await asyncio.sleep(before / 1000)
            await self.world.freeze(self._host(number))
            await asyncio.sleep(during / 1000)
            self._host(number).thaw()
            await asyncio.sleep(0.02)

        for each in range(HOSTS):
            self.start_worker(each)
        self.schedule(task, program, None)
        self._do(f"overtake {number} {before} {during}", work)

    # -- connections and time -----------------------------------------------------------------

    @rule(number=hosts, operation=st.sampled_from(Faults.OF_WORKERS), plan=faults)
    def disturb_worker(self, number: int, operation: str, plan: list[int]) -> None:
        async def work() -> None:
            self._host(number).disturb(operation, plan)

        self._do(f"disturb {number} {operation} {plan}", work)

    @rule(operation=st.sampled_from(Faults.OF_CLIENTS), plan=faults)
    def disturb_client(self, operation: str, plan: list[int]) -> None:
        async def work() -> None:
            self.world.faults.plan(operation, plan)

        self._do(f"disturb the client's {operation} {plan}", work)

    @rule()
    def cut_connections(self) -> None:
        async def work() -> None:
            for host in self.world.hosts:
                host.unsettle()
            # Locks are gone with their sessions: workers may be taken for dead.
            self.world.model.deaths += HOSTS
            await cut_connections(self.world.kind, self.world.url)

        self._do("cut connections", work)

    @rule(duration=st.sampled_from(["10ms", "10m", "2h", "4h"]))
    def pass_time(self, duration: str) -> None:
        self._do(f"pass {duration}", lambda: self.world.pass_time(duration))

    @rule(milliseconds=st.sampled_from([0, 1, 5, 20, 50]))
    def pause(self, milliseconds: int) -> None:
        self._do(f"pause {milliseconds} ms", lambda: asyncio.sleep(milliseconds / 1000))


ALL_CHECKS_SLEEP = list(HealthCheck)
SHORT = 6.0
"""Seconds for each database in `make test`."""


def play(database: Database, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> World:
    """Run the machine until time is up."""
    # A claim whose answer was lost is given back after that; the paces of the user's default
    # settings would make every such example wait.
    monkeypatch.setattr(strays, "STRAY", 1.0)
    monkeypatch.setattr(worker_module, "RECONCILE", 0.2)
    allowed = budget.seconds if budget.long else SHORT
    with asyncio.Runner() as runner:
        world = World(database, runner, time.monotonic() + allowed)
        machine = type("Machine", (Machine,), {"world": world})
        how = settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=ALL_CHECKS_SLEEP,
            phases=(Phase.generate, Phase.shrink) if budget.long else (Phase.generate,),
        )
        try:
            while not world.over:
                number = budget.chance.getrandbits(64)
                run_state_machine_as_test(seed(number)(machine), settings=how)
        finally:
            world.run(world.close())
    return world


def test_the_guarantees_hold_whatever_happens(
    database: Database, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No random history of operations and faults breaks a promise of the design's section 4."""
    world = play(database, budget, monkeypatch)
    assert world.examples > 1
