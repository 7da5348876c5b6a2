"""Requests that share a statement: in their order, each with its own answer, and none at the cost of another."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from holdfast_core.errors import StoreUnavailable
from holdfast_core.services.batches import Batches

pytestmark = pytest.mark.anyio


class Counting:
    """Answers each number with its double, statement by statement, each of which takes until it is let go."""

    def __init__(self, *, most: int = 64, free: bool = False, bad: int | None = None) -> None:
        self.batches: Batches[str, int, int] = Batches(self.alone, self.together, most=most)
        self.statements: list[list[int]] = []
        self.away = False
        self._bad = bad
        self._free = free
        self._gates: list[anyio.Event] = []

    async def alone(self, asked: int) -> int:
        await self._run([asked])
        return asked * 2

    async def together(self, asked: Sequence[int]) -> list[int | None]:
        await self._run(list(asked))
        return [one * 2 for one in asked]

    async def _run(self, asked: list[int]) -> None:
        self.statements.append(asked)
        if self._free:
            await checkpoint()
        else:
            self._gates.append(anyio.Event())
            await self._gates[-1].wait()
        if self.away:
            raise StoreUnavailable("away")
        if self._bad in asked:
            raise ValueError("bad")

    def let_all_go(self) -> None:
        """End what is under way and what comes."""
        self._free = True
        for gate in self._gates:
            gate.set()

    async def let_go(self) -> None:
        """End the oldest statement that is under way, once there is one."""
        with anyio.fail_after(5):
            while not self._gates:
                await checkpoint()
        self._gates.pop(0).set()
        for _ in range(5):
            await checkpoint()


class Callers:
    """Who asks, and what each was told: the answer, or the error."""

    def __init__(self, counting: Counting, tasks: anyio.abc.TaskGroup) -> None:
        self.told: dict[int, int | Exception] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}
        self._counting = counting
        self._tasks = tasks

    async def come(self, *numbers: int, kind: str = "k") -> None:
        for number in numbers:
            self.scopes[number] = anyio.CancelScope()
            self._tasks.start_soon(self._ask, number, kind)
            for _ in range(3):  # to ask, to be called up, and to be sent
                await checkpoint()

    async def _ask(self, number: int, kind: str) -> None:
        with self.scopes[number]:
            try:
                told = await self._counting.batches.ask(kind, number)
                await checkpoint()
                self.told[number] = told
            except (StoreUnavailable, ValueError) as error:
                self.told[number] = error


@asynccontextmanager
async def bounded(counting: Counting) -> AsyncGenerator[anyio.abc.TaskGroup]:
    """Tasks that end in time, or are ended; a failure does not wait for statements that nobody lets go."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except BaseException:
                counting.let_all_go()
                raise


async def test_a_caller_alone_goes_out_at_once_and_alone() -> None:
    counting = Counting(free=True)
    assert [await counting.batches.ask("k", number) for number in range(3)] == [0, 2, 4]
    assert counting.statements == [[0], [1], [2]]
    assert counting.batches.waiting("k") is None


async def test_who_comes_while_one_is_under_way_goes_out_together_in_the_order_of_coming() -> None:
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1, 5, 3, 4)
        assert counting.statements == [[1]]
        assert counting.batches.waiting("k") == 3
        await counting.let_go()
        assert callers.told == {1: 2}
        await callers.come(2)
        assert counting.statements == [[1], [5, 3, 4]]
        await counting.let_go()
        assert counting.statements == [[1], [5, 3, 4], [2]], "who is alone in line goes alone"
        await counting.let_go()
    assert callers.told == {1: 2, 5: 10, 3: 6, 4: 8, 2: 4}
    assert counting.batches.waiting("k") is None


async def test_a_line_that_is_too_long_for_one_statement_goes_out_in_its_order() -> None:
    counting = Counting(most=3)
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(*range(8))
        for _ in range(4):
            await counting.let_go()
    assert counting.statements == [[0], [1, 2, 3], [4, 5, 6], [7]]


async def test_nobody_starves_whoever_comes_again_at_once() -> None:
    counting = Counting(most=3, free=True)
    turns = Counter[int]()
    async with bounded(counting) as tasks:

        async def again_and_again(number: int) -> None:
            while sum(turns.values()) < 500:
                assert await counting.batches.ask("k", number) == number * 2
                turns[number] += 1

        for number in range(10):
            tasks.start_soon(again_and_again, number)
    assert max(turns.values()) - min(turns.values()) <= 2, turns


async def test_kinds_do_not_wait_for_each_other() -> None:
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1)
        await callers.come(2, kind="other")
        assert counting.statements == [[1], [2]]
        await counting.let_go()
        await counting.let_go()


async def test_who_is_cancelled_in_line_leaves_it_and_was_never_asked() -> None:
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1, 2, 3, 4)
        callers.scopes[2].cancel()
        callers.scopes[4].cancel()
        await checkpoint()
        assert counting.batches.waiting("k") == 1
        await counting.let_go()
        await counting.let_go()
    assert counting.statements == [[1], [3]]
    assert callers.told == {1: 2, 3: 6}


@pytest.mark.parametrize("leaving", [2, 3])
async def test_who_is_cancelled_while_the_statement_is_under_way_does_not_cut_it(leaving: int) -> None:
    """Also not where it is the one who sent it (2, the first of the line)."""
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1, 2, 3, 4)
        await counting.let_go()
        assert counting.statements == [[1], [2, 3, 4]]
        callers.scopes[leaving].cancel()
        await checkpoint()
        assert not callers.scopes[leaving].cancelled_caught, "what was written for it is not known yet"
        await counting.let_go()
    assert callers.scopes[leaving].cancelled_caught
    assert sorted(callers.told) == sorted({1, 2, 3, 4} - {leaving})


@pytest.mark.parametrize("leaving", [2, 3])
async def test_who_is_cancelled_just_as_it_is_called_up_leaves_nobody_behind(leaving: int) -> None:
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1, 2, 3, 4)
        counting._gates.pop(0).set()
        while counting.batches.waiting("k"):
            await checkpoint()
        callers.scopes[leaving].cancel()  # called up; whether it has woken is anybody's guess
        await counting.let_go()
    assert counting.statements == [[1], [2, 3, 4]]
    assert callers.scopes[leaving].cancelled_caught
    assert sorted(callers.told) == sorted({1, 2, 3, 4} - {leaving})
    assert counting.batches.waiting("k") is None


async def test_one_bad_request_fails_alone() -> None:
    counting = Counting(free=True, bad=3)
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        for number in range(1, 6):
            callers.scopes[number] = anyio.CancelScope()
            tasks.start_soon(callers._ask, number, "k")
    assert isinstance(callers.told.pop(3), ValueError)
    assert callers.told == {1: 2, 2: 4, 4: 8, 5: 10}
    assert [1, 2, 3, 4, 5] in counting.statements
    assert all([number] in counting.statements for number in range(1, 6))


async def test_a_store_that_is_away_is_told_to_all_and_not_asked_again_for_each() -> None:
    counting = Counting()
    async with bounded(counting) as tasks:
        callers = Callers(counting, tasks)
        await callers.come(1, 2, 3)
        await counting.let_go()
        counting.away = True
        await counting.let_go()
    assert callers.told.pop(1) == 2
    assert [str(error) for error in callers.told.values()] == ["away", "away"]
    assert counting.statements == [[1], [2, 3]]


async def test_who_cannot_be_told_does_not_keep_the_others_from_their_answers() -> None:
    counting = Counting(free=True)
    told: list[int] = []

    def fails() -> None:
        raise RuntimeError("gone")

    with anyio.fail_after(10), capture_logs() as logs:
        asked = [counting.batches.begin("k", number) for number in range(3)]
        for number, (asking, wake) in enumerate(zip(asked, (fails, None, None), strict=True)):
            asking.when_over(wake or partial(told.append, number))
        while len(told) < 2:
            await checkpoint()
    assert (told, [asking.told for asking in asked]) == ([1, 2], [0, 2, 4])
    assert [line["event"] for line in logs] == ["batch_answer_failed"]
